"""Values out of range are named at the first batch that has them, compiled or not."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
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


@pytest.mark.quick("metric_fn-label0-3", "accuracy_fn-label1--1")
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


@pytest.mark.quick()
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
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = fit(make_batches(), eval_batches=make_batches(), metric_fn=accuracy_fn)
    assert said == []
    (record,) = found.history
    tokens, label = (np.concatenate([b[k] for b in make_batches()]) for k in ("tokens", "label"))
    right = np.asarray(found.model(tokens)).argmax(axis=-1) == label
    assert record["eval_accuracy"] == pytest.approx(right.mean())


def test_tokens_beyond_the_embedding_show_in_an_accuracy_alone():
    with pytest.raises(ValueError, match=r"ids of the embedding 'embedding': .*got 10"):
        evaluate(make_batches(tokens=BEYOND), accuracy_fn)


WIDE = r"batch\['label'\]: expected integers that u?int32 can hold.* got 4294967296"


@pytest.mark.quick("label2-*", "label5-*", "label6-*", "label8-*")
@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        (np.full(4, 2**32), ValueError, WIDE),
        (np.full(4, 2**32, np.uint64), ValueError, WIDE),
        ([2**32] * 4, ValueError, WIDE),
        (2**32, ValueError, WIDE),
        (np.int64(2**32), ValueError, WIDE),
        (
            np.ma.array([0, 1, 2, 9], mask=[False, False, False, True]),
            ValueError,
            "no masked entries",
        ),
        ([[0, 1], [2]], ValueError, "parts that differ in shape"),
        (np.array(["a"] * 4), TypeError, "expected numbers, got .*'a'"),
        (np.array([None] * 4), TypeError, "expected numbers, got None"),
        (np.array(["2020-01-01"] * 4, "M8[D]"), TypeError, "expected numbers, got datetime64"),
        (np.zeros(4, np.clongdouble), TypeError, "expected a dtype that JAX supports, got complex"),
    ],
)
def test_fields_that_jax_cannot_hold_are_named(label, error, message):
    bad = make_batches()[0] | {"label": label}
    message = message if message == WIDE else rf"batch\['label'\]: .*{message}"
    for prefetch in (0, 2):
        with pytest.raises(error, match=message):
            fit([bad], prefetch=prefetch)
    with pytest.raises(error, match=message):
        fit(make_batches(), eval_batches=[bad], metric_fn=metric_fn)
    with pytest.raises(error, match=message):
        evaluate([bad], metric_fn)
    model = Classifier(nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    step = training.make_train_step(model, loss_fn, optax.sgd(0.1))
    with pytest.raises(error, match=message):
        step(state, bad, jax.random.key(0))


def test_tokens_beyond_32_bits_are_named():
    tokens = make_batches()[3]["tokens"] + 2**32
    with pytest.raises(ValueError, match=r"batch\['tokens'\]: .*int32 can hold"):
        fit(make_batches(tokens=tokens))


@pytest.mark.parametrize(
    "label",
    [[0, 1, 2, 1], (0, 1, 2, 1), pd.Series([0, 1, 2, 1]), np.array([0, 1, 2, 1], object)],
)
def test_lists_and_columns_are_arrays(label):
    expected = evaluate(make_batches(1 + 3, label=np.array([0, 1, 2, 1])), metric_fn)
    assert evaluate(make_batches(1 + 3, label=label), metric_fn) == expected


def test_a_batch_may_be_a_tuple_of_arrays_and_numbers():
    def scaled(model, batch, rngs):
        tokens, label, scale = batch
        assert isinstance(batch, tuple)
        return scale * losses.cross_entropy(model(tokens), label), {}

    batch = make_batches()[0]
    [record] = fit([(batch["tokens"], batch["label"], 0.0)], scaled).history
    assert record["loss"] == 0.0


@pytest.mark.quick("3", "text")
@pytest.mark.parametrize("batches", [make_batches()[0], None, 3, "text"])
def test_what_is_no_iterable_of_batches_is_named(batches):
    with pytest.raises(TypeError, match=r"^batches: expected an iterable of batches, got "):
        evaluate(batches, metric_fn)
    for source in (batches, lambda epoch: batches):
        with pytest.raises(TypeError, match=r"^train_batches: expected an iterable of batches"):
            fit(source)
        with pytest.raises(TypeError, match=r"^eval_batches: expected an iterable of batches"):
            fit(make_batches(), eval_batches=source if source is not None else 3,
                metric_fn=metric_fn)  # fmt: skip


def test_a_key_that_is_none_is_named():
    model = Classifier(nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    step = training.make_train_step(model, loss_fn, optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"key: expected a random key .*got .*int32"):
        step(state, make_batches()[0], 0)
    old, new = (
        step(state, make_batches()[0], key)[1]["loss"]
        for key in (jax.random.PRNGKey(0), jax.random.key(0))
    )
    assert float(old) == float(new)


def test_numbers_beyond_float32_are_not_called_finite():
    large = [batch | {"scale": np.array([1e300])} for batch in make_batches()]

    def scaled(model, batch, rngs):
        return loss_fn(model, batch, rngs)[0] * batch["scale"].sum(), {}

    with pytest.raises(FloatingPointError, match=r"batch\['scale'\] with values beyond float32"):
        fit(large, scaled)


def test_lengths_of_later_batches_on_the_device_are_named():
    """They are not read before the step, which would wait for the device."""

    def batch(length):
        xs, n = np.ones((3, 4, 2), np.float32), np.array([1, 4, length])
        return jax.device_put({"xs": xs, "n": n})

    def mean_fn(model, batch):
        return {"mean": metrics.Mean.of(model(batch)), "one": metrics.Mean(1.0, 1)}

    model = Layered(nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    step = training.make_train_step(model, length_loss, optax.sgd(0.1))
    eval_step = training.make_eval_step(model, mean_fn)
    for length in (5, -1):
        message = rf"lengths: expected 0 to 4.*batch\['n'\] in \[{min(length, 1)}, {max(4, length)}"
        with pytest.raises(ValueError, match=message):
            training.evaluate(eval_step, state, [batch(3), batch(length)])
        batches = [batch(3), batch(2), batch(length)]
        with pytest.raises(ValueError, match=message):
            training.fit(model, length_loss, optax.sgd(0.1), batches, epochs=1, progress=False)
        step(state, batch(3), jax.random.key(0))
        after, measured = step(state, batch(length), jax.random.key(0))
        assert np.isnan(measured["loss"]) and bool(measured["skipped"])
        jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    good = training.evaluate(eval_step, state, [batch(3), batch(4)])
    assert np.isfinite(good["mean"]) and good["one"] == 1.0


@pytest.mark.quick()
def test_no_tracer_of_lengths_outlives_its_transformation():
    batch = {"xs": np.ones((3, 4, 2), np.float32), "n": np.array([1, 4, 0])}
    with jax.checking_leaks():
        search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=3)
        optimizer = optax.chain(optax.sgd(1.0), search)  # computes the loss in a loop
        model = Layered(nnx.Rngs(0))
        result = training.fit(model, length_loss, optimizer, [batch], epochs=1, progress=False)
    assert result.history[0]["skipped"] == 0
