"""JapaneseVowels: 640 recordings of nine speakers who say two vowels, 7 to 29 frames each.

A frame has 12 LPC cepstrum coefficients (Kudo, Toyama, Shimbo 1999, Multidimensional curve
classification using passing-through regions; CC BY 4.0). The package aeon (BSD) contains the .ts
files of timeseriesclassification.com. Training and test set are as published.
"""

from pathlib import Path
from typing import Any

import numpy as np

from seqjax.data import installed_files, read_ts

__all__ = ["FILES", "load"]

FILES = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")


def load(folder: Path | None) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return training and test recordings, scaled by the training frames, and the speakers."""
    if folder is None:
        folder = installed_files("aeon", f"datasets/data/*/{FILES[0]}")[0].parent
    (train, train_labels), (test, test_labels) = (read_ts(folder / name) for name in FILES)
    frames = np.concatenate(train)
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    speakers = sorted(set(train_labels))

    def examples(recordings: list[np.ndarray], labels: list[str]) -> dict[str, Any]:
        ids = np.array([speakers.index(label) for label in labels], np.int32)
        return {"frames": [(frames - mean) / deviation for frames in recordings], "speaker": ids}

    return examples(train, train_labels), examples(test, test_labels), speakers
