"""JapaneseVowels: 640 recordings of nine speakers who say two vowels, 7 to 29 frames each.

A frame has 12 LPC cepstrum coefficients (Kudo, Toyama, Shimbo 1999, Multidimensional curve
classification using passing-through regions; CC BY 4.0). The package aeon (BSD) contains the .ts
files of timeseriesclassification.com. Training and test set are as published.
"""

from pathlib import Path
from typing import Any

import numpy as np

from examples.shipped.motions import read_labelled
from examples.shipped.scaling import deviations
from seqjax.data import installed_files

__all__ = ["FILES", "load"]

FILES = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")


def load(folder: Path | None) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return training and test recordings, scaled by the training frames, and the speakers."""
    if folder is None:
        folder = installed_files("aeon", f"datasets/data/*/{FILES[0]}")[0].parent
    train, train_ids, speakers = read_labelled(folder / FILES[0])
    test, test_ids, _ = read_labelled(folder / FILES[1], speakers)
    channels = train[0].shape[1]
    for name, recordings in zip(FILES, (train, test), strict=True):
        for number, frames in enumerate(recordings, 1):
            place = f"{folder / name}, recording {number}"
            if frames.shape[1] != channels:
                raise ValueError(
                    f"{place}: expected {channels} channels as in {FILES[0]}, got {frames.shape[1]}"
                )
            if not np.isfinite(frames).all():
                got = frames[~np.isfinite(frames)][0]
                raise ValueError(f"{place}: expected finite numbers, got {got}")
    frames = np.concatenate(train)
    mean, deviation = frames.mean(axis=0), deviations(frames)

    def examples(recordings: list[np.ndarray], ids: np.ndarray) -> dict[str, Any]:
        return {"frames": [(frames - mean) / deviation for frames in recordings], "speaker": ids}

    return examples(train, train_ids), examples(test, test_ids), speakers
