"""Reader of CoNLL-U, the format of the treebanks of Universal Dependencies."""

import io
from collections.abc import Sequence
from typing import Any

from seqjax import checks
from seqjax._files import FilePath
from seqjax.data._readers import lines_of, read_text

__all__ = ["read_conllu"]

FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns."""

GUARD = "\x1f"
"""Replaces a space after a space while conllu parses, since conllu reads two spaces as a tab."""


def read_conllu(path: FilePath, fields: Sequence[str]) -> list[dict[str, list[str]]]:
    r"""Read the words of a CoNLL-U file, the format of Universal Dependencies treebanks.

    The library conllu parses the file. Multiword tokens (1-2), empty nodes (1.1) and comments are
    left out; each word of a multiword token has its own line.

    Args:
      path: path of the file.
      fields: some of id, form, lemma, upos, xpos, feats, head, deprel, deps and misc.

    Returns:
      A dict for each sentence. Under each field is a list of one string per word, as written
      ("_" where a field is empty); [] if the file is empty.

    Raises:
      TypeError: as `read_text`; fields is one string.
      ImportError: the library conllu is not installed.
      OSError: as `read_text`.
      ValueError: as `read_lines`; no fields, an unknown one, or one twice; a word without ten
        columns parted by tabs; words of a sentence that are not numbered 1, 2, 3, ….

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "test.conllu")
      >>> rows = ["1-2 vámonos _", "1 vamos VERB", "2 nos PRON"]
      >>> rows = [(row.replace(" ", "\t_\t", 1) + " _" * 6).replace(" ", "\t") for row in rows]
      >>> _ = path.write_text("\n".join(["# text = vámonos", *rows]), encoding="utf-8")
      >>> read_conllu(path, ["lemma", "upos"])
      [{'lemma': ['vamos', 'nos'], 'upos': ['VERB', 'PRON']}]
    """
    if isinstance(fields, str):
        raise TypeError(f"fields: expected several, got one string, {fields!r}")
    fields = list(fields)
    if not fields or len(set(fields)) < len(fields):
        raise ValueError(f"fields: expected at least one, and each once, got {fields}")
    for field in fields:
        checks.require_name("fields", field, FIELDS)
    try:
        import conllu
        from conllu.exceptions import ParseException
        from conllu.parser import parse_id_value
    except ImportError:
        raise ImportError('read_conllu needs conllu: pip install "seqjax[text]"') from None
    lines = lines_of(read_text(path), path)
    if any(line.startswith("# global.columns") for line in lines):
        raise ValueError(f"path: expected CoNLL-U in {path}, got CoNLL-U Plus; use read_conll")
    read = 0  # rows, for the line in messages

    def parse(row: list[str], _: int) -> Any:
        """Return the number of a word, and its columns: conllu itself would turn "_" into None."""
        nonlocal read
        if len(row) != len(FIELDS):
            raise ParseException(f"{len(row)} columns, instead of {len(FIELDS)} parted by tabs")
        number = parse_id_value(row[0])
        if number is None:
            raise ParseException("a word without a number")
        read += 1
        return number, [column.replace(GUARD, " ") for column in row]

    text = "\n".join(line.rstrip(" \t") for line in lines)
    if GUARD in text:
        raise ValueError(f"path: expected no character U+001F in {path}, got one")
    guarded = io.StringIO(text.replace("  ", f" {GUARD}"))
    found, places = [], [FIELDS.index(field) for field in fields]
    try:
        for sentence in conllu.parse_incr(guarded, fields=["id"], field_parsers={"id": parse}):
            pairs = [token["id"] for token in sentence]
            words = [row for number, row in pairs if isinstance(number, int)]
            if [row[0] for row in words] != [str(n) for n in range(1, len(words) + 1)]:
                read -= 1  # back to the last word of the sentence
                raise ParseException("a sentence whose words are not numbered 1, 2, 3, …")
            if words:
                columns = zip(fields, places, strict=True)
                found.append({name: [row[place] for row in words] for name, place in columns})
    except (ParseException, ValueError) as error:  # ValueError: a number of thousands of digits
        said = str(error).removeprefix("Failed parsing field 'id': ")
        rows = [n for n, line in enumerate(lines, 1) if _is_row(line)]
        raise ValueError(
            f"path: expected CoNLL-U in {path}, line {rows[read]}, got {said}"
        ) from None
    return found


def _is_row(line: str) -> bool:
    """Return whether conllu parses a line as a word."""
    return bool(line.strip()) and not line.strip().startswith("#")
