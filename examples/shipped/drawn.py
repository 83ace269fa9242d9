"""The adding problem and copy memory, drawn from a seed, and published losses.

Adding (Hochreiter and Schmidhuber 1997): in a sequence of numbers from [0, 1), two numbers are
marked; the answer is the sum of the marked numbers. Copying (Arjovsky, Shah, Bengio 2016): after
ten symbols come `length` blanks, then a sign to repeat the symbols. Every batch is new, so a
network cannot overfit; validation and test sequences come from random streams of their own.
"""

import dataclasses
import math
import operator
from collections.abc import Iterator

import numpy as np

__all__ = [
    "PUBLISHED",
    "RECALL",
    "SIGN",
    "SYMBOLS",
    "TEST",
    "VALIDATION",
    "Draws",
    "adding",
    "baseline",
    "copying",
]

RECALL, SYMBOLS = 10, 8  # number of symbols to copy, and number of different symbols
BLANK, SIGN = 0, SYMBOLS + 1
VALIDATION, TEST = 1, 2  # training draws from stream 0
# Bai, Kolter, Koltun (2018), An empirical evaluation of generic convolutional and recurrent
# networks for sequence modeling, table 1: the loss by task and length.
PUBLISHED = {
    ("adding", 600): {"LSTM": 0.164, "GRU": 5.3e-5, "simple RNN": 0.177},
    ("copy", 1000): {"LSTM": 0.0204, "GRU": 0.0197, "simple RNN": 0.0202},
}


@dataclasses.dataclass(frozen=True)
class Draws:
    """Batches of a task, each drawn when it is requested. An index always gives the same batch."""

    task: str
    length: int
    batch_size: int
    number: int
    seed: tuple[int, ...]
    """The seed of the batches; a batch depends on it and on its index."""

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((*self.seed, operator.index(index)))
        draw = adding if self.task == "adding" else copying
        return draw(rng, self.batch_size, self.length)


def adding(rng: np.random.Generator, size: int, length: int) -> dict[str, np.ndarray]:
    """Return numbers and marks [B, T, 2], and the sum of the marked numbers [B, 1]."""
    numbers = rng.random((size, length), np.float32)
    places = rng.random((size, length)).argpartition(1, axis=1)[:, :2]  # two different ones
    marks = np.zeros_like(numbers)
    np.put_along_axis(marks, places, 1.0, axis=1)
    target = (numbers * marks).sum(axis=1, keepdims=True)
    return {"inputs": np.stack([numbers, marks], axis=-1), "target": target}


def copying(rng: np.random.Generator, size: int, length: int) -> dict[str, np.ndarray]:
    """Return symbols as one-hot vectors [B, T + 20, 10], and the targets [B, T + 20]."""
    symbols = rng.integers(1, SYMBOLS + 1, (size, RECALL), dtype=np.int32)
    tokens = np.full((size, length + 2 * RECALL), BLANK, np.int32)
    target = tokens.copy()
    tokens[:, :RECALL] = target[:, -RECALL:] = symbols
    tokens[:, -RECALL - 1 :] = SIGN
    return {"inputs": np.eye(SIGN + 1, dtype=np.float32)[tokens], "target": target}


def baseline(test: Draws) -> float:
    """Return the lowest loss of a model without memory.

    For the adding problem, such a model always answers 1. For copying, it answers blanks and then
    gives each symbol the same probability.
    """
    if test.task == "adding":
        return float(np.mean([np.square(batch["target"] - 1).mean() for batch in test]))
    return RECALL * math.log(SYMBOLS) / (test.length + 2 * RECALL)
