"""Series from data frames of pandas whose index holds times."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqjax import checks
from seqjax.forecasting._calendar import calendar_features, require_calendar, require_pandas

if TYPE_CHECKING:
    import pandas

__all__ = ["SeriesTable", "read_frame"]


@dataclasses.dataclass(frozen=True)
class SeriesTable:
    """N series of a data frame as arrays, with their times, as `read_frame` returns it.

    Attributes:
      names: the N names: the target columns, or the values of the column `series`.
      starts: the times of the first steps, a `pandas.DatetimeIndex` of N times.
      freq: the time between steps, an offset of pandas.
      values: float32 `[N, T]`. NaN is a missing value; steps after the end of a series are NaN.
      lengths: int32 `[N]`, the number of steps of each series.
      known: float32 `[N, T, K]`, the known covariates, with 0 after the end of a series, or None.
      known_names: the K names of the known covariates, with those of the calendar at the end.
      static: float32 `[N, S]`, or None.
      static_names: the S names of the static features.
      categories: int32 `[N, C]`, or None.
      category_values: for each name of a category, its values, in the order of their numbers.
      calendar: the names of the calendar features.

    Example:
      >>> import pandas
      >>> index = pandas.date_range("2024-01-01", periods=3, freq="D")
      >>> table = read_frame(pandas.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]}, index), ["a", "b"])
      >>> table.names, table.values.shape, str(table.times()[-1].date())
      (('a', 'b'), (2, 3), '2024-01-03')
    """

    names: tuple[Any, ...]
    starts: "pandas.DatetimeIndex"
    freq: Any
    values: np.ndarray
    lengths: np.ndarray
    known: np.ndarray | None
    known_names: tuple[str, ...]
    static: np.ndarray | None
    static_names: tuple[str, ...]
    categories: np.ndarray | None
    category_values: dict[str, list[Any]]
    calendar: tuple[str, ...]

    @property
    def category_sizes(self) -> dict[str, int]:
        """The number of values of each category, the argument `categories` of forecasters."""
        return {name: len(values) for name, values in self.category_values.items()}

    def times(self, index: int = 0, horizon: int = 0) -> "pandas.DatetimeIndex":
        """Return the times of a series.

        Args:
          index: the number of the series.
          horizon: if it is not 0, return the times of this number of steps after the series.
        """
        index = checks.require_index(index, len(self.names))
        horizon = checks.require_integer("horizon", horizon, least=0)
        pandas = require_pandas("SeriesTable.times")
        length = int(self.lengths[index])
        whole = pandas.date_range(self.starts[index], periods=length + horizon, freq=self.freq)
        return whole[length:] if horizon else whole

    def future_known(
        self, horizon: int, future: "pandas.DataFrame | None" = None, *, series: str | None = None
    ) -> np.ndarray | None:
        """Return the known covariates of the steps after each series; the calendar is computed.

        Args:
          horizon: H, the number of steps of the forecast.
          future: a data frame with the times of the forecast as index, and the known covariates as
            columns. It may have more rows and columns. If the only known covariates are those of
            the calendar, it is not needed.
          series: the column with the names of the series, if the rows differ between series.

        Returns:
          float32 `[N, H, K]`, the argument `future_known` of forecasters, or None if the table has
          no known covariates.

        Raises:
          TypeError, ValueError: a column or a time of the forecast is missing, or a value is NaN.
            The message names the covariates.
        """
        horizon = checks.require_integer("horizon", horizon)
        given = self.known_names[: len(self.known_names) - 2 * len(self.calendar)]
        if not self.known_names:
            return None
        if given and future is None:
            raise ValueError(
                f"future: expected a data frame with the known covariates {_listed(given)} of the "
                f"{horizon} steps after {self.times(0)[-1]}, got None"
            )
        found = []
        for index, name in enumerate(self.names):
            times = self.times(index, horizon)
            part = future
            if future is not None and series is not None:
                _require_columns("future", future, [series])
                part = future[future[series] == name]
            found.append(_covariates("future", part, times, given, self.calendar))
        return np.stack(found)


def read_frame(
    frame: "pandas.DataFrame",
    target: str | Sequence[str],
    *,
    known: Sequence[str] = (),
    calendar: Sequence[str] = (),
    series: str | None = None,
    static: Sequence[str] = (),
    categories: Sequence[str] = (),
    freq: str | None = None,
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
      categories: columns of a long frame with labels that are constant in each series.
      freq: the time between steps, such as "h". It is needed if times are missing.

    Returns:
      A `SeriesTable`.

    Raises:
      ImportError: pandas is not installed.
      TypeError: the frame, its index or a column has another type.
      ValueError: a column does not exist; a time occurs twice; the time between steps is unknown,
        or a time does not fit it; a covariate is missing at a step; or a static feature changes.

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
        raise TypeError(
            "frame: expected a pandas.DatetimeIndex as index, got "
            f"{type(frame.index).__name__}; use frame.set_index(pandas.to_datetime(frame[...]))"
        )
    targets = [target] if isinstance(target, str) else list(target)
    wanted = [*targets, *known, *static, *categories, *([] if series is None else [series])]
    _require_columns("frame", frame, wanted)
    if frame.index.hasnans or not len(frame) or not targets:
        raise ValueError("frame: expected rows with times and a target column, got none or NaT")
    if series is None and (static or categories):
        raise ValueError("static, categories: expected none without the column `series`")
    if series is not None and len(targets) != 1:
        raise ValueError(f"target: expected one column with `series`, got {_listed(targets)}")
    features = require_calendar("calendar", calendar)
    if series is None:
        parts = [(name, frame, name) for name in targets]
    else:
        grouped = frame.groupby(series, sort=True, observed=True)
        parts = [(name, part, targets[0]) for name, part in grouped]
    for name, part, _ in parts:
        if part.index.has_duplicates:
            raise ValueError(
                f"frame: expected each time once in the series {name!r}, got "
                f"{part.index[part.index.duplicated()][0]} twice; name the column of the series "
                "with series=..."
            )
    offset = _frequency(pandas, frame.index, freq)
    rows: list[tuple[Any, np.ndarray, np.ndarray]] = []
    for name, part, column in parts:
        times = _times(pandas, name, part.index, offset)
        values = _numbers("frame", part[column], column).reindex(times).to_numpy(np.float64)
        checks.require_fit("frame", values, np.float32, f"numbers in {column!r}")
        covariates = _covariates("frame", part, times, tuple(known), features)
        rows.append((times[0], values.astype(np.float32), covariates))
    lengths = np.array([len(values) for _, values, _ in rows], np.int32)
    steps = int(lengths.max())
    names = (*known, *(f"{name}_{wave}" for name in features for wave in ("sin", "cos")))

    def padded(array: np.ndarray, filler: float) -> np.ndarray:
        extra = [(0, steps - len(array))] + [(0, 0)] * (array.ndim - 1)
        return np.pad(array, extra, constant_values=filler)

    constants = {
        name: [_constant(part, name, one) for one, part, _ in parts]
        for name in (*static, *categories)
    }
    levels = {name: sorted(set(constants[name])) for name in categories}
    numbers = [[float(value) for value in constants[name]] for name in static]
    codes = [[levels[name].index(value) for value in constants[name]] for name in categories]
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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _require_columns(argument: str, frame: Any, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{argument}: expected the columns {_listed(missing)}, got "
            f"{_listed([str(name) for name in frame.columns])}"
        )
    twice = [name for name in names if list(frame.columns).count(name) > 1]
    if twice:
        raise ValueError(
            f"{argument}: expected one column of each name, got {_listed(twice)} twice"
        )


def _frequency(pandas: Any, index: Any, freq: str | None) -> Any:
    """Return the time between steps as an offset, from `freq` or from the times."""
    if freq is None:
        unique = index.unique().sort_values()
        with warnings.catch_warnings():
            # Pandas 3 warns that it will return an offset, which is as good as a name here.
            warnings.simplefilter("ignore", DeprecationWarning)
            freq = pandas.infer_freq(unique) if len(unique) > 2 else None
        if freq is None:
            raise ValueError(
                'frame: expected equally spaced times; if times are missing, pass freq="h" for '
                "hours, for example"
            )
    try:
        return pandas.tseries.frequencies.to_offset(freq)
    except ValueError as error:
        raise ValueError(f"freq: expected an offset of pandas such as 'h', got {freq!r}") from error


def _times(pandas: Any, name: Any, index: Any, offset: Any) -> Any:
    """Return all times between the first and the last one of a series, or raise."""
    times = pandas.date_range(index.min(), index.max(), freq=offset)
    odd = index.difference(times)
    if len(odd):
        raise ValueError(f"frame: expected times every {offset.freqstr}, got {odd[0]} in {name!r}")
    return times


def _numbers(argument: str, column: Any, name: str) -> Any:
    """Return a column as float64, or raise if it does not have numbers."""
    if column.dtype == object or column.dtype.kind not in "fiub":
        raise TypeError(f"{argument}: expected numbers in {name!r}, got dtype {column.dtype}")
    return column.astype(np.float64)


def _covariates(
    argument: str, frame: Any, times: Any, given: tuple[str, ...], calendar: tuple[str, ...]
) -> np.ndarray:
    """Return the covariates of a series at its times, float32 [T, K], or raise."""
    columns = []
    if given:
        _require_columns(argument, frame, given)
        if frame.index.has_duplicates:
            raise ValueError(
                f"{argument}: expected each time once, got "
                f"{frame.index[frame.index.duplicated()][0]} twice"
            )
    for name in given:
        column = _numbers(argument, frame[name], name).reindex(times).to_numpy(np.float64)
        wrong = ~np.isfinite(column)
        if wrong.any():
            raise ValueError(
                f"{argument}: expected the known covariate {name!r} at each of {len(times)} steps "
                f"from {times[0]} to {times[-1]}, got none at {times[wrong][0]}"
            )
        columns.append(column.astype(np.float32)[:, None])
    if calendar:
        columns.append(calendar_features(times, calendar).to_numpy())
    return np.concatenate([np.zeros((len(times), 0), np.float32), *columns], axis=1)


def _constant(part: Any, name: str, series: Any) -> Any:
    """Return the only value of a static column in a series, or raise."""
    found = part[name].unique()
    if len(found) != 1 or found[0] != found[0]:
        raise ValueError(
            f"frame: expected one value of {name!r} in the series {series!r}, got {list(found)[:3]}"
        )
    return found[0]
