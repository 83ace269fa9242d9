"""Checked columns of data frames."""

from collections.abc import Iterable, Sequence, Set
from typing import Any

import numpy as np

from seqjax import checks
from seqjax.forecasting._calendar import calendar_features

__all__ = [
    "covariate_array",
    "listed",
    "number_column",
    "require_columns",
    "require_float32",
    "require_names",
]


def listed(names: Sequence[str]) -> str:
    """Return quoted names with commas between them."""
    return ", ".join(map(repr, names))


def require_names(argument: str, names: Any) -> tuple[Any, ...]:
    """Return names of columns as a tuple, or raise; a text would be a list of letters."""
    if isinstance(names, (str, bytes, Set)) or not isinstance(names, Iterable):
        raise TypeError(f"{argument}: expected a list of columns, got {checks.brief(names)}")
    return tuple(names)


def require_columns(argument: str, frame: Any, names: Sequence[str]) -> None:
    """Raise an error if a frame does not have exactly one column of each name."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{argument}: expected the columns {listed(missing)}, got "
            f"{listed([str(name) for name in frame.columns])}"
        )
    twice = [name for name in names if list(frame.columns).count(name) > 1]
    if twice:
        raise ValueError(f"{argument}: expected one column of each name, got {listed(twice)} twice")


def number_column(argument: str, column: Any, name: str) -> Any:
    """Return a column as float64, or raise if it does not have numbers."""
    if column.dtype == object or column.dtype.kind not in "fiub":
        raise TypeError(f"{argument}: expected numbers in {name!r}, got dtype {column.dtype}")
    return column.astype(np.float64)


def require_float32(argument: str, name: str, values: Any) -> None:
    """Raise an error if float32 cannot hold a number of a column."""
    checks.require_fit(argument, np.asarray(values, np.float64), np.float32, f"numbers in {name!r}")


def covariate_array(
    argument: str,
    frame: Any,
    times: Any,
    given: tuple[str, ...],
    calendar: tuple[str, ...],
    *,
    series: Any,
) -> np.ndarray:
    """Return the covariates of a series at its times, float32 [T, K], or raise."""
    columns = []
    if given:
        require_columns(argument, frame, given)
        if frame.index.has_duplicates:
            raise ValueError(
                f"{argument}: expected each time once, got "
                f"{frame.index[frame.index.duplicated()][0]} twice"
            )
    for name in given:
        column = number_column(argument, frame[name], name).reindex(times).to_numpy(np.float64)
        wrong = ~np.isfinite(column)
        if wrong.any():
            raise ValueError(
                f"{argument}: expected the known covariate {name!r} of the series {series!r} at "
                f"each of {len(times)} steps from {times[0]} to {times[-1]}, got "
                f"{'inf' if np.isinf(column[wrong][0]) else 'none'} at {times[wrong][0]}"
            )
        require_float32(argument, name, column)
        columns.append(column.astype(np.float32)[:, None])
    if calendar:
        columns.append(calendar_features(times, calendar).to_numpy())
    return np.concatenate([np.zeros((len(times), 0), np.float32), *columns], axis=1)
