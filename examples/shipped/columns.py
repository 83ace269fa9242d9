"""Read the columns of a table for a script, whose user cannot pass arguments to the reader."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqjax.data import read_csv

__all__ = ["read"]

# The advice at the end of a message of `read_csv`: arguments that a script does not pass on.
ADVICE = re.compile(r"; (?:pass|do sep=|gaps=|encoding=|if quotes are) ?.*$", re.DOTALL)


def read(
    path: Path, columns: Sequence[str] | None = None, *, gap_hint: str = "", **options: Any
) -> dict[str, np.ndarray]:
    """Return the columns of a table as `seqjax.data.read_csv` does.

    The message of an error has no advice about arguments of `read_csv`. If a value is missing,
    `gap_hint` is added.
    """
    try:
        return read_csv(path, columns, **options)
    except ValueError as error:
        message = str(error).removeprefix("path: ")
        hint = f"; {gap_hint}" if gap_hint and "; gaps=" in message else ""
        raise ValueError(ADVICE.sub("", message) + hint) from None
