"""Copy the plots of `make examples` from out/ to docs/images/examples, in a smaller size.

Call it as `.venv/bin/python docs/.site/plots.py [OUT]`.
"""

import sys
from pathlib import Path

from PIL import Image

PLOTS = (
    "activity/confusion", "addition/learning_curve", "anomaly/detections", "caption/attention",
    "forecast/forecasts", "language_model/surprise", "memory_tasks/loss", "music/piano_rolls",
    "next_frame/films", "policy/success", "pronounce/attention", "sentiment/prefixes",
    "speaker/confusion", "speech/recognised", "tagging/confusion",
    "vanishing_gradient/gradient_flow",
)  # fmt: skip
WIDTH = 1000


def main(out: Path) -> None:
    """Write one picture for each example."""
    folder = Path(__file__).resolve().parents[1] / "images" / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PLOTS:
        image = Image.open(out / f"{name}.png").convert("RGB")
        image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
        path = folder / f"{name.split('/')[0]}.png"
        image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.name}: {image.width} x {image.height}, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
