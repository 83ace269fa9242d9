"""Contestants compute the same, in sequences, single steps and training; a wrong one shows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import agreement, peers
from benchmarks.peers import PEERS, Peer, Prepared, Stepper, Trainer, Writer
from benchmarks.peers.handwritten import Handwritten
from benchmarks.peers.jax_network import Recurrence
from benchmarks.suites.common import enter, reference
from benchmarks.suites.train_step import losses
from benchmarks.tasks import imdb, language_model
from benchmarks.translation import translation
from benchmarks.workload import Shape, Structure, Workload, make

pytestmark = pytest.mark.two_devices

SHAPE = Shape(batch=4, steps=5, inputs=2, hidden=3)


def loaded(name: str) -> Peer:
    if not PEERS[name].installed:  # not imported here: Keras must be told its backend first
        pytest.skip(f"{PEERS[name].pip} is not installed")
    return peers.load(name)


@pytest.mark.parametrize(
    "cell, variant",
    [("lstm", "lengths"), ("gru", "bidirectional"), ("elman", "plain"), ("lstm", "resets")],
)
@pytest.mark.parametrize("name", PEERS)
def test_contestants_agree_with_the_reference(name: str, cell: str, variant: str) -> None:
    workload = make(cell, variant, SHAPE)
    found = enter(loaded(name), workload, reference(workload))
    if found.prepared is None:
        assert found.reason in ("no lengths", "no resets", "no Elman cell", "same as pytorch")
        assert (found.reason == "no resets") == (variant == "resets")
    elif found.prepared.different is None:
        assert isinstance(found.agreement, float) and found.agreement < 1e-5
    else:
        assert (name, cell) in [("flax_nnx", "gru"), ("haiku", "gru"), ("haiku", "elman")]
        assert str(found.agreement).startswith("different mathematics: ")


@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
@pytest.mark.parametrize("name", PEERS)
def test_steps_agree_with_the_sequence(name: str, cell: str) -> None:
    workload = make(cell, "plain", SHAPE._replace(batch=1))
    stepper = loaded(name).stepper(workload)
    if isinstance(stepper, str):
        assert name in ("seqjax_sharded", "pytorch_padded", "equinox")
        return
    outputs = stepper.outputs()
    stepper.step()
    if stepper.different is None:
        np.testing.assert_allclose(outputs, reference(workload).outputs(), atol=1e-6)
    assert isinstance(stepper, Stepper) and outputs.shape == (1, SHAPE.steps, SHAPE.hidden)


@pytest.mark.parametrize("name", ["seqjax_sharded", "pytorch", "flax_nnx", "keras"])
@pytest.mark.parametrize(
    "task",
    [imdb(4, 6, 11), language_model(4, 3, 11, hidden=5)],
    ids=lambda task: task.name,
)
def test_training_agrees(name: str, task: Any) -> None:
    expected = Handwritten().trainer(task)
    found = loaded(name).trainer(task)
    assert isinstance(expected, Trainer) and isinstance(found, Trainer)
    series = losses(found)
    np.testing.assert_allclose(series, losses(expected), rtol=1e-4)
    assert series == sorted(series, reverse=True)


class Swapped(Handwritten):
    """A contestant that takes two gates for each other."""

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        found = super().recurrence(structure, lengths=lengths)
        assert isinstance(found, Recurrence)

        def wrong(weights: Any) -> Any:
            def swap(array: Any) -> Any:
                first, second, *rest = jnp.split(array, 4, axis=-1)
                return jnp.concatenate([second, first, *rest], axis=-1)

            return jax.tree.map(swap, weights)

        return found._replace(from_common=wrong)


class WrongGradient(Handwritten):
    """A contestant with the right outputs and a wrong gradient."""

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        found = super().recurrence(structure, lengths=lengths)
        assert isinstance(found, Recurrence)

        def apply(params: Any, xs: Any, lengths: Any) -> Any:
            held = [[w | {"b": jax.lax.stop_gradient(w["b"])} for w in layer] for layer in params]
            return found.apply(held, xs, lengths)

        return found._replace(apply=apply)


class Broken(Handwritten):
    """A contestant that fails."""

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        raise RuntimeError("no luck\nat all")


@pytest.mark.parametrize(
    "peer, reason",
    [
        (Swapped(), "disagrees: outputs differ by "),
        (WrongGradient(), "disagrees: gradients of b differ by 1.0e+00"),
        (Broken(), "failed: RuntimeError: no luck"),
    ],
)
def test_wrong_contestants_are_not_timed(peer: Peer, reason: str) -> None:
    workload = make("lstm", "plain", SHAPE)
    found = enter(peer, workload, reference(workload))
    assert found.prepared is None and str(found.reason).startswith(reason)


@pytest.mark.parametrize(
    "found, expected",
    [([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.1], [1.0, 2.0]), ([1.0], [1.0, 2.0])],
)
def test_differences_are_found(found: list[float], expected: list[float]) -> None:
    with pytest.raises(agreement.Disagreement, match=r"outputs differ|shape"):
        agreement.require("outputs", np.array(found), np.array(expected), 1e-4)
    assert agreement.require("outputs", np.array([2.0]), np.array([2.0]), 1e-4) == 0.0


def test_padding_is_not_compared() -> None:
    workload = make("lstm", "lengths", SHAPE)

    class Padded(Prepared):
        def __init__(self, inner: Prepared) -> None:
            self.inner = inner
            self.forward, self.gradient = inner.forward, inner.gradient  # type: ignore[method-assign]

        def forward(self) -> None: ...

        def gradient(self) -> None: ...

        def outputs(self) -> np.ndarray:
            return np.where(workload.real, self.inner.outputs(), 7.0)

        def gradients(self) -> Any:
            return self.inner.gradients()

    assert not workload.real.all()
    expected = reference(workload)
    assert agreement.check(Padded(expected), expected, workload, 1e-9) == 0.0


def test_sharded_needs_a_batch_that_can_be_split() -> None:
    workload = make("lstm", "plain", SHAPE._replace(batch=1))
    assert isinstance(workload, Workload)
    assert peers.load("seqjax_sharded").prepare(workload) == (
        f"a batch of 1 cannot be divided over {jax.device_count()} devices"
    )


def test_unknown_and_missing_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"peers: expected some of seqjax, .*; got 'theano'"):
        peers.choose(["flax_nnx", "theano"])
    gone = dataclasses.replace(PEERS["haiku"], needs="no_such_package")
    monkeypatch.setitem(PEERS, "haiku", gone)
    names, missing = peers.choose(["haiku", "flax_nnx"])
    assert names == ["seqjax", "flax_nnx"]
    assert missing == {"haiku": "not installed (pip install dm-haiku)"}
    assert "haiku" in peers.choose(None)[1]
    assert peers.choose(None, short=True)[0][0] == "seqjax"


TRANSLATION = translation("small", batch=4, steps=4, embed=2, hidden=4, vocabulary=9)


@pytest.mark.parametrize("name", PEERS)
def test_translators_agree_over_several_steps(name: str) -> None:
    trainer = loaded(name).translator(TRANSLATION)
    if isinstance(trainer, str):
        assert trainer in ("no encoder-decoder", "same as pytorch")
        return
    reference = peers.load("seqjax").translator(TRANSLATION)
    assert isinstance(reference, Trainer)
    expected = losses(reference)
    np.testing.assert_allclose(losses(trainer), expected, rtol=1e-5)
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("width", [1, 3])
def test_writers_write_the_same(width: int) -> None:
    found = []
    for name in ("seqjax", "pytorch"):
        writer = loaded(name).writer(TRANSLATION, width)
        assert isinstance(writer, Writer)
        writer.write()
        found.append(writer.tokens())
    assert found[0].shape == (4, 8)
    np.testing.assert_array_equal(found[0], found[1])
