"""The models of suite `train_step`, with data and initial weights that all contestants share.

Each model has an embedding, a recurrent network and a readout. Training uses Adam and clips the
gradient by its global norm.
"""

import dataclasses
from typing import Literal

import numpy as np

from benchmarks.workload import Structure, Weights, draw_weights

__all__ = ["ADAM_EPS", "ADAM_RATE", "CLIP_NORM", "Task", "imdb", "language_model"]

ADAM_RATE = 1e-3
ADAM_EPS = 1e-8
CLIP_NORM = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A model, its initial weights and one batch.

    Attributes:
      name: the name of the model.
      structure: the recurrent network, whose inputs are embedded tokens.
      readout: "sigmoid" applies the readout and a sigmoid to the last output; "softmax" applies the
        readout and a softmax to every output.
      ids: int32 `[B, T]`, tokens.
      targets: float32 `[B]` in {0, 1} for "sigmoid"; int32 `[B, T]` for "softmax".
      embedding: the embedding matrix, `[V, I]`.
      weights: the weights of the recurrent network.
      w_out: the weights of the readout, `[H, 1]` or `[H, V]`.
      b_out: the bias of the readout, `[1]` or `[V]`.
    """

    name: str
    structure: Structure
    readout: Literal["sigmoid", "softmax"]
    ids: np.ndarray
    targets: np.ndarray
    embedding: np.ndarray
    weights: Weights
    w_out: np.ndarray
    b_out: np.ndarray

    @property
    def cell(self) -> str:
        """Return the recurrent cell."""
        return self.structure.cell

    @property
    def shape(self) -> tuple[int, ...]:
        """Return B, T, I, H."""
        return (*self.ids.shape, self.structure.inputs, self.structure.hidden)


def _task(
    name: str,
    structure: Structure,
    readout: Literal["sigmoid", "softmax"],
    batch: int,
    steps: int,
    vocabulary: int,
) -> Task:
    rng = np.random.default_rng(0)
    classes = 1 if readout == "sigmoid" else vocabulary
    limit = structure.hidden**-0.5
    ids = rng.integers(0, vocabulary, (batch, steps + 1)).astype(np.int32)
    labels = rng.integers(0, 2, batch).astype(np.float32)
    return Task(
        name=name,
        structure=structure,
        readout=readout,
        ids=ids[:, :-1],
        targets=labels if readout == "sigmoid" else ids[:, 1:],
        embedding=rng.uniform(-0.1, 0.1, (vocabulary, structure.inputs)).astype(np.float32),
        weights=draw_weights(structure, rng),
        w_out=rng.uniform(-limit, limit, (structure.outputs, classes)).astype(np.float32),
        b_out=rng.uniform(-limit, limit, classes).astype(np.float32),
    )


def imdb(batch: int = 32, steps: int = 500, vocabulary: int = 10_000) -> Task:
    """Return a sentiment model of 32 simple recurrent units, which predicts from the last state."""
    return _task("imdb", Structure("elman", 32, 32), "sigmoid", batch, steps, vocabulary)


def language_model(
    batch: int = 20, steps: int = 35, vocabulary: int = 10_000, hidden: int = 200
) -> Task:
    """Return a language model: the next word at every step, from two layers of LSTM."""
    structure = Structure("lstm", hidden, hidden, layers=2)
    return _task("language_model", structure, "softmax", batch, steps, vocabulary)
