r"""Readers of text files: the whole text, its lines, or pairs of lines from two parallel files.

A file whose name ends in ".gz" is unpacked. Text is UTF-8. A byte order mark at the beginning of a
file is removed, and "\r\n" becomes "\n". If a text has no "\n", as in files of the classic Mac OS,
"\r" becomes "\n".
"""

from pathlib import Path

from seqjax._files import FilePath, local_path
from seqjax.data._files import decode, read_bytes

__all__ = ["read_lines", "read_parallel", "read_text"]


def read_text(path: FilePath) -> str:
    r"""Read the text of a file, which may be packed as .gz.

    A byte order mark is removed, and each line ends in "\n".

    Args:
      path: the path of the file.

    Returns:
      The text; "" if the file is empty.

    Raises:
      TypeError: path is not a string or `os.PathLike`.
      OSError: the file does not exist or cannot be read.
      ValueError: the text is not UTF-8 (the message has the position of the first wrong byte) or
        contains a NUL byte; the gzip data are damaged; or path is a folder.

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
    r"""Read the lines of a file, without their line ends.

    Only "\n" and "\r\n" end a line, not the other line separators of Unicode. Therefore line
    numbers agree with those in editors and in parallel files. Blank lines are kept.

    Args:
      path: the path of the file.

    Returns:
      The lines; [] if the file is empty.

    Raises:
      TypeError, OSError: as in `read_text`.
      ValueError: as in `read_text`; or a line contains a carriage return, which ends a line in some
        programs but not in others.

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
    r"""Read pairs of lines from two files, such as sentences and their translations.

    Args:
      source_path: the path of the file with the first line of each pair.
      target_path: the path of the file with the second line of each pair.

    Returns:
      A list with the pair (source, target) for each line; [] if both files are empty.

    Raises:
      TypeError, OSError: as in `read_lines`.
      ValueError: as in `read_lines`, or the files differ in their number of lines.

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
            "source_path, target_path: expected the same number of lines in both files, got "
            f"{len(sources)} in {source} and {len(targets)} in {target}"
        )
    return list(zip(sources, targets, strict=True))


def _named_lines(name: str, path: FilePath) -> tuple[Path, list[str]]:
    """Return the path and the lines of a file. Errors name the argument `name`."""
    found = local_path(name, path)
    try:
        return found, read_lines(found)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('path: ')}") from None


def lines_of(text: str, path: FilePath) -> list[str]:
    """Return the lines of a text without line ends, or raise if a line has a carriage return."""
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        raise ValueError(
            f"path: expected lines that end in \\n or \\r\\n in {path}, got a carriage return "
            f"inside line {line}; call read_text(path) and split the text yourself"
        )
    return text.removesuffix("\n").split("\n") if text else []
