"""The notebooks show the figures they draw, and convert; tests/test_docs.py runs their code."""

import ast
import re
from pathlib import Path

import pytest

from tests.test_docs import blocks

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted((DOCS / "notebooks").glob("*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def figures(page):
    """Return the names of the variables `figure_...` that a page assigns."""
    found = set()
    for _, code in blocks(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found |= set(re.findall(r"^figure_(\w+)$", node.id))
    return found


def test_there_are_three():
    assert [page.stem for page in PAGES] == [
        "first_steps",
        "from_pytorch_to_deployment",
        "inside_a_network",
    ]


@each_page
def test_a_page_shows_each_figure_that_it_draws(page):
    shown = re.findall(r"!\[[^\]]+\]\(\.\./images/notebooks/(\S+)\.png\)", page.read_text())
    assert figures(page) and {f"{page.stem}_{name}" for name in figures(page)} == set(shown)
    for name in shown:
        size = (DOCS / "images" / "notebooks" / f"{name}.png").stat().st_size
        assert size < 100_000, name


@each_page
def test_a_page_converts_to_a_notebook(page):
    jupytext = pytest.importorskip("jupytext")
    cells = jupytext.read(page).cells
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert code == [code.rstrip("\n") for _, code in blocks(page)]
