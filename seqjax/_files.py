"""Paths as users write them, and the one way this package writes a file: whole or not at all."""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from seqjax import checks

__all__ = ["FilePath", "local_path", "replacing"]

FilePath: TypeAlias = str | os.PathLike[str]


def local_path(name: str, path: Any) -> Path:
    """Return a path of this machine's file system, with `~` expanded.

    Every public function that takes a path calls this first.

    Args:
      name: the argument's name, for the message.
      path: a string or an `os.PathLike` whose path is a string.

    Raises:
      TypeError: not a path.
      ValueError: an empty path, a path with a NUL character, or a URL such as "gs://bucket/run".

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
    return Path(text).expanduser()


# At least two letters: "C:/data" is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@contextlib.contextmanager
def replacing(path: FilePath) -> Iterator[Path]:
    """The path of a file to write, which takes the place of another at the end of the block.

    It lies in the same folder, under a name of its own, so that writers of one path do not meet;
    after an error it is removed. Links are followed: what they lead to is replaced.

    Args:
      path: of the file to replace, or of none yet.

    Raises:
      ValueError: neither a regular file nor nothing is there.

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
    path = local_path("path", path)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "a device or the like"
        raise ValueError(f"path: expected a file or nothing yet, got {kind}, {os.fspath(path)!r}")
    # The suffix stays, by which writers may choose a format.
    partial = target.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
