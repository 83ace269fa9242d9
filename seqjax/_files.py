"""Checks of paths, and atomic replacement of files."""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from seqjax import checks

__all__ = ["FilePath", "local_file", "local_path", "new_file", "new_folder", "replacing"]

FilePath: TypeAlias = str | os.PathLike[str]


def local_path(name: str, path: Any) -> Path:
    """Return a path of this machine's file system, with `~` expanded.

    Every public function that takes a path first calls this function, or one of `local_file`,
    `new_file` and `new_folder`, which call `local_path`.

    Args:
      name: the name of the argument for the error message.
      path: a string or an `os.PathLike` whose path is a string.

    Raises:
      TypeError: `path` is not a path.
      ValueError: the path is empty, has a NUL character, is a URL such as "gs://bucket/run", or is
        in the home of a user who does not exist on this machine, such as "~nobody/run".

    Example:
      >>> local_path("folder", "~/runs") == Path.home() / "runs"
      True
      >>> local_path("folder", "gs://bucket/run")
      Traceback (most recent call last):
      ValueError: folder: expected a path on this machine, got the URL 'gs://bucket/run'; ...
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a path, got {checks.brief(path)}")
    # `pathlib.Path("gs://bucket")` is "gs:/bucket", so one slash counts as well.
    if _URL.match(text):
        raise ValueError(
            f"{name}: expected a path on this machine, got the URL {text!r}; copy the files here "
            "first, or mount the store as a folder"
        )
    if not text or "\0" in text:
        raise ValueError(f"{name}: expected a path, got {text!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{name}: expected a path, got {text!r}, and this machine has no such user; use an "
            "absolute path for a file whose name begins with '~'"
        ) from None


def local_file(name: str, path: Any) -> Path:
    """Return the path of a file to read, or raise if the path is a folder.

    Args:
      name: the name of the argument for the error message.
      path: the path, as for `local_path`.

    Raises:
      TypeError, ValueError: the path is not valid for `local_path`, or is a folder.

    Example:
      >>> local_file("path", "/")
      Traceback (most recent call last):
      ValueError: path: expected a file, got the folder '/'
    """
    found = local_path(name, path)
    if os.path.isdir(found):
        raise ValueError(f"{name}: expected a file, got the folder {os.fspath(found)!r}")
    return found


def new_file(name: str, path: Any) -> Path:
    """Return the path of a file to write, which may already exist.

    Args:
      name: the name of the argument for the error message.
      path: the path, as for `local_path`.

    Raises:
      TypeError, ValueError: the path is not valid for `local_path`, is a folder or a device, or has
        a parent that is a file.

    Example:
      >>> new_file("path", "/")
      Traceback (most recent call last):
      ValueError: path: expected a file or a new path, got a folder, '/'
    """
    found = local_path(name, path)
    if os.path.exists(found) and not os.path.isfile(found):
        kind = "a folder" if os.path.isdir(found) else "a special file"
        raise ValueError(f"{name}: expected a file or a new path, got {kind}, {os.fspath(found)!r}")
    _require_folders(name, found.parent)
    return found


def new_folder(name: str, path: Any) -> Path:
    """Return the path of a folder to write to, which may already exist, without creating it.

    Args:
      name: the name of the argument for the error message.
      path: the path, as for `local_path`.

    Raises:
      TypeError, ValueError: the path is not valid for `local_path`, is a file, or has a parent that
        is a file.

    Example:
      >>> new_folder("folder", __file__)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: folder: expected a folder, got the file '..._files.py'
    """
    found = local_path(name, path)
    _require_folders(name, found)
    return found


def _require_folders(name: str, folder: Path) -> None:
    """Raise an error if the path of a folder, or its nearest existing parent, is a file."""
    for place in (folder, *folder.parents):
        if os.path.isdir(place):
            return
        if os.path.exists(place):
            raise ValueError(f"{name}: expected a folder, got the file {os.fspath(place)!r}")


# At least two letters: "C:/data" is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@contextlib.contextmanager
def replacing(path: FilePath) -> Iterator[Path]:
    """Yield the path of a new file, which replaces the file at `path` when the block ends.

    The new file is in the same folder under a unique name, so that several writers of the same path
    do not interfere. After an error the new file is removed. If `path` is a link, its target is
    replaced.

    Args:
      path: the path of the file to replace, or to create if it does not exist.

    Raises:
      TypeError, ValueError: see `new_file`.
      FileNotFoundError: the folder of the file does not exist.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "greeting.txt"
      >>> with replacing(path) as partial:
      ...     _ = partial.write_text("hello")
      ...     path.exists()
      False
      >>> path.read_text()
      'hello'
    """
    path = new_file("path", path)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: expected a folder {os.fspath(path.parent)!r}, got none")
    # Keep the suffix, since writers may choose the format by it.
    partial = target.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
