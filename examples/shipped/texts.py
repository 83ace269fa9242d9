"""Texts for language models: the help texts of Python, any file, or a folder of three files.

- The help texts of Python (PSF licence) are in its standard library. Every twentieth document is
  for choosing the epoch, and the document after it is for the test.
- Any text file in UTF-8: the first 90 % are for training, the next 5 % for choosing the epoch, and
  the last 5 % for the test.
- A folder of files whose names end in train.txt, valid.txt and test.txt, such as those of the Penn
  Treebank (Mikolov et al. 2010).
"""

import itertools
import pydoc_data.topics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from examples.shipped.folders import matching, only
from seqjax.data import Windows, read_text
from seqjax.viz._draw import plain

__all__ = ["joined", "load", "plot", "tokens_of", "unigram"]


def load(path: Path | None) -> dict[str, list[str]]:
    """Return documents for "train", "valid" and "test"."""
    splits = ("train", "valid", "test")
    if path is None:
        texts = [text for _, text in sorted(pydoc_data.topics.topics.items())]
        rest = [text for index, text in enumerate(texts) if index % 20 > 1]
        return {"train": rest, "valid": texts[::20], "test": texts[1::20]}
    if not path.is_dir():
        text = read_text(path)
        cuts = [int(len(text) * share) for share in (0.0, 0.9, 0.95, 1.0)]
        parts = [[text[a:b]] for a, b in itertools.pairwise(cuts)]
        return dict(zip(splits, parts, strict=True))
    found = {}
    for split in splits:
        pattern = f"*{split}.txt"
        found[split] = [read_text(only(matching(path, pattern), pattern, path))]
    return found


def tokens_of(text: str, unit: str) -> list[str]:
    """Return the "characters" of a text, or its "words" with <eos> after each line."""
    return list(text) if unit == "characters" else text.replace("\n", " <eos> ").split()


def joined(pieces: Sequence[str], unit: str) -> str:
    """Join tokens, and return their text."""
    text = "".join(pieces) if unit == "characters" else " ".join(pieces)
    return text.replace(" <eos> ", "\n").replace("<eos>", "\n")


def unigram(streams: dict[str, Windows], size: int) -> float:
    """Return the test loss, in nats, of predicting each token by its training frequency."""
    counts = [
        np.bincount(stream.targets[stream.mask], minlength=size)
        for stream in (streams["train"], streams["test"])
    ]
    smoothed = (counts[0] + 1) / (counts[0] + 1).sum()
    return float(-(counts[1] * np.log(smoothed)).sum() / counts[1].sum())


def plot(bits: np.ndarray, pieces: Sequence[str]) -> Figure:
    """Plot the surprise of each token, which is -log2 of its probability, in bits."""
    figure = Figure(figsize=(12, 3), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(bits)), bits, color="0.4")
    labels = [repr(piece)[1:-1] for piece in pieces]
    rotation = 0 if max(map(len, labels)) < 3 else 90
    axes.set_xticks(range(len(bits)), list(map(plain, labels)), rotation=rotation)
    axes.set_ylabel("bits")
    axes.set_title("Surprise of each token of the test text")
    return figure
