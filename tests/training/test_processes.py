"""Comparisons between several processes, of which only one runs."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.experimental import multihost_utils

from seqjax import data, training
from seqjax.training import _processes as processes


def made(examples, rows):
    return data.batches(examples, batch_size=4, sequence_keys=(), seed=0).only_rows(rows)


@pytest.fixture
def told(monkeypatch):
    """Return a list of the arrays that this process sends to the others."""
    arrays: list[np.ndarray] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def gather(value):
        arrays.append(value)
        return np.array([value])

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    return arrays


def compared(monkeypatch, told, first, second):
    """Compare what two processes tell each other about their first batches."""
    for batches in (first, second):
        processes.require_same_batch("train_batches", batches, batches[0])
    half = len(told) // 2
    pairs = iter(list(zip(told[:half], told[half:], strict=True)))
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda value: np.stack(next(pairs)))
    processes.require_same_batch("train_batches", first, first[0])


def test_rows_of_the_same_batches_are_the_same(monkeypatch, told):
    examples = {"x": np.arange(1.0, 17.0)[:, None]}
    compared(monkeypatch, told, made(examples, [0, 1]), made(examples, [2, 3]))


def test_examples_that_were_divided_among_processes_are_noticed(monkeypatch, told):
    """Each process has zeros in the rows of the other, so no row of both has values."""
    x = np.arange(1.0, 17.0)[:, None]
    halves = made({"x": x[0::2]}, [0, 1]), made({"x": x[1::2]}, [2, 3])
    with pytest.raises(ValueError, match=r"train_batches: expected the rows of a batch to be the"):
        compared(monkeypatch, told, *halves)


def test_one_device_in_several_processes_is_an_error(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    batches = data.batches({"x": np.ones((4, 1))}, batch_size=4, sequence_keys=())
    with pytest.raises(ValueError, match=r"devices: expected .* all devices of 2 processes, got 1"):
        training.fit(
            model, lambda model, batch, rngs: (model(batch["x"]).sum(), {}),
            training.optimizer(1e-2), batches, epochs=1, progress=False,
        )  # fmt: skip
