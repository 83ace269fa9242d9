"""Series from data frames of pandas whose index holds times."""

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np

from seqjax import checks
from seqjax.forecasting._calendar import require_calendar, require_pandas
from seqjax.forecasting._columns import (
    covariate_array,
    listed,
    number_column,
    require_columns,
    require_float32,
    require_names,
)
from seqjax.forecasting._series_table import SeriesTable

if TYPE_CHECKING:
    import pandas

__all__ = ["read_frame"]


def read_frame(
    frame: "pandas.DataFrame",
    target: str | Sequence[str],
    *,
    known: Sequence[str] = (),
    calendar: Sequence[str] = (),
    series: str | None = None,
    static: Sequence[str] = (),
    categories: Sequence[str] | Mapping[str, Sequence[Any]] = (),
    freq: Any = None,
) -> SeriesTable:
    """Return the series of a data frame whose index is a `pandas.DatetimeIndex`.

    A wide frame has a column for each series. A long frame has one target column and a column
    `series` that says which series a row belongs to; the series may begin and end at different
    times. Rows are sorted by time. Times that are missing between the first and the last row of a
    series become missing values.

    Args:
      frame: the data frame.
      target: the column, or for a wide frame the columns, of the values. NaN is a missing value.
      known: columns of covariates that are known in advance.
      calendar: names of features of `calendar_features`, which become known covariates.
      series: the column of a long frame with the name of the series.
      static: columns of a long frame with numbers that are constant in each series.
      categories: columns of a long frame with labels that are constant in each series. The values
        of a category are numbered in their order. For a frame that a trained model is to forecast,
        pass the `category_values` of the table of its training, so that the numbers are the same.
      freq: the time between steps, such as "h", "MS" (the first days of months) or "ME" (the last
        ones). It is needed if times are missing.

    Returns:
      A `SeriesTable`.

    Raises:
      ImportError: pandas is not installed.
      TypeError: the frame, its index or a column has another type.
      ValueError: a column does not exist; a time occurs twice; the time between steps is unknown,
        or a time does not fit it; a target is infinite; a covariate is missing at a step; a static
        feature changes; or a label is not among the given values of its category.

    Example:
      >>> import pandas
      >>> index = pandas.date_range("2024-01-01", periods=4, freq="D")
      >>> frame = pandas.DataFrame({"load": [1.0, 2.0, None, 4.0]}, index=index)
      >>> table = read_frame(frame, "load", calendar=["day_of_week"])
      >>> table.values.tolist(), table.known_names
      ([[1.0, 2.0, nan, 4.0]], ('day_of_week_sin', 'day_of_week_cos'))
      >>> table.future_known(2).shape, str(table.times(horizon=2)[0])
      ((1, 2, 2), '2024-01-05 00:00:00')
    """
    pandas = require_pandas("read_frame")
    if not isinstance(frame, pandas.DataFrame):
        raise TypeError(f"frame: expected a pandas.DataFrame, got {checks.brief(frame)}")
    if not isinstance(frame.index, pandas.DatetimeIndex):
        hint = {
            "PeriodIndex": "frame.to_timestamp()",
            "MultiIndex": "frame.reset_index(...) for all levels but that of the times",
        }.get(type(frame.index).__name__, "frame.set_index(pandas.to_datetime(frame[...]))")
        raise TypeError(
            "frame: expected a pandas.DatetimeIndex as index, got "
            f"{type(frame.index).__name__}; use {hint}"
        )
    if isinstance(frame.columns, pandas.MultiIndex):
        raise TypeError(
            "frame: expected columns with names of one level, got a MultiIndex; assign a list of "
            "names to frame.columns"
        )
    frame = frame.rename_axis(index=None)  # a column may have the name of the index
    several = isinstance(target, (list, tuple, np.ndarray, pandas.Index, pandas.Series, Set))
    if isinstance(target, np.ndarray):
        target = target.tolist()
    targets: list[Any] = list(require_names("target", target)) if several else [target]
    for argument, asked in (("target", targets), ("series", [series])):
        wrong = [one for one in asked if not isinstance(one, Hashable)]
        if wrong:
            raise TypeError(
                f"{argument}: expected the name of a column, got {checks.brief(wrong[0])}"
            )
    known, static = require_names("known", known), require_names("static", static)
    if not isinstance(categories, Mapping):
        categories = require_names("categories", categories)
    wanted = [*targets, *known, *static, *categories, *([] if series is None else [series])]
    require_columns("frame", frame, wanted)
    if frame.index.hasnans or not len(frame) or not targets:
        raise ValueError("frame: expected rows with times and a target column, got none or NaT")
    if series in targets and series is not None:
        raise ValueError(f"series: expected another column than the target, got {series!r}")
    if set(known) & set(targets):
        raise ValueError(
            f"known: expected columns that are known in advance, got the target "
            f"{listed([name for name in known if name in targets])}"
        )
    if series is None and (static or categories):
        raise ValueError("static, categories: expected none without the column `series`")
    if series is not None and len(targets) != 1:
        raise ValueError(f"target: expected one column with `series`, got {listed(targets)}")
    features = require_calendar("calendar", calendar)
    given: Mapping[str, Any] = categories if isinstance(categories, Mapping) else {}
    _require_labels(given)
    names = (*known, *(f"{name}_{wave}" for name in features for wave in ("sin", "cos")))
    for argument, columns in (("target", targets), ("known, calendar", names)):
        twice = [name for name in columns if list(columns).count(name) > 1]
        if twice:
            raise ValueError(f"{argument}: expected each name once, got {twice[0]!r} twice")
    if series is None:
        parts = [(name, frame, name) for name in targets]
    else:
        unnamed = frame.index[frame[series].isna()]
        if len(unnamed):
            raise ValueError(
                f"frame: expected a name of {series!r} in each row, got none at {unnamed[0]}"
            )
        grouped = frame.groupby(series, sort=True, observed=True)
        parts = [(name, part, targets[0]) for name, part in grouped]
    for name, part, _ in parts:
        if part.index.has_duplicates:
            hint = (
                "; name the column of the series with series=..., or convert local times that "
                "occur twice when clocks are set back with tz_localize"
                if series is None
                else ""
            )
            raise ValueError(
                f"frame: expected each time once in the series {name!r}, got "
                f"{part.index[part.index.duplicated()][0]} twice{hint}"
            )
    offset = _frequency(pandas, frame.index, freq)
    rows: list[tuple[Any, np.ndarray, np.ndarray]] = []
    for name, part, column in parts:
        times = _times(pandas, name, part.index, offset, inferred=freq is None)
        values = number_column("frame", part[column], column).reindex(times).to_numpy(np.float64)
        if np.isinf(values).any():
            raise ValueError(
                f"frame: expected finite numbers, or NaN for missing values, in {column!r}, got "
                f"{values[np.isinf(values)][0]} at {times[np.isinf(values)][0]}"
            )
        require_float32("frame", column, values)
        covariates = covariate_array("frame", part, times, tuple(known), features, series=name)
        rows.append((times[0], values.astype(np.float32), covariates))
    lengths = np.array([len(values) for _, values, _ in rows], np.int32)
    steps = int(lengths.max())

    def padded(array: np.ndarray, filler: float) -> np.ndarray:
        extra = [(0, steps - len(array))] + [(0, 0)] * (array.ndim - 1)
        return np.pad(array, extra, constant_values=filler)

    constants = {
        name: [_constant(part, name, one) for one, part, _ in parts]
        for name in (*static, *categories)
    }
    levels = {
        name: list(given[name]) if name in given else _levels(name, constants[name])
        for name in categories
    }
    numbers = [_numbers(name, constants[name]) for name in static]
    codes = [_codes(name, constants[name], levels[name]) for name in categories]
    return SeriesTable(
        names=tuple(name for name, _, _ in parts),
        starts=pandas.DatetimeIndex([start for start, _, _ in rows]),
        freq=offset,
        values=np.stack([padded(values, np.nan) for _, values, _ in rows]),
        lengths=lengths,
        known=np.stack([padded(known, 0.0) for _, _, known in rows]) if names else None,
        known_names=names,
        static=np.array(numbers, np.float32).T if static else None,
        static_names=tuple(static),
        categories=np.array(codes, np.int32).T if categories else None,
        category_values=levels,
        calendar=features,
    )


def _frequency(pandas: Any, index: Any, freq: Any) -> Any:
    """Return the time between steps as an offset, from `freq` or from the times."""
    if freq is None:
        unique = index.unique().sort_values()
        with warnings.catch_warnings():
            # Pandas 3 warns that it will return an offset, which is as good as a name here.
            warnings.simplefilter("ignore", DeprecationWarning)
            freq = pandas.infer_freq(unique) if len(unique) > 2 else None
        if freq is None:
            raise ValueError(
                f"frame: expected at least three equally spaced times, got {len(unique)} different "
                f'times from {unique[0]} to {unique[-1]}; if times are missing, pass freq="h" for '
                'hours, or freq="MS" or "ME" for the first or the last days of months, for example'
            )
    try:
        offset = pandas.tseries.frequencies.to_offset(freq)
        # An offset is positive if it moves a time ahead; the time zone does not matter.
        later = index.min().tz_localize(None) + offset > index.min().tz_localize(None)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"freq: expected an offset of pandas such as 'h', got {freq!r}") from error
    if not later:
        raise ValueError(f"freq: expected a positive offset of pandas such as 'h', got {freq!r}")
    return offset


def _times(pandas: Any, name: Any, index: Any, offset: Any, *, inferred: bool) -> Any:
    """Return all times between the first and the last one of a series, or raise."""
    times = pandas.date_range(index.min(), index.max(), freq=offset)
    odd = index.difference(times)
    if len(odd):
        raise ValueError(f"frame: expected times every {offset.freqstr}, got {odd[0]} in {name!r}")
    # The times of all series together may be denser than those of each series, such as 12:00 and
    # 13:00 in one series, and 12:30 and 13:30 in another one.
    if inferred and len(index) > 2 and np.diff(np.sort(times.get_indexer(index))).min() > 1:
        raise ValueError(
            f"frame: expected times every {offset.freqstr}, as in all series together, got no two "
            f"such times in {name!r}; pass freq=..., or read series of different times from "
            "different frames"
        )
    return times


def _numbers(name: str, values: list[Any]) -> list[float]:
    """Return the numbers of a static feature, or raise."""
    for value in values:
        if isinstance(value, (str, bytes)) or not np.isscalar(value):
            raise TypeError(
                f"static: expected numbers in {name!r}, got {value!r}; labels are categories, "
                f"categories=[{name!r}]"
            )
    numbers = [float(value) for value in values]
    if not np.isfinite(numbers).all():
        wrong = next(number for number in numbers if not np.isfinite(number))
        raise ValueError(f"static: expected finite numbers in {name!r}, got {wrong}")
    require_float32("static", name, numbers)
    return numbers


def _require_labels(categories: Mapping[str, Any]) -> None:
    """Raise an error if the values of a category are not a list of different labels."""
    for name, labels in categories.items():
        if isinstance(labels, (str, bytes, Set)) or not isinstance(labels, Iterable):
            raise TypeError(
                f"categories[{name!r}]: expected a list of values, got {checks.brief(labels)}"
            )
        found = list(labels)
        twice = [label for label in found if found.count(label) > 1]
        if twice:
            raise ValueError(
                f"categories[{name!r}]: expected each value once, got {twice[0]!r} twice"
            )


def _levels(name: str, labels: list[Any]) -> list[Any]:
    """Return the different labels of a category in their order, or raise if they have none."""
    try:
        return sorted(set(labels))
    except TypeError as error:
        raise TypeError(
            f"categories: expected labels of one type in {name!r}, got {checks.brief(labels)}"
        ) from error


def _codes(name: str, labels: list[Any], levels: list[Any]) -> list[int]:
    """Return the number of each label, or raise if it is not among the values of its category."""
    for label in labels:
        if label not in levels:
            raise ValueError(
                f"categories: expected one of {len(levels)} known values in {name!r}, such as "
                f"{listed(levels[:3])}, got {label!r}"
            )
    return [levels.index(label) for label in labels]


def _constant(part: Any, name: str, series: Any) -> Any:
    """Return the only value of a static column in a series, or raise."""
    found = part[name].unique()
    if len(found) != 1 or part[name].isna().any():
        raise ValueError(
            f"frame: expected one value of {name!r} in the series {series!r}, got {list(found)[:3]}"
        )
    return found[0]
