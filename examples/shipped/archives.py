"""Errors of archives, in one line and with the path."""

import contextlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["reading"]


@contextlib.contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Run a `with` block that reads an archive; raise ValueError if it is damaged or is none."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(f"expected {expected}, got {path}: {reason}") from None
