"""Recordings that have one class each: BasicMotions, UCI HAR, or arrays of your own, such as films.

- BasicMotions (timeseriesclassification.com), in the package aeon (BSD): 80 recordings of a watch's
  accelerometer and gyroscope, ten seconds each, of four students who stand, walk, run and play
  badminton. Half of the recordings are the test set. A folder of NAME_TRAIN.ts and NAME_TEST.ts is
  read in the same way.
- The inertial signals of the unpacked "UCI HAR Dataset" (Anguita et al. 2013, CC BY 4.0).
- train/ and test/ with one folder for each class, which contains .npy arrays of the shape
  (T, features), (T, H, W) or (T, H, W, C).

The test set is as published. If the data name the people, all recordings of some people are held
out for validation; otherwise, random recordings are held out.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.shipped import baselines
from seqjax.data import class_files, installed_files, read_lines, read_ts

__all__ = ["Recordings", "load", "nearest", "read"]


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
    values become 0.
    """
    motions = "datasets/data/BasicMotions/*_TRAIN.ts"
    folder = folder or installed_files("aeon", motions)[0].parent
    train, names = read(folder, "train", None)
    test, _ = read(folder, "test", names)
    shapes = {steps.shape[1:] for part in (train, test) for steps in part.steps}
    if len(shapes) > 1:
        raise ValueError(f"expected steps of one shape, got {sorted(shapes)}")
    people = np.random.default_rng(seed).permutation(np.unique(train.people))
    held = np.isin(train.people, people[: round(validation * len(people))])
    learned = [steps for steps, out in zip(train.steps, held, strict=True) if not out]
    values = np.concatenate([steps.reshape(-1, steps.shape[-1]) for steps in learned])
    mean, deviation = np.nanmean(values, 0), np.nanstd(values, 0)
    deviation = np.where(deviation > 0, deviation, 1)

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
    inside, people = folder / split, None
    if (inside / "Inertial Signals").is_dir():  # UCI HAR: a file for each signal
        files = sorted((inside / "Inertial Signals").glob(f"*_{split}.txt"))
        signals = [np.loadtxt(file, np.float32) for file in files]
        for file, signal in zip(files, signals, strict=True):
            _require_finite(file, signal)
        steps = list(np.stack(signals, -1))
        labels = np.loadtxt(inside / f"y_{split}.txt", np.int32) - 1
        people = np.loadtxt(inside / f"subject_{split}.txt", np.int32)
        names = [line.split()[1] for line in read_lines(folder / "activity_labels.txt")]
    elif inside.is_dir():
        paths, labels, found = class_files(inside, "*.npy")
        if names is not None and found != names:
            raise ValueError(f"expected the classes {names} in {inside}, got {found}")
        names = found
        steps = [np.load(path) for path in paths]
        for path, array in zip(paths, steps, strict=True):
            if array.ndim not in (2, 3, 4) or array.dtype.kind not in "fiub" or not array.size:
                raise ValueError(
                    f"{path}: expected numbers (T, features), (T, H, W) or (T, H, W, C), got "
                    f"{array.dtype} {array.shape}"
                )
            _require_finite(path, array)
        steps = [(x[..., None] if x.ndim == 3 else x).astype(np.float32) for x in steps]
    else:
        files = sorted(folder.glob(f"*_{split.upper()}.ts"))
        if not files:
            raise ValueError(
                f"expected a file *_{split.upper()}.ts or a folder {split} in {folder}"
            )
        steps, said = read_ts(files[0])
        names = sorted(set(said)) if names is None else names
        if not said or not set(said) <= set(names):
            raise ValueError(f"{files[0]}: expected labels among {names}, got {sorted(set(said))}")
        labels = np.array([names.index(label) for label in said], np.int32)
    return Recordings(steps, labels, np.arange(len(steps)) if people is None else people), names


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
