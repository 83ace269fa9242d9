"""Reader of CoNLL-U files, the format of the Universal Dependencies treebanks."""

import io
from collections.abc import Sequence
from typing import Any

from seqjax import checks
from seqjax._files import FilePath
from seqjax.data._readers import lines_of, read_text

__all__ = ["read_conllu"]

FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The names of the columns, in order."""

GUARD = "\x1f"
"""The character that replaces the second of two spaces, since conllu splits at two spaces."""


def read_conllu(path: FilePath, fields: Sequence[str]) -> list[dict[str, list[str]]]:
    r"""Read the words of a CoNLL-U file, the format of Universal Dependencies treebanks.

    The library conllu parses the file. Multiword tokens (1-2), empty nodes (1.1) and comments are
    left out; the words of a multiword token have lines of their own and are kept.

    Args:
      path: the path of the file.
      fields: the names of the columns to read, out of id, form, lemma, upos, xpos, feats, head,
        deprel, deps and misc.

    Returns:
      A list with a dict for each sentence. The dict maps each field to a list with one string per
      word, as written in the file ("_" if the field is empty). If the file is empty, the list is
      empty.

    Raises:
      TypeError: as in `read_text`, or `fields` is one string.
      ImportError: the library conllu is not installed.
      OSError: as in `read_text`.
      ValueError: as in `read_lines`; `fields` is empty or has an unknown name or a name twice; a
        word does not have ten columns separated by tabs, or one of `fields` is empty; or the words
        of a sentence are not numbered 1, 2, 3, ….

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
        raise TypeError(f"fields: expected a list of names, got the string {fields!r}")
    fields = list(fields)
    if not fields or len(set(fields)) < len(fields):
        raise ValueError(f"fields: expected at least one name and no name twice, got {fields}")
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
        raise ValueError(
            f"path: expected CoNLL-U in {path}, got CoNLL-U Plus; read the file with read_conll"
        )
    places = [FIELDS.index(field) for field in fields]
    read = 0  # the number of rows read, for the line in error messages

    def parse(row: list[str], _: int) -> Any:
        """Return the number and the columns of a word. Keep "_", which conllu changes to None."""
        nonlocal read
        if len(row) != len(FIELDS):
            raise ParseException(f"{len(row)} columns instead of {len(FIELDS)} separated by tabs")
        number = parse_id_value(row[0])
        if number is None:
            raise ParseException("a word without a number")
        empty = [field for field, place in zip(fields, places, strict=True) if not row[place]]
        if isinstance(number, int) and empty:
            raise ParseException(f"an empty {empty[0]}")
        read += 1
        return number, [column.replace(GUARD, " ") for column in row]

    text = "\n".join(line.rstrip(" \t") for line in lines)
    if GUARD in text:
        raise ValueError(f"path: expected text without the character U+001F in {path}, got one")
    guarded = io.StringIO(text.replace("  ", f" {GUARD}"))
    found = []
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
