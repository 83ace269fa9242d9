r"""Readers of text, lines and parallel lines.

A file whose name ends in ".gz" is unpacked. Text is UTF-8; a byte order mark at its beginning is
dropped, and "\r\n" becomes "\n". In a text without "\n", as the classic Mac OS wrote it, "\r"
becomes "\n".
"""

from pathlib import Path

from seqjax._files import FilePath, local_path
from seqjax.data._files import decode, read_bytes

__all__ = ["read_lines", "read_parallel", "read_text"]


def read_text(path: FilePath) -> str:
    r"""Read the text of a file.

    Args:
      path: path of the file.

    Returns:
      The text; "" if the file is empty.

    Raises:
      TypeError: not a path.
      OSError: no such file, or one that cannot be read.
      ValueError: not UTF-8, with the place of the first wrong byte; a NUL byte; damaged gzip data;
        a folder.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "rhyme.txt")
      >>> _ = path.write_bytes("\ufeffEins, zwei,\r\nPolizei\n".encode())
      >>> read_text(path)
      'Eins, zwei,\nPolizei\n'
    """
    return decode(read_bytes(path), path)


def read_lines(path: FilePath) -> list[str]:
    r"""Read the lines of a file, without their ends.

    Only "\n" and "\r\n" end a line, so that line n here is line n in an editor and in a parallel
    file, whatever other separators Unicode has. Blank lines are kept.

    Args:
      path: path of the file.

    Returns:
      The lines; [] if the file is empty.

    Raises:
      TypeError, OSError: as `read_text`.
      ValueError: as `read_text`; a carriage return inside a line, which some programs take for the
        end of a line and some do not.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "lines.txt")
      >>> _ = path.write_text("one\n\nthree")
      >>> read_lines(path)
      ['one', '', 'three']
    """
    return lines_of(read_text(path), path)


def read_parallel(source_path: FilePath, target_path: FilePath) -> list[tuple[str, str]]:
    r"""Read pairs of lines of two files, such as sentences and their translations.

    Args:
      source_path: path of the file whose lines come first in a pair.
      target_path: path of the other file.

    Returns:
      (source, target) for each line; [] if both files are empty.

    Raises:
      TypeError, OSError: as `read_lines`.
      ValueError: as `read_lines`; files that differ in their number of lines.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> de, en = Path(folder.name, "train.de"), Path(folder.name, "train.en")
      >>> _ = de.write_text("ja\nnein\n"), en.write_text("yes\nno\n")
      >>> read_parallel(de, en)
      [('ja', 'yes'), ('nein', 'no')]
    """
    source, sources = _named_lines("source_path", source_path)
    target, targets = _named_lines("target_path", target_path)
    if len(sources) != len(targets):
        raise ValueError(
            f"source_path, target_path: expected as many lines in both files, got {len(sources)} "
            f"in {source} and {len(targets)} in {target}"
        )
    return list(zip(sources, targets, strict=True))


def _named_lines(name: str, path: FilePath) -> tuple[Path, list[str]]:
    """Return the path and the lines of a file; errors name the argument."""
    found = local_path(name, path)
    try:
        return found, read_lines(found)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('path: ')}") from None


def lines_of(text: str, path: FilePath) -> list[str]:
    """Return the lines of a text, without their ends; a carriage return inside one is an error."""
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        raise ValueError(
            f"path: expected lines that end in \\n or \\r\\n in {path}, got a carriage return "
            f"inside line {line}; split read_text(path) as it is meant"
        )
    return text.removesuffix("\n").split("\n") if text else []
