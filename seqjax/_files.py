"""The one way this package writes a file: whole or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
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
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "a device or the like"
        raise ValueError(f"path: expected a file or nothing yet, got {kind}, {os.fspath(path)!r}")
    # The suffix stays, by which writers may choose a format.
    partial = target.with_name(f".{uuid.uuid4().hex}.partial{Path(path).suffix}")
    try:
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
