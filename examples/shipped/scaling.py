"""Deviations by which columns are divided."""

from typing import Any

import numpy as np

__all__ = ["deviations"]

ROUNDING = 1e-12
"""Deviations below this share of a column's mean are rounding errors of a constant."""


def deviations(values: Any) -> Any:
    """Return the standard deviations of columns without their NaN, or 1 for constant columns."""
    found = np.nanstd(values, axis=0)
    return np.where(found > ROUNDING * np.abs(np.nanmean(values, axis=0)), found, 1.0)
