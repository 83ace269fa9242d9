"""Check the wording of docstrings, comments, messages and pages. Nothing is imported or run."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FRAGMENTS = ("What", "Who", "Whether", "How", "As", "Of")
"""Words that begin no docstring: one begins with a verb ("Return the ...") or with a noun."""
PHRASES = ("what is kept", "goes on", "is put back", "shipped")
"""Phrases that have a plainer word. Names of files such as `examples/shipped` are no phrases."""

FRAGMENT = re.compile(rf"\s*({'|'.join(FRAGMENTS)})\b")
GAP = r"[\s#]+"
"""The space between two words, which may be the end of a line of a comment."""
PHRASE = re.compile(
    "|".join(rf"(?<![\w./-]){phrase.replace(' ', GAP)}(?![\w/-]|\.\w)" for phrase in PHRASES)
    + rf"|,{GAP}about\.(?!\w)",  # a sentence that ends in ", about."
    re.IGNORECASE,
)
CODE = re.compile(r"(?s)^(```+|~~~+).*?^\1`*[ ]*$|(`+).+?\2|\]\([^)\s]*\)", re.MULTILINE)
"""On pages: programs, code in a line, and the targets of links."""


def fragments(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and first line of docstrings that begin with a word of `FRAGMENTS`.

    A string behind the assignment of a name is its docstring, too.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(text := _string(node.value), str):
            first = text.strip().partition("\n")[0]
            if FRAGMENT.match(first) and not re.match(r"[^.!]*\?", first):
                yield node.lineno, first


def phrases(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of the phrases in the strings and the comments of a program."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(text := _string(node), str):
            yield from _found(text, node.lineno)  # type: ignore[attr-defined]
    for line, text in _comments(source):
        yield from _found(text, line)


def phrases_of_page(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of the phrases on a page, outside of code."""
    yield from _found(CODE.sub(lambda code: re.sub(r"[^\n]", "`", code[0]), text), 1)


def _string(node: ast.AST) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _found(text: str, line: int) -> Iterator[tuple[int, str]]:
    for match in PHRASE.finditer(text):
        yield line + text.count("\n", 0, match.start()), " ".join(match[0].split())


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first line and the text of the comments; those of successive lines are one."""
    block: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] != first + len(block):
            yield first, "\n".join(block)
            block = []
        first = first if block else token.start[0]
        block.append(token.string)
    if block:
        yield first, "\n".join(block)


def programs() -> list[Path]:
    """Return the programs whose wording is checked."""
    folders = ("seqjax", "benchmarks", "examples")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def pages() -> list[Path]:
    """Return the pages. The changelog is none of them: it may quote old names and messages."""
    folders = (ROOT / "docs", ROOT / "examples", ROOT / "benchmarks")
    return sorted(
        [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
        + [path for folder in folders for path in folder.rglob("*.md")]
    )


def test_wording():
    offenders = []
    for path in programs():
        source = path.read_text(encoding="utf-8")
        offenders += [(path, *found) for check in (fragments, phrases) for found in check(source)]
    for path in pages():
        found = phrases_of_page(path.read_text(encoding="utf-8"))
        offenders += [(path, *one) for one in found]
    lines = [f"{path.relative_to(ROOT)}:{line}: {text}" for path, line, text in sorted(offenders)]
    if lines:
        pytest.fail(f"{len(lines)} texts to rewrite:\n" + "\n".join(lines), pytrace=False)


@pytest.mark.parametrize(
    "source",
    [
        '"""What a step returns."""',
        'def f():\n    """\n    Whether it fits."""',
        'LIMIT = 3\n"""How many."""',
        'class C:\n    """Of two arrays."""',
    ],
)
def test_a_fragment_is_found(source):
    assert len(list(fragments(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        '"""Return what a step returns. How it works: see below."""',
        '"""Assert that it fits."""',
        '"""Who is it? A recogniser of speakers."""',
        'x = "What a step returns."',
        "# What a step returns.",
    ],
)
def test_other_texts_are_no_fragments(source):
    assert not list(fragments(source))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("# It goes\n# on.", 1),
        ("x = 1\n# One.\n# Shipped data.", 3),
        ('"""One.\n\nThe state is put\nback."""', 3),
        ('raise ValueError(f"{x}: what is kept")', 1),
        ('"""The bytes of a step, about."""', 1),
    ],
)
def test_a_phrase_is_found(source, line):
    assert [found for found, _ in phrases(source)] == [line]


@pytest.mark.parametrize(
    "source",
    [
        "import examples.shipped",
        'x = "examples/shipped/texts.py"',
        "# about. Worshipped.",
        "goes, on",
    ],
)
def test_other_texts_are_no_phrases(source):
    assert not list(phrases(source))


def test_code_on_a_page_is_left_out():
    page = "One `shipped` [file](examples/shipped.md).\n\n```python\n# goes on\n```\n\nIt goes\non."
    assert list(phrases_of_page(page)) == [(7, "goes on")]
