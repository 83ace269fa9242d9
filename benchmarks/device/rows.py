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
    """Return a row that describes a measurement and has no results yet."""
    return Row(
        suite=SUITE, cell=cell, variant=variant, shape=tuple(shape), what=what,
        contestant=contestant, precision=precision,
    )  # fmt: skip


def measured(row: Row, seconds: Sequence[float] = (), **fields: Any) -> Row:
    """Return a copy of the row with measured times, given in seconds, and with the given fields."""
    return dataclasses.replace(row, samples_ms=tuple(1e3 * s for s in seconds), **fields)


def identity(row: Row) -> tuple[str, str, str, str]:
    """Return the fields that identify a row within its case."""
    return row.cell, row.contestant, row.what, row.precision


def reason(error: Exception) -> str:
    """Return a line that describes an exception. It explains why a measurement has no times."""
    text = str(error).strip().splitlines()
    if not text:  # the message is empty: give the line of the assertion
        frames = traceback.extract_tb(error.__traceback__)
        text = [f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"] if frames else [""]
    return f"failed: {type(error).__name__}: {text[0][:300]}"
