"""The pages do what they say: their code runs, their links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PEERS = re.compile(r"^import (torch|keras)\b", re.M)
FENCE = re.compile(r"^```python(?: title=\"(?P<title>[^\"]*)\")?\n(?P<code>.*?)^```$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str | None, str]]:
    """The Python blocks of a page as (title, code)."""
    return [(match["title"], match["code"]) for match in FENCE.finditer(page.read_text())]


def is_part_of_file(title: str | None) -> bool:
    """Whether a block's title names a file that it is, or belongs into."""
    return title is not None and title.split(",")[0].endswith(".py")


each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


@pytest.mark.slow
@each_page
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for peer in PEERS.findall(page.read_text()):
        pytest.importorskip(peer, reason=f"the page compares with {peer}: see `make peers`")
    names: dict[str, object] = {}
    for title, code in blocks(page):
        if not is_part_of_file(title):
            exec(compile(code, f"{page.name}", "exec"), names)
    assert page.read_text().startswith("# ")


@each_page
def test_links_lead_somewhere(page):
    # Pages that the site makes itself, of docstrings, are checked where it is built: `make docs`.
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:", "api/", "../api/")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_run_modules_that_exist():
    texts = [*PAGES, ROOT / "Makefile", ROOT / "examples/README.md"]
    texts += sorted((ROOT / "examples").rglob("*.py"))
    named = set()
    for path in texts:
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"-m (examples(?:\.\w+)+)", text))
        assert not re.search(r"python3? (examples|benchmarks)/", text), f"{path.name}: use -m"
    assert {"examples.pronounce", "examples.serve", "examples.serve.load"} <= named
    for name in named:
        program = ROOT / name.replace(".", "/")
        assert (program / "__main__.py").exists() or program.with_suffix(".py").exists(), name


def _copy_of_the_repository(folder: Path) -> Path:
    for part in ("seqjax", "tests", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


def _pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "JAX_COMPILATION_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_cell_is_added_as_the_page_says(tmp_path):
    parts = dict(blocks(ROOT / "docs" / "adding_a_cell.md"))
    root = _copy_of_the_repository(tmp_path)
    (root / "seqjax/cells/_light_gru.py").write_text(parts["seqjax/cells/_light_gru.py"])
    registry = root / "seqjax/cells/__init__.py"
    text = registry.read_text()
    text = text.replace(
        "\n__all__ = [", "\n" + parts["seqjax/cells/__init__.py, import"] + "\n__all__ = [", 1
    )
    line = "CELLS: dict[str, type[Cell[Any, Any]]] = {\n"
    assert line in text
    registry.write_text(text.replace(line, line + parts["seqjax/cells/__init__.py, in CELLS"]))

    # Without its twin the suite fails by itself.
    twins = ("tests/conformance/test_semantics.py", "-k", "numpy_twin")
    assert "light_gru" in _pytest(root, *twins).stdout
    assert _pytest(root, *twins).returncode == 1

    with (root / "tests/references.py").open("a") as references:
        references.write("\n\n" + parts["tests/references.py"])
    assert _pytest(root, *twins).returncode == 0
    ran = _pytest(root, "tests/conformance", "-k", "light_gru")
    assert ran.returncode == 0, ran.stdout[-3000:]
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None and int(passed[1]) >= 40
    doctest = _pytest(root, "seqjax/cells/_light_gru.py")
    assert "1 passed" in doctest.stdout


def test_the_cell_of_the_page_is_the_one_that_is_tested():
    parts = dict(blocks(ROOT / "docs" / "adding_a_cell.md"))
    tested = (ROOT / "tests" / "contract" / "slstm.py").read_text()
    assert parts["slstm"].strip() in tested
