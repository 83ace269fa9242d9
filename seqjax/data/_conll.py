r"""Reader of CoNLL files: a word and its annotations per line, a blank line between sentences.

A file whose name ends in ".gz" is unpacked. Text is UTF-8. Lines end in "\n" or "\r\n". In a file
without "\n", they end in "\r". Spaces at the end of a line are ignored. Tabs at the end are
ignored only if the separator is a space; if it is a tab, an empty column follows each of them. A
line that has only spaces and tabs counts as blank.
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
    r"""Read the sentences of a file with one word per line and annotations in columns.

    For example, this function reads the files of CoNLL-2000, CoNLL-2003 and WNUT. For CoNLL-U, use
    `read_conllu`. A blank line ends a sentence. A line whose first column is -DOCSTART- is left out
    and also ends a sentence. Every other line contains a word or is a comment. The lines of all
    words have the same number of columns.

    Args:
      path: the path of the file.
      columns: a dict from a name to the number of a column, counted from 0. For CoNLL-2003, use
        `{"form": 0, "tag": 3}`.
      separator: the separator of the columns. "\t" means one tab. " " stands for any number of
        spaces and tabs. Other white space, such as a no-break space, belongs to the word. By
        default, the separator is "\t" for a file that has a tab in each line, and " " for a file
        without tabs.
      comment: the characters with which a comment line begins, such as "#". Comments stand before
        the first word of a sentence; inside a sentence each line is a word. With `comment=""`,
        there are no comments. With `comment=None`, there are no comments either, but a line that
        begins with "#" and looks like a comment raises an error.

    Returns:
      A list with a dict for each sentence. The dict maps each name to a list with one string per
      word, as written in the file. If the file is empty, the list is empty.

    Raises:
      TypeError: as in `read_text`; `columns` is not a mapping to integers; or `comment` is not a
        string.
      OSError: as in `read_text`.
      ValueError: as in `read_lines`; `columns` is empty or has a number below 0; the separator is
        unknown; a line has too few columns, or more or fewer columns than the first word; a column
        in `columns` is empty; or `separator` or `comment` is None and the file is ambiguous.

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
    """Return the numbered lines of each sentence, without comments and -DOCSTART- lines."""
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
    """Return the usual number of columns: that of the first line that does not begin with "#"."""
    words = (line for block in blocks for _, line in block if not line.startswith("#"))
    return next((len(_columns(line, separator)) for line in words), None)


def _check_comments(
    rows: Sequence[Sequence[str]], lines: Sequence[int], usual: int | None, path: FilePath
) -> None:
    """Raise if the first lines of a sentence begin with "#" and look like comments.

    A line is not a comment if it has as many columns as the other words and its first column is
    longer than "#".
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
    """Raise if a row has too few columns, another number than the first word, or an empty column.

    Columns that are not read may be empty. `first` contains the number of columns and the line
    number of the first word.
    """
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
                f"{first[1]}, got {len(row)}; does separator fit the file?"
            )
        for key, column in columns.items():
            if not row[column].strip(" "):
                raise ValueError(
                    f"path: expected no empty column in {path}, line {line}, got column {column} "
                    f"({key!r}) empty; write a placeholder such as _ there"
                )


def _check_numbers(numbered: Sequence[tuple[str, int]], path: FilePath) -> None:
    """Raise if the file is CoNLL-U with lines that are not words.

    In CoNLL-U, the first column is the number of the word. A line whose number has the form 1-2 or
    1.1 is not a word.
    """
    if all(_NUMBER.fullmatch(first) for first, _ in numbered):
        for first, line in numbered:
            if not first.isdigit():
                raise ValueError(
                    f"path: expected words in {path}, got {first} in line {line}, a multiword "
                    "token or an empty node of CoNLL-U; read the file with read_conllu"
                )


_DOCUMENT = re.compile(r"-DOCSTART-(?=[ \t]|$)")
_NUMBER = re.compile(r"\d+([-.]\d+)?", re.ASCII)  # the first column of CoNLL-U
