r"""Reader of annotated words: one word per line, columns of annotations, blank lines between.

A file whose name ends in ".gz" is unpacked. Text is UTF-8, lines end in "\n" or "\r\n" (or all in
"\r"). Spaces and tabs at the end of a line are ignored; a line of nothing else is a blank line.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from seqjax import checks
from seqjax._files import FilePath
from seqjax.data._readers import lines_of, read_text

__all__ = ["read_conll"]


def read_conll(
    path: FilePath,
    columns: Mapping[str, int],
    *,
    separator: Literal["\t", " "] | None = None,
    comment: str | None = None,
) -> list[dict[str, list[str]]]:
    r"""Read the sentences of a file that has one word a line and its annotations in columns.

    Such files are CoNLL-2000, CoNLL-2003 and WNUT; `read_conllu` reads CoNLL-U. A blank line ends a
    sentence. A line whose first column is -DOCSTART- also ends a sentence and is left out. Every
    other line is a word or a comment. The lines of a sentence have the same number of columns.

    Args:
      path: path of the file.
      columns: name -> number of the column, counted from 0: for CoNLL-2003
        `{"form": 0, "tag": 3}`.
      separator: the separator of the columns. "\t" is one tab. " " is any number of spaces and
        tabs. Other white space, such as a no-break space, belongs to the word. If None, it is "\t"
        for a file that has a tab in each line and " " for a file without tabs.
      comment: the beginning of comment lines, such as "#". Comments stand before the first word
        of a sentence; inside a sentence each line is a word. "" means that there are no comments.
        None means the same, but a line that begins with "#" and looks like a comment is an error.

    Returns:
      A dict for each sentence. Under each name is a list of one string per word, as written;
      [] if the file is empty.

    Raises:
      TypeError: as `read_text`; columns is not a mapping to integers, comment is not a string.
      OSError: as `read_text`.
      ValueError: as `read_lines`; no columns, a number below 0, an unknown separator; a line with
        fewer columns than asked for, or with more or fewer than the line before; and, if separator
        or comment is None, a file that can be read in two ways.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "train.txt")
      >>> _ = path.write_text("# id 1\nEU NNP B-ORG\nrejects VBZ O\n\n#nofilter NN O\n")
      >>> read_conll(path, {"form": 0, "tag": 2}, comment="# ")
      [{'form': ['EU', 'rejects'], 'tag': ['B-ORG', 'O']}, {'form': ['#nofilter'], 'tag': ['O']}]
    """
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns: expected a dict of name -> number, got {checks.brief(columns)}")
    if not columns:
        raise ValueError("columns: expected at least one, got none")
    for name, number in columns.items():
        checks.require_integer(f"columns[{name!r}]", number, least=0)
    if separator not in ("\t", " ", None):
        raise ValueError(f"separator: expected a tab, a space or None, got {separator!r}")
    if not isinstance(comment, (str, type(None))):
        raise TypeError(f"comment: expected a string or None, got {checks.brief(comment)}")
    blocks = _blocks(lines_of(read_text(path), path), comment)
    if separator is None:
        separator = _separator(blocks, path)
    usual = _usual_width(blocks, separator)
    found, numbered, first = [], [], None
    for block in blocks:
        rows = [_columns(line, separator) for _, line in block]
        lines = [number for number, _ in block]
        if comment is None:
            _check_comments(rows, lines, usual, path)
        first = first or (len(rows[0]), lines[0])
        _check_columns(rows, lines, columns, first, path)
        numbered += [(row[0], line) for row, line in zip(rows, lines, strict=True)]
        found.append({name: [row[column] for row in rows] for name, column in columns.items()})
    if 0 not in columns.values():
        _check_numbers(numbered, path)
    return found


Line: TypeAlias = tuple[int, str]


def _blocks(lines: Sequence[str], comment: str | None) -> list[list[Line]]:
    """Return the numbered lines of each sentence, without comments and lines -DOCSTART-."""
    blocks: list[list[Line]] = []
    inside = False
    for number, line in enumerate(lines, start=1):
        if not line.strip(" \t") or _DOCUMENT.match(line):
            inside = False
        elif inside or not comment or not line.startswith(comment):
            if not inside:
                blocks.append([])
            blocks[-1].append((number, line))
            inside = True
    return blocks


def _separator(blocks: Sequence[Sequence[Line]], path: FilePath) -> Literal["\t", " "]:
    """Return a tab if all lines have one, a space if none has one, else raise an error."""
    lines = [line for block in blocks for line in block]
    lines = [line for line in lines if not line[1].startswith("#")] or lines
    tabs = ["\t" in line.strip(" \t") for _, line in lines]
    if len(set(tabs)) == 2:
        number, _ = lines[tabs.index(not tabs[0])]
        has, have = ("a", "no") if tabs[0] is False else ("no", "a")
        raise ValueError(
            f"separator: {path} is ambiguous: line {number} has {has} tab between words, and the "
            f'lines before have {have} tab there; pass separator="\\t" or separator=" "'
        )
    return "\t" if True in tabs else " "


def _columns(line: str, separator: str) -> list[str]:
    if separator == "\t":
        return line.rstrip(" ").split("\t")
    return [column for column in line.replace("\t", " ").split(" ") if column]


def _usual_width(blocks: Sequence[Sequence[Line]], separator: str) -> int | None:
    """Return the number of columns of the first line that is surely a word."""
    words = (line for block in blocks for _, line in block if not line.startswith("#"))
    return next((len(_columns(line, separator)) for line in words), None)


def _check_comments(
    rows: Sequence[Sequence[str]], lines: Sequence[int], usual: int | None, path: FilePath
) -> None:
    """Raise if the first lines of a sentence begin with "#" and look like comments.

    A word has as many columns as the other words, and more than "#" in the first one.
    """
    width = usual if usual and rows[-1][0].startswith("#") else len(rows[-1])
    for row, line in zip(rows, lines, strict=True):
        if not row[0].startswith("#"):
            return
        if row[0] == "#" or row[0].startswith("# ") or len(row) != width:
            raise ValueError(
                f'comment: {path} is ambiguous: line {line} begins with "#"; pass comment="#" if '
                'it is a comment, comment="" if it is a word'
            )


def _check_columns(
    rows: Sequence[Sequence[str]],
    lines: Sequence[int],
    columns: Mapping[str, int],
    first: tuple[int, int],
    path: FilePath,
) -> None:
    """Raise on a row with too few columns, or not as many as the first word, (width, line)."""
    name, least = max(columns.items(), key=lambda column: column[1])
    for row, line in zip(rows, lines, strict=True):
        if len(row) <= least:
            raise ValueError(
                f"path: expected at least {least + 1} columns in {path}, line {line}, for "
                f"{name!r}, got {len(row)}"
            )
        if len(row) != first[0]:
            raise ValueError(
                f"path: expected {first[0]} columns in {path}, line {line}, as in line "
                f"{first[1]}, got {len(row)}; separator says what parts columns"
            )


def _check_numbers(numbered: Sequence[tuple[str, int]], path: FilePath) -> None:
    """Raise if the first columns are the numbers by which CoNLL-U tells words from other lines."""
    if all(_NUMBER.fullmatch(first) for first, _ in numbered):
        for first, line in numbered:
            if not first.isdigit():
                raise ValueError(
                    f"path: expected words in {path}, got {first} in line {line}, a multiword "
                    "token or an empty node of CoNLL-U; use read_conllu"
                )


_DOCUMENT = re.compile(r"-DOCSTART-(?=[ \t]|$)")
_NUMBER = re.compile(r"\d+([-.]\d+)?", re.ASCII)  # what CoNLL-U numbers its lines by
