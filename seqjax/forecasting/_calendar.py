"""Calendar features: the phases of the hour, day, week and year."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqjax import checks

if TYPE_CHECKING:
    import pandas

__all__ = ["CALENDAR", "calendar_features", "require_calendar", "require_pandas"]

CALENDAR: dict[str, Callable[[Any], Any]] = {
    "minute": lambda index: index.minute / 60,
    "hour": lambda index: (index.hour + index.minute / 60) / 24,
    "day_of_week": lambda index: index.day_of_week / 7,
    "day_of_month": lambda index: (index.day - 1) / index.days_in_month,
    "day_of_year": lambda index: (index.day_of_year - 1) / (365 + index.is_leap_year),
    "week_of_year": lambda index: (index.isocalendar().week.to_numpy(float) - 1) / 53,
    "month": lambda index: (index.month - 1) / 12,
}
"""For each feature, a function that returns the phase in its cycle, in [0, 1)."""


def calendar_features(
    index: "pandas.DatetimeIndex", features: Sequence[str] = ("hour", "day_of_week")
) -> "pandas.DataFrame":
    """Return the sine and the cosine of the phase of each time in cycles of the calendar.

        phase = (hour + minute / 60) / 24, for example;   sin(2π · phase), cos(2π · phase)

    The functions return the local time if the index has a time zone.

    Args:
      index: the times, a `pandas.DatetimeIndex`.
      features: names of cycles: "minute" (of the hour), "hour" (of the day), "day_of_week",
        "day_of_month", "day_of_year", "week_of_year" and "month" (of the year).

    Returns:
      A data frame of float32 with the given index and two columns for each feature, such as
      `hour_sin` and `hour_cos`. Join it to a frame with `frame.join(...)`.

    Raises:
      ImportError: pandas is not installed.
      TypeError: the index is not a `DatetimeIndex`.
      ValueError: a feature is unknown or named twice, or a time is missing (NaT).

    Example:
      >>> import pandas
      >>> index = pandas.date_range("2024-01-01", periods=3, freq="6h")
      >>> calendar_features(index, ["hour"]).round(2).to_numpy().tolist()
      [[0.0, 1.0], [1.0, 0.0], [0.0, -1.0]]
    """
    pandas = require_pandas("calendar_features")
    if not isinstance(index, pandas.DatetimeIndex):
        raise TypeError(
            "index: expected a pandas.DatetimeIndex, got "
            f"{checks.brief(index)}; convert texts with pandas.to_datetime"
        )
    names = require_calendar("features", features)
    if index.hasnans:
        raise ValueError("index: expected no missing time, got NaT")
    columns = {}
    for name in names:
        angle = 2 * np.pi * np.asarray(CALENDAR[name](index), np.float64)
        columns[f"{name}_sin"], columns[f"{name}_cos"] = np.sin(angle), np.cos(angle)
    return pandas.DataFrame(columns, index=index, dtype=np.float32)


def require_calendar(argument: str, features: Any) -> tuple[str, ...]:
    """Return names of calendar features as a tuple, or raise."""
    if isinstance(features, (str, bytes)) or not isinstance(features, Sequence):
        raise TypeError(f"{argument}: expected a list of names, got {checks.brief(features)}")
    for name in features:
        checks.require_name(argument, name, CALENDAR)
    if len(set(features)) < len(features):
        raise ValueError(f"{argument}: expected no name twice, got {', '.join(features)}")
    return tuple(features)


def require_pandas(caller: str) -> Any:
    """Return the module pandas, or raise an error that says how to install it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f'{caller} needs pandas: pip install "seqjax[tables]"') from error
    return pandas
