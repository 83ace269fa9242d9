"""The time between observations, computed from the times of the observations."""

import datetime
import numbers
from fractions import Fraction
from typing import Any

import numpy as np

from seqjax import checks

__all__ = ["elapsed"]

UNITS = ("W", "D", "h", "m", "s", "ms", "us", "ns")
ATTOSECONDS = {
    "W": 604_800 * 10**18, "D": 86_400 * 10**18, "h": 3600 * 10**18, "m": 60 * 10**18,
    "s": 10**18, "ms": 10**15, "us": 10**12, "ns": 10**9, "ps": 10**6, "fs": 10**3, "as": 1,
}  # fmt: skip
"""The lengths of the units of `numpy.datetime64`, except for years and months."""


def elapsed(times: Any, *, unit: str | float = 1.0) -> np.ndarray:
    """Return the time since the previous observation, the argument `elapsed` of layers.

        elapsed[..., 0] = 0
        elapsed[..., t] = (times[..., t] - times[..., t-1]) / unit

    The differences of integers and dates are exact, and those of floats are computed in float64,
    since float32 cannot represent large times exactly: in float32, seconds since 1970 are multiples
    of 128 seconds.

    Args:
      times: the times of the observations of one sequence [T], or of several sequences of the same
        length [..., T], in increasing order. Equal times are allowed. The times are numbers or
        dates: an array, a list, or a column of pandas. Either all dates have a time zone, or none.
      unit: the unit of the result. For dates, it is the name of a unit: "W" (weeks), "D", "h",
        "m" (minutes), "s", "ms", "us" or "ns". For numbers, it is a number by which differences are
        divided, such as 3600.0 for hours if the times are in seconds. Choose a unit in which
        typical results are near 1.

    Returns:
      float32 [..., T].

    Raises:
      TypeError: the times are neither numbers nor dates, or `unit` is not a number or, for dates,
        not a name.
      ValueError: a time is missing (masked, NaN or NaT) or before the previous one; the times have
        no time axis, or the sequences differ in length; only some dates have a time zone; the unit
        is unknown or not positive; or float32 cannot hold a result.

    Example:
      >>> elapsed([0.0, 10.0, 40.0], unit=20.0).tolist()
      [0.0, 0.5, 1.5]
      >>> dates = np.array(["2024-02-28T12", "2024-02-29T12", "2024-03-01T18"], "datetime64[h]")
      >>> elapsed(dates, unit="D").tolist()
      [0.0, 1.0, 1.25]
    """
    if hasattr(times, "columns"):
        kind = type(times).__name__
        raise TypeError(f"times: expected numbers or dates, got a {kind}; pass one of its columns")
    absent = np.asarray(times.isna()) if hasattr(times, "isna") else np.zeros(0, bool)
    if absent.any():  # a column of pandas
        found = np.asarray(times, object)[absent][0]
        raise ValueError(
            f"times: expected no missing times, got {found}; leave out observations without a time"
        )
    checks.require_unmasked("times", times)
    dtype: Any = getattr(times, "dtype", None)  # a column of pandas with a time zone has dtype.tz
    try:
        given = np.asarray(times, f"M8[{dtype.unit}]" if getattr(dtype, "tz", None) else None)
    except (TypeError, ValueError) as error:
        hint = "; call elapsed once per sequence if the sequences differ in length"
        raise type(error)(f"times: expected an array [..., T], got error: {error}{hint}") from None
    if given.ndim == 0:
        raise ValueError("times: expected a time axis, [..., T], got a scalar")
    values, tick = _values(given)
    scale, divisor = _ratio(unit, tick)
    later, earlier = values[..., 1:], values[..., :-1]
    backward = np.argwhere(later < earlier)
    if len(backward):
        *row, step = backward[0].tolist()
        raise ValueError(
            f"times: expected times in increasing order, got {given[*row, step + 1]} after "
            f"{given[*row, step]} at step {step + 1}; sort the observations"
        )
    if values.dtype.kind in "iu":  # a difference that is not negative fits into 64 bits unsigned
        later, earlier = later.astype(np.uint64), earlier.astype(np.uint64)
    gaps = np.zeros(values.shape, np.float32)
    with np.errstate(over="ignore"):
        gaps[..., 1:] = (later - earlier).astype(np.float64) * scale / divisor
    if not np.isfinite(gaps).all():
        raise ValueError("times: expected gaps that float32 can hold, got inf; use a larger unit")
    return gaps


def _ratio(unit: str | float, tick: int | None) -> tuple[int, float]:
    """Return the factor and the divisor that convert differences to `unit`, or raise an error."""
    if tick is None:
        if isinstance(unit, str):
            raise TypeError(f"unit: expected a number for times that are numbers, got {unit!r}")
        return 1, checks.require_positive("unit", unit)
    if not isinstance(unit, str):
        raise TypeError(f'unit: expected a unit of time for dates, such as "h", got {unit!r}')
    ratio = Fraction(tick, ATTOSECONDS[checks.require_name("unit", unit, UNITS)])
    return ratio.numerator, ratio.denominator


def _values(given: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Return the times as numbers and, if they are dates, the unit of the numbers in attoseconds.

    The numbers are int, uint, float64, or Python integers (dtype object).
    """
    kind = given.dtype.kind
    if kind == "O":
        return _objects(given)
    if kind not in "iufM":
        hint = "; convert texts with pandas.to_datetime" if kind in "US" else ""
        raise TypeError(f"times: expected numbers or dates, got dtype {given.dtype}{hint}")
    missing = np.isnat(given) if kind == "M" else ~np.isfinite(given)
    if missing.any():
        raise ValueError(f"times: expected no missing times, got {given[missing][0]}")
    if kind == "M":
        return _ticks(given)
    return given.astype(np.float64) if kind == "f" else given, None


def _ticks(dates: Any) -> tuple[Any, int]:
    """Return dates of NumPy as integers, and their unit in attoseconds."""
    if np.datetime_data(dates.dtype)[0] in ("Y", "M"):  # these units have no fixed length
        dates = dates.astype("datetime64[D]")
    unit, count = np.datetime_data(dates.dtype)
    return dates.astype(np.int64), count * ATTOSECONDS.get(unit, 1)  # an empty array has no unit


def _objects(given: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Return the values of an array of Python numbers or of dates, as `_values` does."""
    values = given.ravel().tolist()
    for value in values:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if value is None or ((isinstance(value, DATES) or number) and value != value):
            raise ValueError(f"times: expected no missing times, got {value}")
        if not isinstance(value, DATES) and not number:
            hint = "; convert texts with pandas.to_datetime" if isinstance(value, str) else ""
            raise TypeError(f"times: expected numbers or dates, got {checks.brief(value)}{hint}")
        if isinstance(value, DATES) != isinstance(values[0], DATES):
            raise TypeError(f"times: expected numbers or dates, got {values[0]} and {value}")
    if values and not isinstance(values[0], DATES):
        whole = all(isinstance(value, numbers.Integral) for value in values)
        return (given, None) if whole else _values(given.astype(np.float64))
    zoned = [getattr(value, "tzinfo", None) is not None for value in values]
    if len(set(zoned)) > 1:
        aware, naive = values[zoned.index(True)], values[zoned.index(False)]
        raise ValueError(
            "times: expected dates that all have a time zone, or none of them, got "
            f"{aware} and {naive}"
        )
    # Python's integers do not overflow, whatever the units of the dates are.
    exact = np.empty(len(values), object)
    for n, value in enumerate(values):
        ticks, size = _ticks(_utc(value))
        exact[n] = int(ticks) * size
    return exact.reshape(given.shape), 1


def _utc(date: Any) -> Any:
    """Return a date as `numpy.datetime64`, in UTC if the date has a time zone."""
    if hasattr(date, "to_datetime64"):  # a Timestamp of pandas, which has nanoseconds
        return date.to_datetime64()
    if getattr(date, "tzinfo", None) is None:
        return np.datetime64(date)
    return np.datetime64(date.replace(tzinfo=None)) - np.timedelta64(date.utcoffset())


DATES = (datetime.date, np.datetime64)  # `datetime.datetime` and pandas' Timestamp are dates
