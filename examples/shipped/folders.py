"""Find the one file of a split in a folder."""

from collections.abc import Sequence
from pathlib import Path

from seqjax.data._files import is_system_file

__all__ = ["matching", "only"]


def matching(folder: Path, *patterns: str) -> list[Path]:
    """Return the files that match a pattern, sorted, without those of editors and systems."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if not is_system_file(path.name))


def only(files: Sequence[Path], expected: str, folder: Path) -> Path:
    """Return the only file, or raise ValueError if there are none or several."""
    if len(files) != 1:
        got = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"expected one {expected} in {folder}, got {got}")
    return files[0]
