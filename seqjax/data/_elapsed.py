"""The time between observations, computed from the times of the observations."""

from typing import Any

import numpy as np

from seqjax import checks

__all__ = ["elapsed"]

UNITS = ("W", "D", "h", "m", "s", "ms", "us", "ns")


def elapsed(times: Any, *, unit: str | float = 1.0) -> np.ndarray:
    """Return the time since the previous observation, the argument `elapsed` of layers.

        elapsed[..., 0] = 0
        elapsed[..., t] = (times[..., t] - times[..., t-1]) / unit

    The differences are computed in float64 (dates: as integers), since float32 cannot represent
    large times exactly: in float32, seconds since 1970 are multiples of 128 seconds.

    Args:
      times: the times of the observations of one sequence [T], or of several sequences of the same
        length [..., T], in increasing order. Equal times are allowed. The times are numbers or
        dates: an array, a list, or a column of pandas, also with a time zone.
      unit: the unit of the result. For dates, it is the name of a unit: "W" (weeks), "D", "h",
        "m" (minutes), "s", "ms", "us" or "ns". For numbers, it is a number by which differences are
        divided, such as 3600.0 for hours if the times are in seconds. Choose a unit in which
        typical results are near 1.

    Returns:
      float32 [..., T].

    Raises:
      TypeError: the times are neither numbers nor dates, or `unit` is not a number or, for dates,
        not a name.
      ValueError: a time is missing (NaN or NaT) or before the previous one, the times have no time
        axis, or the unit is unknown or not positive.

    Example:
      >>> elapsed([0.0, 10.0, 40.0], unit=20.0).tolist()
      [0.0, 0.5, 1.5]
      >>> dates = np.array(["2024-02-28T12", "2024-02-29T12", "2024-03-01T18"], "datetime64[h]")
      >>> elapsed(dates, unit="D").tolist()
      [0.0, 1.0, 1.25]
    """
    values = np.asarray(times)
    if values.dtype == object:  # dates of Python, or of pandas with a time zone
        try:
            values = np.asarray(times, "datetime64[ns]")
        except (TypeError, ValueError) as error:
            raise TypeError(f"times: expected numbers or dates ({error})") from None
    kind = values.dtype.kind
    if kind not in "iufM":
        hint = "; convert texts with pandas.to_datetime" if kind in "US" else ""
        raise TypeError(f"times: expected numbers or dates, got dtype {values.dtype}{hint}")
    if values.ndim == 0:
        raise ValueError("times: expected a time axis, [..., T], got a scalar")
    divisor = _divisor(unit, dates=kind == "M")
    missing = np.isnat(values) if kind == "M" else ~np.isfinite(values)
    if missing.any():
        raise ValueError(f"times: expected no missing times, got {values[missing][0]}")
    if kind == "f":
        values = values.astype(np.float64)
    if kind == "u":
        values = values.astype(np.int64)
    gaps: Any = np.diff(values, axis=-1, prepend=values[..., :1]) / divisor
    if (gaps < 0).any():
        index = tuple(int(n) for n in np.argwhere(gaps < 0)[0])
        before = (*index[:-1], index[-1] - 1)
        raise ValueError(
            f"times: expected times in increasing order, got {values[index]} after "
            f"{values[before]} at step {index[-1]}; sort the observations"
        )
    rounded: np.ndarray = gaps.astype(np.float32)
    return rounded


def _divisor(unit: str | float, *, dates: bool) -> Any:
    """Return the unit as a time span of NumPy or as a number, or raise if it is not valid."""
    if dates:
        if not isinstance(unit, str):
            raise TypeError(f'unit: expected a unit of time for dates, such as "h", got {unit!r}')
        name: Any = checks.require_name("unit", unit, UNITS)
        return np.timedelta64(1, name)
    if isinstance(unit, str):
        raise TypeError(f"unit: expected a number for times that are numbers, got {unit!r}")
    return checks.require_positive("unit", unit)
