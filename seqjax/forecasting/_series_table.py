"""Series of a data frame as arrays, with their times."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from seqjax import checks
from seqjax.forecasting._calendar import require_pandas
from seqjax.forecasting._columns import covariate_array, listed, require_columns

if TYPE_CHECKING:
    import pandas

__all__ = ["SeriesTable"]


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
      >>> from seqjax.forecasting import read_frame
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

    def past(self, steps: int) -> dict[str, np.ndarray]:
        """Return the last steps of each series and its covariates, the arguments of forecasters.

        The last steps of all series are at the end of the arrays, also if their lengths differ:
        `model.sample(**table.past(72), key=key, horizon=24, future_known=table.future_known(24))`.
        A model that was trained with `context` expects this number of steps.

        Args:
          steps: the number of steps. A shorter series has padding at the start.

        Returns:
          A dict of `values` float32 `[N, steps]`, `mask` bool `[N, steps]` (False at padding) and,
          if the table has them, `known` `[N, steps, K]`, `static` and `categories`.
        """
        steps = checks.require_integer("steps", steps)
        index = self.lengths[:, None] + np.arange(-steps, 0)
        mask, rows = index >= 0, np.arange(len(index))[:, None]
        index = np.maximum(index, 0)
        found = {
            "values": np.where(mask, self.values[rows, index], np.float32(np.nan)),
            "mask": mask,
        }
        if self.known is not None:
            found["known"] = np.where(mask[..., None], self.known[rows, index], np.float32(0))
        fixed = {"static": self.static, "categories": self.categories}
        return found | {name: array for name, array in fixed.items() if array is not None}

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
                f"future: expected a data frame with the known covariates {listed(given)} of the "
                f"{horizon} steps after {self.times(0)[-1]}, got None"
            )
        if future is not None:
            pandas, zone = require_pandas("SeriesTable.future_known"), self.starts.tz
            if not isinstance(future, pandas.DataFrame):
                raise TypeError(f"future: expected a pandas.DataFrame, got {checks.brief(future)}")
            if not isinstance(future.index, pandas.DatetimeIndex) or (
                (future.index.tz is None) != (zone is None)
            ):
                raise ValueError(
                    f"future: expected times as index, such as {self.times(0, horizon)[0]}, got "
                    f"{checks.brief(future.index[:1])}"
                )
        found = []
        for index, name in enumerate(self.names):
            times = self.times(index, horizon)
            part = future
            if future is not None and series is not None:
                require_columns("future", future, [series])
                part = future[future[series] == name]
            found.append(covariate_array("future", part, times, given, self.calendar, series=name))
        return np.stack(found)
