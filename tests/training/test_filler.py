"""Rows that fill up a batch never count, whatever the loss and the metrics are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqjax import data, losses, metrics, nn, sequences, training
from seqjax.training._dependence import dependences
from seqjax.training._filler import counts_filler, find_marks, without_filler


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(2, 4, rngs=rngs)
        self.readout = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, xs, lengths):
        real = sequences.lengths_to_mask(lengths, xs.shape[1])
        return self.readout(sequences.mean_pool(jnp.tanh(self.inner(xs)), mask=real))


def make_examples(number=19, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, size=number)
    xs = [rng.normal(size=(n, 2)).astype(np.float32) for n in lengths]
    return {"xs": xs, "label": [int(x.sum() > 0) + 1 for x in xs]}  # filler has label 0


def logits_of(model, batch):
    return model(batch["xs"], batch["lengths"])


def careless_loss(model, batch, rngs):
    logits = logits_of(model, batch)
    hits = metrics.accuracy(logits, batch["label"])
    return losses.cross_entropy(logits, batch["label"]), {"accuracy": hits, "last": hits.value()}


def careless_metrics(model, batch):
    logits = logits_of(model, batch)
    return {
        "loss": metrics.cross_entropy(logits, batch["label"]),
        "accuracy": metrics.accuracy(logits, batch["label"]),
    }


def careful_loss(model, batch, rngs):
    options = {"mask": batch["weights"]}
    logits = logits_of(model, batch)
    hits = metrics.accuracy(logits, batch["label"], **options)
    loss = losses.cross_entropy(logits, batch["label"], **options)
    return loss, {"accuracy": hits, "last": hits.value()}


def careful_metrics(model, batch):
    logits = logits_of(model, batch)
    options = {"mask": batch["weights"]}
    return {
        "loss": metrics.cross_entropy(logits, batch["label"], **options),
        "accuracy": metrics.accuracy(logits, batch["label"], **options),
    }


def batches(number=19, **options):
    return data.batches(make_examples(number), batch_size=8, sequence_keys=("xs",), **options)


def fit(loss_fn, train_batches, metric_fn=careless_metrics, **options):
    options = {"epochs": 2, "progress": False, **options}
    return training.fit(
        options.pop("model", None) or Classifier(nnx.Rngs(0)),
        loss_fn,
        optax.sgd(0.1),
        train_batches,
        eval_batches=options.pop("eval_batches", train_batches),
        metric_fn=metric_fn,
        **options,
    )


def figures(result):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]


def assert_same(one, other):
    for a, b in zip(figures(one), figures(other), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        one.state.params,
        other.state.params,
    )


@pytest.mark.parametrize("options", [{}, {"boundaries": 2, "seed": 3}, {"prefetch": 2}])
@pytest.mark.quick()
def test_a_loss_that_ignores_weights_gives_what_short_batches_give(options):
    made = {name: options[name] for name in ("boundaries", "seed") if name in options}
    run = {name: options[name] for name in ("prefetch",) if name in options}
    short = fit(careless_loss, batches(pad_batch=False, **made))
    assert_same(fit(careless_loss, batches(**made), **run), short)
    assert_same(fit(careful_loss, batches(**made), careful_metrics, **run), short)


@pytest.mark.quick()
def test_the_figures_are_those_of_the_examples_by_hand():
    """With a learning rate of 0, an epoch's means are those over all 19 examples in one batch."""
    model = Classifier(nnx.Rngs(0))
    result = training.fit(
        model, careless_loss, optax.sgd(0.0), batches(), epochs=1, progress=False,
        eval_batches=batches(), metric_fn=careless_metrics,
    )  # fmt: skip
    (whole,) = data.batches(make_examples(), batch_size=19, sequence_keys=("xs",))
    logits = np.asarray(logits_of(model, whole), np.float64)
    labels = whole["label"]
    z = logits - logits.max(-1, keepdims=True)
    nats = np.log(np.exp(z).sum(-1)) - z[np.arange(19), labels]
    hits = logits.argmax(-1) == labels
    [record] = result.history
    for prefix in ("", "eval_"):
        assert record[prefix + "loss"] == pytest.approx(nats.mean(), rel=1e-5)
        assert record[prefix + "accuracy"] == pytest.approx(hits.mean(), rel=1e-6)
    assert record["last"] == pytest.approx(hits.mean(), rel=1e-6)  # a scalar, weighted by its rows


@pytest.mark.quick()
def test_several_lengths_and_a_loader():
    rng = np.random.default_rng(0)
    pairs = {
        "source": [rng.normal(size=(n, 2)).astype(np.float32) for n in rng.integers(1, 5, 11)],
        "target": [rng.normal(size=(n, 2)).astype(np.float32) for n in rng.integers(1, 5, 11)],
    }
    keys = {"read": ["source"], "write": ["target"]}

    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.one, self.other = nn.GRU(2, 3, rngs=rngs), nn.GRU(2, 3, rngs=rngs)

        def __call__(self, batch):
            read = self.one(batch["source"], lengths=batch["read_lengths"], return_sequences=False)
            write = self.other(
                batch["target"], lengths=batch["write_lengths"], return_sequences=False
            )
            return read.outputs - write.outputs + 1.0  # filler gives 1

    def loss_fn(model, batch, rngs):
        return jnp.mean(model(batch) ** 2), {}

    def metric_fn(model, batch):
        return {"square": metrics.Mean.of(model(batch) ** 2)}

    def made(**options):
        return data.batches(pairs, batch_size=4, sequence_keys=keys, **options)

    model = Pair(nnx.Rngs(0))
    padded = fit(loss_fn, lambda epoch: data.prefetch(made(), size=1), metric_fn, model=model,
                 eval_batches=lambda epoch: data.prefetch(made()))  # fmt: skip
    assert_same(padded, fit(loss_fn, made(pad_batch=False), metric_fn, model=model))


@pytest.mark.quick()
def test_weights_inside_the_users_own_jit_and_scan_are_seen():
    @jax.jit
    def inner(logits, labels, weights):
        def chunk(total, part):
            return total.merge(metrics.cross_entropy(*part[:2], mask=part[2])), None

        parts = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), (logits, labels, weights))
        start = metrics.Mean(jnp.float32(0), jnp.int32(0))
        return jax.lax.scan(chunk, start, parts)[0]

    def loss_fn(model, batch, rngs):
        return inner(logits_of(model, batch), batch["label"], batch["weights"]).value(), {}

    def metric_fn(model, batch):
        return {"loss": inner(logits_of(model, batch), batch["label"], batch["weights"])}

    # It needs whole batches: with rows left out the reshape would fail.
    result = fit(loss_fn, batches(), metric_fn)
    short = fit(careless_loss, batches(pad_batch=False))
    assert [r["loss"] for r in result.history] == pytest.approx([r["loss"] for r in short.history])
    assert result.history[-1]["eval_loss"] == pytest.approx(short.history[-1]["eval_loss"])


@pytest.mark.quick()
def test_weights_that_are_read_and_thrown_away_do_not_count_as_read():
    def loss_fn(model, batch, rngs):
        careful_loss(model, batch, rngs)
        _ = jax.jit(lambda a, b: (a, b.sum()))(batch["label"], batch["weights"])
        return careless_loss(model, batch, rngs)

    def metric_fn(model, batch):
        careful_metrics(model, batch)
        return careless_metrics(model, batch)

    assert_same(fit(loss_fn, batches(), metric_fn), fit(careless_loss, batches(pad_batch=False)))


@pytest.mark.quick()
def test_a_careless_metric_beside_a_careful_loss():
    def loss_fn(model, batch, rngs):
        return careful_loss(model, batch, rngs)[0], careless_loss(model, batch, rngs)[1]

    def metric_fn(model, batch):
        careless, careful = careless_metrics(model, batch), careful_metrics(model, batch)
        return {"loss": careful["loss"], "accuracy": careless["accuracy"]}

    assert_same(fit(loss_fn, batches(), metric_fn), fit(careless_loss, batches(pad_batch=False)))


@pytest.mark.quick()
def test_statistics_of_batch_norm_are_those_of_real_rows():
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(2, momentum=0.5, rngs=rngs)
            self.readout = nnx.Linear(2, 3, rngs=rngs)

        def __call__(self, xs, lengths):
            return self.readout(self.norm(xs[:, 0]))

    results = [
        fit(careful_loss, batches(pad_batch=pad), careful_metrics, model=Normed(nnx.Rngs(0)))
        for pad in (True, False)
    ]
    for name in ("mean", "var"):
        padded, short = (result.state.model_state["norm"][name] for result in results)
        np.testing.assert_allclose(padded, short, rtol=1e-5)


def stateful_loss(careful):
    def loss_fn(model, batch, rngs):
        outputs = model(batch["xs"][:, :1]).outputs
        options = {"mask": batch["weights"]} if careful else {}
        return losses.mean_squared_error(outputs, outputs * 0 + 1, **options), {}

    return loss_fn


@pytest.mark.quick()
def test_a_model_that_needs_whole_batches_must_read_weights():
    model = nn.Stateful(nn.GRU(2, 4, rngs=nnx.Rngs(0)), batch_shape=8)
    state = training.init_state(model, optax.sgd(0.1))
    *_, last = batches()
    key = jax.random.key(0)
    training.make_train_step(model, stateful_loss(True), optax.sgd(0.1))(state, last, key)
    careless = training.make_train_step(model, stateful_loss(False), optax.sgd(0.1))
    careless(state, batches()[0], key)  # nothing is filler there
    with pytest.raises(ValueError, match=r"loss_fn: .*batch\['weights'\].*mask=batch\['weights'\]"):
        careless(state, last, key)
    eval_step = training.make_eval_step(
        model, lambda model, batch: {"a": metrics.Mean.of(model(batch["xs"][:, :1]).outputs)}
    )
    with pytest.raises(ValueError, match=r"metric_fn: .*mask=batch\['weights'\]"):
        training.evaluate(eval_step, state, batches())


def test_a_field_that_has_not_one_entry_a_row_cannot_be_cut():
    batch = batches()[2] | {"scale": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=r"batch\['scale'\]: expected 8 rows"):
        fit(careless_loss, [batch])
    # A scalar belongs to all rows.
    fit(careless_loss, [batches()[2] | {"scale": np.float32(1)}])


def test_a_step_of_ones_own_loop_leaves_filler_out_of_arrays_on_the_device_too():
    model = Classifier(nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    step = training.make_train_step(model, careless_loss, optax.sgd(0.1))
    padded, short = batches()[2], batches(pad_batch=False)[2]
    assert padded["xs"].shape[0] == 8 and short["xs"].shape[0] == 3
    _, expected = step(state, short, jax.random.key(0))
    for batch in (padded, jax.device_put(padded)):
        _, found = step(state, batch, jax.random.key(0))
        assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)


@pytest.mark.quick()
def test_full_batches_and_careful_losses_are_traced_once():
    traces = []

    def loss_fn(model, batch, rngs):
        traces.append(batch["xs"].shape)
        return careful_loss(model, batch, rngs)

    fit(loss_fn, batches(16), careful_metrics)
    assert traces == [(8, 5, 2)]
    traces.clear()
    fit(loss_fn, batches(), careful_metrics)
    assert traces == [(8, 5, 2)] * 2  # once more to see that it reads the weights


@pytest.mark.quick()
def test_a_run_goes_on_within_an_epoch_to_the_same_figures(tmp_path):
    whole = fit(careless_loss, batches())

    def stopping(epoch):
        for index, batch in enumerate(batches()):
            if (epoch, index) == (1, 2):
                raise KeyboardInterrupt
            yield batch

    with training.Checkpoints(tmp_path, every=1) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            fit(careless_loss, stopping, eval_batches=batches(), checkpoints=checkpoints)
        again = fit(careless_loss, batches(), checkpoints=checkpoints, resume=True)
    assert figures(again) == figures(whole)
    jax.tree.map(np.testing.assert_array_equal, again.state.params, whole.state.params)


@pytest.mark.two_devices
def test_two_devices_leave_filler_out():
    one, two = fit(careless_loss, batches()), fit(careless_loss, batches(), devices=2, prefetch=1)
    assert_same(one, two)


def test_float_weights_of_examples_are_left_alone():
    batch = {"xs": np.ones((3, 2)), "weights": np.array([1.0, 0.0, 2.0])}
    assert find_marks(batch) == [] and without_filler(batch) is batch


def test_marks_of_a_part_of_a_batch_are_those_of_its_rows():
    part = {"x": np.arange(3), "weights": np.array([True, False, True])}
    cut = without_filler({"a": part, "b": np.arange(5)})
    assert cut["a"]["x"].tolist() == [0, 2] and cut["b"].tolist() == [0, 1, 2, 3, 4]
    assert counts_filler(lambda state, batch: batch["a"]["x"].sum(), None, {"a": part})
    assert not counts_filler(
        lambda state, batch: batch["b"].sum(), None, {"a": part, "b": part["x"]}
    )


@jax.custom_vjp
def doubled(x, y):
    return 2 * x


doubled.defvjp(lambda x, y: (2 * x, None), lambda _, g: (2 * g, None))


@jax.custom_jvp
def second(x, y):
    return y


second.defjvp(lambda primals, tangents: (primals[1], tangents[1]))


def loop(x, y):
    return jax.lax.fori_loop(0, 3, lambda i, carry: (carry[0] + 1, carry[0]), (x, y))


def shifted(x, y):
    """A scan in which y reaches the first carry after two steps."""

    def step(carry, x):
        a, b, c = carry
        return (b, c, c), a

    (a, _b, _c), ys = jax.lax.scan(step, (0.0, 0.0, y), jnp.ones(4) * x)
    return a, ys


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, y: (x + y, x * 0, 1.0), [{0, 1}, {0}, set()]),
        (doubled, [{0}]),
        (second, [{1}]),
        (lambda x, y: jax.checkpoint(lambda a, b: a)(y, x), [{1}]),
        (lambda x, y: jax.jit(lambda a, b: (b, a))(x, y), [{1}, {0}]),
        (loop, [{0}, {0, 1}]),
        (shifted, [{1}, {1}]),
        (lambda x, y: jax.lax.cond(x > 0, lambda: 1.0, lambda: 2.0), [{0}]),
        (lambda x, y: jax.lax.cond(x > 0, lambda: y, lambda: 2.0), [{0, 1}]),
        (lambda x, y: jax.lax.while_loop(lambda s: s < y, lambda s: s + 1, 0.0), [{1}]),
        (lambda x, y: jax.vmap(lambda a: jax.nn.relu(a))(jnp.ones(2) * x), [{0}]),
        (lambda x, y: jax.grad(lambda a: doubled(a, y) * y)(x), [{1}]),
        (lambda x, y: jax.lax.linalg.cholesky(jnp.eye(2) * x), [{0}]),
    ],
)
def test_dependences(function, expected):
    program = jax.make_jaxpr(function)(1.0, 2.0)
    assert [set(found) for found in dependences(program, [{0}, {1}])] == expected


@pytest.mark.quick()
def test_lengths_in_a_list_do_not_keep_filler_in():
    """A list of numbers is one field, and no field for each of its numbers."""
    listed = [batch | {"lengths": batch["lengths"].tolist()} for batch in batches()]
    assert_same(fit(careless_loss, listed), fit(careless_loss, batches(pad_batch=False)))
