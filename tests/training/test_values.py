"""Values out of range are named at the first batch that has them, compiled or not."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqjax import losses, metrics, nn, training


class Classifier(nnx.Module):
    """Embeds, pools and reads out 3 classes of 10 tokens."""

    def __init__(self, rngs):
        self.embedding = nnx.Embed(10, 4, rngs=rngs)
        self.readout = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, tokens):
        return self.readout(self.embedding(tokens).mean(axis=1))


def loss_fn(model, batch, rngs):
    return losses.cross_entropy(model(batch["tokens"]), batch["label"]), {}


def metric_fn(model, batch):
    return {"loss": metrics.cross_entropy(model(batch["tokens"]), batch["label"])}


def accuracy_fn(model, batch):
    return {"accuracy": metrics.accuracy(model(batch["tokens"]), batch["label"])}


def make_batches(number=5, **changed):
    rng = np.random.default_rng(0)
    made = [
        {"tokens": rng.integers(10, size=(4, 5)), "label": rng.integers(3, size=4)}
        for _ in range(number)
    ]
    made[3] |= changed
    return made


def fit(batches, loss_fn=loss_fn, **options):
    options = {"epochs": 1, "progress": False, **options}
    return training.fit(Classifier(nnx.Rngs(0)), loss_fn, optax.sgd(0.1), batches, **options)


def evaluate(batches, metric_fn):
    model = Classifier(nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    return training.evaluate(training.make_eval_step(model, metric_fn), state, batches)


LABELS_FROM_ONE = np.array([1, 2, 3, 1])
MINUS_ONE = np.array([0, -1, 2, 1])
BEYOND = np.array([[1, 2, 3, 4, 10]] * 4)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(("label", "got"), [(LABELS_FROM_ONE, 3), (MINUS_ONE, -1)])
def test_a_label_out_of_range_is_named_in_training(label, got, prefetch):
    with pytest.raises(
        ValueError, match=rf"labels: expected values in \[0, 2\].*got {got};.*batch\['label'\] in"
    ):
        fit(make_batches(label=label), prefetch=prefetch)


@pytest.mark.parametrize(("label", "got"), [(LABELS_FROM_ONE, 3), (MINUS_ONE, -1)])
@pytest.mark.parametrize("function", [metric_fn, accuracy_fn])
def test_a_label_out_of_range_is_named_in_evaluation(label, got, function):
    message = rf"labels: expected values in \[0, 2\].*got {got};.*batch\['label'\] in"
    batches = make_batches(label=label)
    with pytest.raises(ValueError, match=message):
        evaluate(batches, function)
    with pytest.raises(ValueError, match=message):
        fit(make_batches(), eval_batches=batches, metric_fn=function)


def test_a_label_in_all_batches_shows_at_the_first_step():
    """Not at the end of an epoch, which may be long."""
    made = []

    def batches():
        for batch in make_batches(500):
            made.append(batch)
            yield batch | {"label": LABELS_FROM_ONE}

    with pytest.raises(ValueError, match=r"labels: .*got 3"):
        fit(batches())
    assert len(made) <= 2


def test_a_token_beyond_the_embedding_is_named():
    message = (
        r"ids of the embedding 'embedding': expected values in \[0, 9\].*got 10.*'tokens'\] in"
    )
    with pytest.raises(ValueError, match=message):
        fit(make_batches(tokens=BEYOND))
    with pytest.raises(ValueError, match=message):
        evaluate(make_batches(tokens=BEYOND), metric_fn)


def test_a_label_in_the_users_own_jit_and_scan_is_named():
    @jax.jit
    def inner(logits, labels):
        def step(total, part):
            return total + losses.cross_entropy(*part), None

        return jax.lax.scan(step, jnp.float32(0), (logits[:, None], labels[:, None]))[0]

    def jitted_loss(model, batch, rngs):
        return inner(model(batch["tokens"]), batch["label"]), {}

    with pytest.raises(ValueError, match=r"labels: expected values in \[0, 2\].*got 3"):
        fit(make_batches(label=LABELS_FROM_ONE), jitted_loss)


def test_binary_labels_and_masks():
    def both(model, batch, rngs):
        logits = model(batch["tokens"])
        return losses.binary_cross_entropy(logits[:, 0], batch["label"], mask=batch["real"]), {}

    real = np.array([True, False, True, True])
    ones = [batch | {"real": real, "label": np.array([0, 5, 1, 1])} for batch in make_batches()]
    fit(ones, both)  # the label that is masked does not matter
    wrong = [batch | {"label": np.array([0, 1, 2, 1])} for batch in ones]
    with pytest.raises(ValueError, match=r"labels: expected values in \[0, 1\].*got 2"):
        fit(wrong, both)

    def binary_accuracy(model, batch):
        logits = model(batch["tokens"])[:, 0]
        return {"a": metrics.binary_accuracy(logits, batch["label"], mask=batch["real"])}

    assert 0 <= evaluate(ones, binary_accuracy)["a"] <= 1
    with pytest.raises(ValueError, match=r"labels: expected values in \[0, 1\].*got 2"):
        evaluate(wrong, binary_accuracy)


def test_without_a_cause_the_fields_are_described():
    def infinite(model, batch, rngs):
        return jnp.sum(model(batch["tokens"])) * jnp.inf, {}

    with_x = [batch | {"x": np.array([1.0, np.nan])} for batch in make_batches()]
    with pytest.raises(
        FloatingPointError,
        match=r"all 5 of 5 .*batch\['label'\] in \[\d, 2\], batch\['tokens'\] in \[\d, 9\], "
        r"batch\['x'\] with NaN",
    ):
        fit(with_x, infinite)

    def bad(model, batch):
        return {"bad": metrics.Mean(jnp.float32(jnp.nan), jnp.int32(1))}

    with pytest.warns(UserWarning, match=r"metric_fn: .*got 'bad' .*batch\['label'\] in"):
        assert np.isnan(evaluate(make_batches(), bad)["bad"])


def test_a_skipped_step_of_many_is_described_in_its_warning():
    def sometimes(model, batch, rngs):
        return loss_fn(model, batch, rngs)[0] * batch["scale"], {}

    batches = [batch | {"scale": np.float32(1)} for batch in make_batches()]
    batches[3]["scale"] = np.float32(np.inf)
    with pytest.warns(UserWarning, match=r"1 of 5 steps.*batch\['scale'\] with inf"):
        fit(batches, sometimes)


class Layered(nnx.Module):
    def __init__(self, rngs):
        self.layer = nn.GRU(2, 3, rngs=rngs)

    def __call__(self, batch):
        return self.layer(batch["xs"], lengths=batch["n"]).outputs


def length_loss(model, batch, rngs):
    return jnp.mean(model(batch) ** 2), {}


@pytest.mark.parametrize("lengths", [[1, 5, 2], [1, -1, 2]])
@pytest.mark.parametrize("place", [lambda batch: batch, jax.device_put])
def test_lengths_beyond_the_batch_are_named(lengths, place):
    good = {"xs": np.ones((3, 4, 2), np.float32), "n": np.array([1, 4, 0])}
    bad = good | {"n": np.array(lengths)}
    model = Layered(nnx.Rngs(0))
    message = r"batch\['n'\]: lengths: expected values in \[0, 4\].*got (5|-1)"
    options: Any = {"epochs": 1, "progress": False}
    with pytest.raises(ValueError, match=message):
        training.fit(model, length_loss, optax.sgd(0.1), [place(bad)], **options)
    with pytest.raises(ValueError, match=message):  # a later batch of the same shape
        training.fit(model, length_loss, optax.sgd(0.1), [good, bad], **options)
    state = training.init_state(model, optax.sgd(0.1))
    eval_step = training.make_eval_step(
        model, lambda model, batch: {"mean": metrics.Mean.of(model(batch))}
    )
    with pytest.raises(ValueError, match=message):
        training.evaluate(eval_step, state, [good, bad])


def test_nothing_is_said_of_good_values():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(make_batches(), eval_batches=make_batches(), metric_fn=accuracy_fn)
