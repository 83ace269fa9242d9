"""Deviations by which columns are divided."""

from typing import Any

import numpy as np

__all__ = ["deviations"]

ROUNDING = 1e-12
"""Deviations below this share of a column's mean are rounding errors of a constant."""


def deviations(values: Any) -> Any:
    """Return the standard deviations of columns without their NaN, or 1 for constant columns."""
    found = np.nanstd(values, axis=0)
    varies = np.nanmax(values, axis=0) > np.nanmin(values, axis=0)  # exact, also in float32
    varies &= found > ROUNDING * np.abs(np.nanmean(values, axis=0))
    return np.where(varies, found, found.dtype.type(1))
