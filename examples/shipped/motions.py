"""Recordings that have one class each: BasicMotions, UCI HAR, or arrays of your own, such as films.

- BasicMotions (timeseriesclassification.com), in the package aeon (BSD): 80 recordings of a watch's
  accelerometer and gyroscope, ten seconds each, of four students who stand, walk, run and play
  badminton. Half of the recordings are the test set. A folder of NAME_TRAIN.ts and NAME_TEST.ts,
  with one NAME, is read in the same way.
- The inertial signals of the unpacked "UCI HAR Dataset" (Anguita et al. 2013, CC BY 4.0).
- train/ and test/ with one folder for each class, which contains .npy arrays of the shape
  (T, features), (T, H, W) or (T, H, W, C).

The test set is as published. If the data name the people, all recordings of some people are held
out for validation; otherwise, random recordings are held out.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from examples.shipped import baselines
from examples.shipped.folders import matching
from examples.shipped.scaling import deviations
from seqjax.data import class_files, installed_files, read_lines, read_ts

__all__ = ["Recordings", "load", "nearest", "read", "read_labelled"]


class Recordings(NamedTuple):
    """Steps [T_n, ...] of each recording, the index of its class, and the person."""

    steps: list[np.ndarray]
    labels: np.ndarray
    people: np.ndarray


def load(
    folder: Path | None, validation: float, seed: int
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return examples for "train", "dev" (if any are held out) and "test", and the class names.

    Values are normalised by the mean and the standard deviation over the training steps. Missing
    values become 0. If `validation` holds out no recordings or all of them, exit.
    """
    motions = "datasets/data/BasicMotions/*_TRAIN.ts"
    folder = folder or installed_files("aeon", motions)[0].parent
    train, names = read(folder, "train", None)
    test, _ = read(folder, "test", names)
    shapes = {steps.shape[1:] for part in (train, test) for steps in part.steps}
    if len(shapes) > 1:
        raise ValueError(f"expected steps of one shape, got {sorted(shapes)}")
    people = np.random.default_rng(seed).permutation(np.unique(train.people))
    count = round(validation * len(people))
    if validation and not 0 < count < len(people):
        raise SystemExit(
            f"--validation: expected a share that holds out some of {len(people)} training "
            f"recordings (or people), but not all, got {validation}"
        )
    held = np.isin(train.people, people[:count])
    learned = [steps for steps, out in zip(train.steps, held, strict=True) if not out]
    values = np.concatenate([steps.reshape(-1, steps.shape[-1]) for steps in learned])
    mean, deviation = np.nanmean(values, 0), deviations(values)

    def examples(part: Recordings, kept: np.ndarray) -> dict[str, Any]:
        chosen = np.flatnonzero(kept)
        scaled = [np.nan_to_num((part.steps[n] - mean) / deviation) for n in chosen]
        return {"steps": [x.astype(np.float32) for x in scaled], "label": part.labels[chosen]}

    found = {
        "train": examples(train, ~held),
        "test": examples(test, np.ones(len(test.steps), bool)),
    }
    return found | ({"dev": examples(train, held)} if held.any() else {}), names


def read(folder: Path, split: str, names: list[str] | None) -> tuple[Recordings, list[str]]:
    """Return the recordings of a split, and the class names.

    If `names` is given, these are the class names, except for UCI HAR, which has its own names. The
    names must be sorted.
    """
    inside = folder / split
    if (inside / "Inertial Signals").is_dir():
        return _read_har(folder, split)
    if inside.is_dir():
        paths, labels, found = class_files(inside, "*.npy")
        if names is not None and found != names:
            raise ValueError(f"expected the classes {names} in {inside}, got {found}")
        names = found
        steps = [_array(path) for path in paths]
        for path, array in zip(paths, steps, strict=True):
            if array.ndim not in (2, 3, 4) or array.dtype.kind not in "fiub" or not array.size:
                raise ValueError(
                    f"{path}: expected numbers (T, features), (T, H, W) or (T, H, W, C), got "
                    f"{array.dtype} {array.shape}"
                )
            _require_finite(path, array)
        steps = [(x[..., None] if x.ndim == 3 else x).astype(np.float32) for x in steps]
    else:
        steps, labels, names = read_labelled(_ts_file(folder, split), names)
    return Recordings(steps, labels, np.arange(len(steps))), names


def _ts_file(folder: Path, split: str) -> Path:
    """Return the file of a split; the folder must have both files of exactly one data set."""
    files = matching(folder, "*_TRAIN.ts", "*_TEST.ts")
    both = [file for file in files if file.with_name(f"{_name(file)}_TEST.ts") in files]
    names = {_name(file) for file in both if file.name.endswith("_TRAIN.ts")}
    if len(names) != 1:
        raise ValueError(
            "expected folders train and test, or NAME_TRAIN.ts and NAME_TEST.ts of one NAME, in "
            f"{folder}, got {', '.join(file.name for file in files) or 'none'}"
        )
    return folder / f"{names.pop()}_{split.upper()}.ts"


def _name(file: Path) -> str:
    """Return the name of a data set from that of its file."""
    return file.name.rpartition("_")[0]


def read_labelled(
    path: Path, names: list[str] | None = None
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Return the recordings of a .ts file, the index of each label, and the names of the labels.

    If `names` is given, these are the names of the labels, which must include those of the file.
    """
    recordings, said = read_ts(path)
    if not said:
        raise ValueError(f"{path}: expected recordings with labels, got none")
    names = sorted(set(said)) if names is None else names
    if not set(said) <= set(names):
        raise ValueError(f"{path}: expected labels among {names}, got {sorted(set(said))}")
    return recordings, np.array([names.index(label) for label in said], np.int32), names


def _read_har(folder: Path, split: str) -> tuple[Recordings, list[str]]:
    """Read the inertial signals of UCI HAR: a file for each signal, a row for each recording."""
    inside = folder / split
    files = matching(inside / "Inertial Signals", f"*_{split}.txt")
    if not files:
        raise ValueError(f"expected *_{split}.txt in {inside / 'Inertial Signals'}, got none")
    signals = [_numbers(file, np.float32, 2) for file in files]
    for file, signal in zip(files, signals, strict=True):
        if signal.shape != signals[0].shape:
            raise ValueError(
                f"{file}: expected {signals[0].shape} rows and columns as in {files[0].name}, got "
                f"{signal.shape}"
            )
        _require_finite(file, signal)
    ids: list[np.ndarray] = []
    for file in (inside / f"y_{split}.txt", inside / f"subject_{split}.txt"):
        ids.append(_numbers(file, np.int32, 1))
        if ids[-1].shape != (len(signals[0]),):
            raise ValueError(
                f"{file}: expected {len(signals[0])} rows of one number, as {files[0].name} has "
                f"rows, got {ids[-1].shape}"
            )
    numbers, names = _activities(folder / "activity_labels.txt")
    unknown = np.flatnonzero(~np.isin(ids[0], numbers))
    if len(unknown):
        raise ValueError(
            f"{inside / f'y_{split}.txt'}, row {unknown[0] + 1}: expected one of {numbers}, the "
            f"numbers in activity_labels.txt, got {ids[0][unknown[0]]}"
        )
    labels = np.searchsorted(numbers, ids[0]).astype(np.int32)
    return Recordings(list(np.stack(signals, -1)), labels, ids[1]), names


def _activities(path: Path) -> tuple[list[int], list[str]]:
    """Return the numbers of the activities in ascending order, and their names."""
    found: dict[int, str] = {}
    for row, line in enumerate(read_lines(path), 1):
        number, *name = line.split() or [""]
        if line.strip() and not (number.isdecimal() and name and int(number) not in found):
            raise ValueError(f"{path}, line {row}: expected a new number and a name, got {line!r}")
        if line.strip():
            found[int(number)] = " ".join(name)
    return sorted(found), [found[number] for number in sorted(found)]


def _numbers(path: Path, dtype: Any, ndim: Literal[1, 2]) -> np.ndarray:
    """Return the numbers of a text file."""
    try:
        return np.loadtxt(path, dtype, ndmin=ndim)
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers, got error: {error}") from None


def _array(path: Path) -> Any:
    """Return the array of a .npy file."""
    try:
        return np.load(path)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected an array of numbers, got error: {error}") from None


def _require_finite(path: Path, array: np.ndarray) -> None:
    """Raise if float32 cannot hold a value; NaN is a missing value."""
    large = np.abs(array) > np.finfo(np.float32).max
    if large.any():
        raise ValueError(f"{path}: expected finite numbers or NaN, got {array[large][0]}")


def nearest(train: dict[str, Any], test: dict[str, Any]) -> float:
    """Return the test accuracy of the nearest neighbour, compared at 32 steps of each recording."""

    def rows(part: dict[str, Any]) -> np.ndarray:
        picked = [x[np.linspace(0, len(x) - 1, 32).round().astype(int)] for x in part["steps"]]
        return np.stack(picked).reshape(len(picked), -1)

    found = baselines.nearest(rows(train), rows(test))
    return float(np.mean(train["label"][found] == test["label"]))
