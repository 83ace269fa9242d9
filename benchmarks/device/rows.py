"""Rows of the suite `device`."""

import dataclasses
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Row

__all__ = ["SUITE", "described", "identity", "measured", "reason"]

SUITE = "device"


def described(
    what: str, contestant: str, precision: str = "", *, cell: str = "none", variant: str = "none",
    shape: Sequence[int] = (1, 1, 1, 1),
) -> Row:  # fmt: skip
    """Return a row that says what is about to be measured."""
    return Row(
        suite=SUITE, cell=cell, variant=variant, shape=tuple(shape), what=what,
        contestant=contestant, precision=precision,
    )  # fmt: skip


def measured(row: Row, seconds: Sequence[float] = (), **fields: Any) -> Row:
    """Return the row with its samples, given in seconds, and what else is known."""
    return dataclasses.replace(row, samples_ms=tuple(1e3 * s for s in seconds), **fields)


def identity(row: Row) -> tuple[str, str, str, str]:
    """Return the fields that identify a row within its case."""
    return row.cell, row.contestant, row.what, row.precision


def reason(error: Exception) -> str:
    """Return an exception as the reason of a row, in one line."""
    text = str(error).strip().splitlines()
    if not text:  # an assertion says where it stands
        frames = traceback.extract_tb(error.__traceback__)
        text = [f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"] if frames else [""]
    return f"failed: {type(error).__name__}: {text[0][:300]}"
