"""The quickstarts learn, are short, and stand in the documentation as they are."""

import ast
import importlib
import io
import tokenize
from pathlib import Path

import pytest

from tests.test_docs import blocks

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "examples" / "quickstarts").glob("[a-z]*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def lines_of_code(text):
    """Return the number of lines that hold code: no blank ones, comments or docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    skipped = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            skipped |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    empty = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENDMARKER,
    }  # fmt: skip
    held = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            held |= set(range(token.start[0], token.end[0] + 1))
    return len(held - skipped)


def test_lines_of_code_are_counted():
    text = (
        '"""One.\n\nTwo."""\n\n# three\nx = """a\nb"""  # c\n\n\n'
        'def f():\n    """Four."""\n    return (\n        x\n    )\n'
    )
    assert lines_of_code(text) == 6


def test_there_are_four():
    assert [path.stem for path in FILES] == ["characters", "classify", "policy", "transliterate"]


@each_file
def test_a_quickstart_is_one_short_file(path):
    text = path.read_text()
    assert lines_of_code(text) <= 60
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    allowed = {"seqjax", "jax", "flax", "optax", "numpy", "datetime", "string", "typing"}
    assert "seqjax" in imported and imported <= allowed
    assert "Copy the whole file" in (ast.get_docstring(ast.parse(text)) or "")


@each_file
def test_the_page_shows_the_file(path):
    shown = dict(blocks(ROOT / "docs" / "quickstarts" / f"{path.stem}.md"))
    assert shown[f"examples/quickstarts/{path.name}"] == path.read_text()


def learned(name):
    """Return what the program's `main` returns."""
    return importlib.import_module(f"examples.quickstarts.{name}").main()


@pytest.mark.slow
def test_classify_names_waves_it_has_not_seen():
    assert learned("classify") > 0.95


@pytest.mark.slow
def test_characters_writes_verses():
    loss, verses = learned("characters")
    assert loss < 0.15
    assert sum(verse.startswith("This is the ") for verse in verses) >= 2


@pytest.mark.slow
def test_transliterate_writes_dates_it_has_not_seen():
    assert learned("transliterate") > 0.95


@pytest.mark.slow
def test_policy_learns_to_remember():
    before, after = learned("policy")
    assert before < 0.4  # one of four by guessing
    assert after > 0.9
