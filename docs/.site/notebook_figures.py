"""Run the notebooks of docs/notebooks and save their figures: `make notebooks`.

Each variable of a page that begins with `figure_` is saved in docs/images/notebooks as
PAGE_NAME.png; the page shows it from there.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

DOCS = Path(__file__).resolve().parent.parent
CODE = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def main() -> None:
    """Run all pages and save what they draw."""
    matplotlib.use("Agg")
    images = DOCS / "images" / "notebooks"
    images.mkdir(parents=True, exist_ok=True)
    for page in sorted((DOCS / "notebooks").glob("*.md")):
        names: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for code in CODE.findall(page.read_text(encoding="utf-8")):
                exec(compile(code, page.name, "exec"), names)
            os.chdir(DOCS)
        for name, figure in names.items():
            if name.startswith("figure_"):
                path = images / f"{page.stem}_{name.removeprefix('figure_')}.png"
                figure.savefig(path, dpi=80, bbox_inches="tight")
                print(path.relative_to(DOCS.parent), path.stat().st_size)


if __name__ == "__main__":
    main()
