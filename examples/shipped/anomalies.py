"""Series with labelled windows of anomalies: one series of the UCR archive, or NAB.

- A blood pressure with one anomaly, of the UCR archive (Wu, Keogh 2021), in the package aeon. A
  detection within 100 steps of the anomaly counts, as in the archive.
- The Numenta anomaly benchmark (Lavin, Ahmad 2015; AGPL, github.com/numenta/NAB): its folder, with
  data/ and labels/combined_windows.json. All .csv files in all folders of data/ are read.

The beginning of each series, at most 750 steps as in NAB, is used for training and left out of the
evaluation. The last quarter of these steps chooses the epoch.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from examples.shipped import columns
from examples.shipped.folders import matching
from examples.shipped.scaling import deviations
from seqjax import checks
from seqjax.data import installed_files, read_text
from seqjax.viz._draw import plain

__all__ = ["Series", "judge", "load", "plot"]

DEFAULT = "datasets/data/KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_TEST.csv"
SET_BACK = np.timedelta64(1, "h")  # the clock of a series may be set back, as of one in NAB
SLACK = 100  # number of steps around the anomaly in which a detection counts


class Series(NamedTuple):
    """A series of T steps, and the steps at which validation and evaluation begin."""

    name: str
    values: np.ndarray  # [T]
    inputs: np.ndarray  # [T, 5], standardised values, sines and cosines of day and week
    windows: np.ndarray  # [N, 2], the first and last step of each
    valid: int
    learned: int


def load(folder: Path | None, probation: float, least: int) -> list[Series]:
    """Return the series of a folder, or the default series, with `least` or more training steps."""
    if folder is None:
        [path] = installed_files("aeon", DEFAULT)
        table = columns.read(path, ["value", "is_anomaly"])
        edges = np.flatnonzero(np.diff(table["is_anomaly"], prepend=0, append=0))
        windows = edges.reshape(-1, 2) + [-SLACK, SLACK - 1]
        return [_prepared(probation, least, path.stem, table["value"], None, windows)]
    source = folder / "labels/combined_windows.json"
    labels = _labels(source)
    some = []
    for path in matching(folder / "data", "**/*.csv"):
        name = path.relative_to(folder / "data").as_posix()
        if name not in labels:
            raise ValueError(f"expected {name} in {source}, got no such key")
        table = columns.read(path, ["timestamp", "value"], parse_dates=["timestamp"])
        times = table["timestamp"].astype("datetime64[us]")
        latest = np.maximum.accumulate(times)
        late = np.flatnonzero(times < latest - SET_BACK)
        if len(late):
            raise ValueError(
                f"expected rows of {name} in order of time, got {times[late[0]]} after "
                f"{latest[late[0]]}"
            )
        ends = _ends(f"{source}, {name}", labels[name])
        steps = [np.flatnonzero((a <= times) & (times <= b)) for a, b in ends]
        if not all(map(len, steps)):
            raise ValueError(f"expected windows in the time of {name}, got {labels[name]}")
        windows = np.array([[inside[0], inside[-1]] for inside in steps], int).reshape(-1, 2)
        some.append(_prepared(probation, least, name, table["value"], times, windows))
    if not some:
        raise ValueError(f"expected .csv files in {folder / 'data'}, got none")
    return some


def _labels(path: Path) -> dict[str, Any]:
    """Return the windows of each file, as a JSON file contains them."""
    try:
        labels = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON, got error: {error}") from None
    if not isinstance(labels, dict):
        raise ValueError(
            f"{path}: expected an object from names to windows, got {checks.brief(labels)}"
        )
    return labels


def _ends(place: str, windows: Any) -> np.ndarray:
    """Return the times at which windows begin and end, [N, 2]."""
    pairs = isinstance(windows, list) and all(
        isinstance(window, list) and len(window) == 2 and all(isinstance(t, str) for t in window)
        for window in windows
    )
    if not pairs:
        got = checks.brief(windows)
        raise ValueError(f"{place}: expected a list of pairs of times [first, last], got {got}")
    try:
        return np.array(windows, "datetime64[us]").reshape(-1, 2)
    except ValueError as error:
        raise ValueError(f"{place}: expected times in ISO 8601, got error: {error}") from None


def _prepared(
    probation: float, least: int, name: str, values: Any, times: Any, windows: Any
) -> Series:
    """Return a series with its inputs; windows that end within the training steps are left out."""
    if values.dtype.kind not in "iuf":
        raise ValueError(f"expected numbers as values of {name}, got text")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite values in {name}, got {values[~np.isfinite(values)][0]}")
    values = values.astype(float)
    learned = int(min(len(values) * probation, 750))
    valid = learned * 3 // 4
    if valid < least:
        raise ValueError(
            f"expected --probation of {name} to hold {least * 4 // 3 + 1} steps for --window and "
            f"--recent, got {learned} of {len(values)}"
        )
    inputs = np.zeros((len(values), 5), np.float32)
    mean, deviation = values[:learned].mean(), deviations(values[:learned])
    inputs[:, 0] = np.clip((values - mean) / deviation, -20, 20)
    if times is not None:
        seconds = (times - np.datetime64("1970-01-05")) / np.timedelta64(1, "s")  # from a Monday
        for column, period in ((1, 86_400), (3, 7 * 86_400)):
            if seconds[learned] - seconds[0] >= 2 * period:  # one period is not a cycle
                turns = 2 * np.pi * seconds / period
                inputs[:, column : column + 2] = np.stack([np.sin(turns), np.cos(turns)], axis=1)
    return Series(name, values, inputs, windows[windows[:, 1] >= learned], valid, learned)


def judge(some: list[Series], detections: Any, shifts: Any = 0.0) -> dict[str, float]:
    """Return precision, recall and F1 of all series together, and the number of false alarms.

    Before the scores are computed, detections are shifted cyclically by `shifts`, which are shares
    of the steps that are evaluated.
    """
    found = windows = false = 0
    for one, steps, shift in zip(some, detections, np.broadcast_to(shifts, len(some)), strict=True):
        judged = len(one.values) - one.learned
        steps = np.sort((steps - one.learned + int(shift * judged)) % judged) + one.learned
        inside: Any = (one.windows[:, :1] <= steps) & (
            steps <= one.windows[:, 1:]
        )  # [windows, steps]
        begin = -np.inf
        for step, right in zip(steps, inside.any(axis=0), strict=True):
            if step >= begin + len(one.values) / 100:
                begin, false = step, false + int(not right)
        found += int(inside.any(axis=1).sum())
        windows += len(one.windows)
    precision, recall = found / max(found + false, 1), found / max(windows, 1)
    f1 = 2 * found / max(found + false + windows, 1)
    return {"precision": precision, "recall": recall, "f1": f1, "false_alarms": float(false)}


def plot(some: list[Series], scores: list[np.ndarray], limit: float) -> Figure:
    """Plot the values, windows and scores of up to four series, with detections as dots."""
    shown = sorted(range(len(some)), key=lambda index: -len(some[index].windows))[:4]
    figure = Figure(figsize=(10, 3.5 * len(shown)), layout="constrained")
    panels = figure.subplots(2 * len(shown), 1, height_ratios=[2, 1] * len(shown))
    for row, index in enumerate(shown):
        one, (above, below) = some[index], panels[2 * row : 2 * row + 2]
        steps = np.flatnonzero(scores[index] > limit)
        above.plot(one.values, color="#0072B2", linewidth=0.6)
        above.plot(steps, one.values[steps], ".", color="#D55E00")
        above.set_title(f"{plain(one.name)} (grey: training, orange: windows, dots: detections)")
        below.plot(scores[index], color="black", linewidth=0.6)
        below.axhline(limit, color="#D55E00", linewidth=0.8, linestyle="--")
        below.set_ylim(0, 4 * limit)  # a few scores are far larger than all others
        below.set_ylabel("score")
        for axes in (above, below):
            axes.axvspan(0, one.learned, color="#DDDDDD")
            for first, last in one.windows:
                axes.axvspan(first, last, color="#E69F00", alpha=0.3)
    return figure
