"""Truncated backpropagation: the state goes on, the gradient does not, resets cut both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqjax import cells, metrics, nn, training

BATCH, STEPS, INPUT, HIDDEN = 2, 12, 3, 4


def make_layer(cell="lstm", **options):
    layer = nn.Recurrent(cells.CELLS[cell](INPUT, HIDDEN), rngs=nnx.Rngs(0), **options)
    rng = np.random.default_rng(1)
    for _, leaf in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
        leaf[...] = jnp.asarray(rng.normal(size=leaf.shape) * 0.5, jnp.float32)
    return layer


def make_stream(seed=0):
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(BATCH, STEPS, INPUT)).astype(np.float32)
    resets = rng.random((BATCH, STEPS)) < 0.2
    resets[:, 0] = True
    mask = np.arange(STEPS) < np.array([[STEPS], [STEPS - 3]])
    return xs, resets, mask


@pytest.mark.quick("lstm-False")
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_windows_are_the_whole_stream(cell, time_major):
    layer = make_layer(cell, num_layers=2, time_major=time_major)
    arrays = make_stream()
    if time_major:
        arrays = tuple(np.swapaxes(array, 0, 1) for array in arrays)
    xs, resets, mask = arrays
    whole = layer(xs, resets=resets, mask=mask)
    stateful = nn.Stateful(layer, BATCH)
    stateful(jnp.ones_like(xs))  # what was before does not matter: the first step is a reset
    axis = 0 if time_major else 1
    parts = []
    for window in zip(*(np.split(array, 3, axis) for array in arrays), strict=True):
        parts.append(stateful(window[0], resets=window[1], mask=window[2]).outputs)
    np.testing.assert_allclose(jnp.concatenate(parts, axis), whole.outputs, atol=1e-6)
    for kept, leaf in zip(stateful.carry, jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_allclose(kept[...], leaf, atol=1e-6)
    stateful.reset()
    assert not any(kept[...].any() for kept in stateful.carry)


def test_overlapping_windows_keep_the_state_after_the_stride():
    layer = make_layer()
    xs, resets, mask = make_stream()
    stateful = nn.Stateful(layer, (BATCH,))
    for start in (0, 2, 4):
        window = slice(start, start + 6)
        outputs = stateful(xs[:, window], stride=2, resets=resets[:, window], mask=mask[:, window])
        before = layer(xs[:, :start], resets=resets[:, :start], mask=mask[:, :start])
        expected = layer(
            xs[:, window],
            resets=resets[:, window],
            mask=mask[:, window],
            initial_state=before.state if start else None,
        )
        pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_lengths_are_a_mask_in_overlapping_windows_too():
    xs, resets, mask = make_stream()
    by_mask, by_lengths = (nn.Stateful(make_layer(), BATCH) for _ in range(2))
    for stride in (STEPS - 4, None):
        want = by_mask(xs, stride=stride, resets=resets, mask=mask)
        found = by_lengths(xs, stride=stride, resets=resets, lengths=mask.sum(axis=1))
        np.testing.assert_array_equal(found.outputs, want.outputs)
        for a, b in zip(by_lengths.carry, by_mask.carry, strict=True):
            np.testing.assert_array_equal(a[...], b[...])


@pytest.mark.parametrize("stride", [3, 8, STEPS])
def test_the_last_output_of_a_window_is_that_of_the_layer(stride):
    """Also if the last real step is before the stride, or if there is none."""
    layer = make_layer()
    xs, resets, _ = make_stream()
    for lengths in ([STEPS, 2], [5, 0], [4, 3]):
        stateful = nn.Stateful(layer, BATCH)
        options = {"resets": resets, "lengths": lengths, "return_sequences": False}
        found, expected = stateful(xs, stride=stride, **options), layer(xs, **options)
        np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-6)


@pytest.mark.parametrize("burn_in", [0, 2, 5, 9, STEPS])
def test_the_burn_in_is_that_of_the_whole_window(burn_in):
    layer = make_layer("gru")
    xs, _, _ = make_stream()

    def loss(xs, run, **options):
        return jnp.sum(run(xs, burn_in=burn_in, **options).outputs ** 2)

    found = jax.grad(lambda xs: loss(xs, nn.Stateful(layer, BATCH), stride=5))(xs)
    expected = jax.grad(lambda xs: loss(xs, layer))(xs)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not found[:, :burn_in].any() and found[:, burn_in:].all()


@pytest.mark.quick()
def test_the_gradient_reaches_back_k2_steps_and_no_further():
    """Against the gradient of the same steps from a constant state."""
    layer = make_layer("gru")
    xs, resets, _ = make_stream(seed=3)
    graphdef, params, *rest = nnx.split(layer, nnx.Param, ...)

    def loss(params, start, stop, new, state):
        run = nnx.merge(graphdef, params, *rest)
        outputs = run(xs[:, start:stop], resets=resets[:, start:stop], initial_state=state).outputs
        return jnp.sum(outputs[:, new:] ** 2)

    stateful = nn.Stateful(layer, BATCH)
    definition, *parts = nnx.split(stateful, nnx.Param, ...)
    variables, carried = map(nnx.as_pure, parts)
    total, expected = [], []
    for start in range(0, STEPS - 5, 3):
        new = 0 if start == 0 else 3

        def through(params, carried, start=start, new=new):
            run = nnx.merge(definition, params, carried)
            window = slice(start, start + 6)
            outputs = run(xs[:, window], stride=3, resets=resets[:, window]).outputs
            return jnp.sum(outputs[:, new:] ** 2), nnx.as_pure(nnx.state(run, nnx.Not(nnx.Param)))

        grads, carried = jax.grad(through, has_aux=True)(variables, carried)
        state = layer(xs[:, :start], resets=resets[:, :start]).state if start else None
        right = jax.grad(loss)(params, start, start + 6, new, state)
        total += jax.tree.leaves(grads)
        expected += jax.tree.leaves(right)
    assert len(total) == 3 * len(jax.tree.leaves(params))
    for a, b in zip(total, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


class Model(nnx.Module):
    def __init__(self, batch_size):
        self.rnn = nn.Stateful(make_layer("gru"), batch_size)

    def __call__(self, batch):
        return self.rnn(batch["x"], resets=batch["resets"]).outputs


def loss_fn(model, batch, rngs):
    return jnp.mean((model(batch) - 1.0) ** 2), {}


def metric_fn(model, batch):
    return {"loss": metrics.Mean.of((model(batch) - 1.0) ** 2)}


def measure(model, batches):
    """The metrics of a trained model."""
    step = training.make_eval_step(model, metric_fn)
    return training.evaluate(step, training.init_state(model, optax.identity()), batches)


def windows():
    xs, resets, _ = make_stream()
    return [
        {"x": xs[:, start : start + 4], "resets": resets[:, start : start + 4]}
        for start in (0, 4, 8)
    ]


def fitted_by():
    """The options of a run of three epochs."""
    return {"epochs": 3, "progress": False, "eval_batches": windows(), "metric_fn": metric_fn}


@pytest.mark.quick()
def test_training_and_evaluation_carry_it_and_a_stopped_run_goes_on(tmp_path):
    options, optimizer = fitted_by(), training.optimizer(0.05)
    whole = training.fit(Model(BATCH), loss_fn, optimizer, windows(), **options)
    xs, resets, _ = make_stream()
    stream = [{"x": xs, "resets": resets}]
    assert measure(whole.model, windows()) == pytest.approx(measure(whole.model, stream), rel=1e-5)

    def stopping(epoch):
        for index, batch in enumerate(windows()):
            if (epoch, index) == (1, 2):
                raise KeyboardInterrupt
            yield batch

    with training.Checkpoints(tmp_path, every=1) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            training.fit(
                Model(BATCH), loss_fn, optimizer, stopping, **options, checkpoints=checkpoints
            )
        again = training.fit(
            Model(BATCH), loss_fn, optimizer, windows(), **options, checkpoints=checkpoints,
            resume=True,
        )  # fmt: skip
    for a, b in zip(*(jax.tree.leaves(r.state) for r in (whole, again)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.two_devices
def test_two_devices_carry_it_as_one_does():
    one, two = (
        training.fit(
            Model(BATCH), loss_fn, training.optimizer(0.05), windows(), **fitted_by(), devices=n
        )
        for n in (1, 2)
    )
    assert two.history[-1]["eval_loss"] == pytest.approx(one.history[-1]["eval_loss"], rel=1e-4)


def test_noise_of_overlapping_windows_differs_at_each_step():
    """Half of the units keep their value at a step: other units in the second part of a window."""
    stateful = nn.Stateful(make_layer("gru", zoneout=0.5), BATCH)
    xs = jnp.ones((BATCH, 8, INPUT))
    found = stateful(xs, stride=4, rngs=jax.random.key(1))
    ys = np.asarray(found.outputs)
    held = ys == np.concatenate([np.zeros_like(ys[:, :1]), ys[:, :-1]], 1)
    assert 0.2 < held.mean() < 0.8 and (held[:, :4] != held[:, 4:]).mean() > 0.2
    np.testing.assert_allclose(stateful.carry[0][...], ys[:, 3], atol=1e-6)
    np.testing.assert_allclose(found.state[0], ys[:, 7], atol=1e-6)


def test_batch_norm_of_overlapping_windows_reads_whole_windows():
    xs, resets, mask = make_stream()
    whole, part = (make_layer("gru", num_layers=2, norm="batch") for _ in range(2))
    expected = whole(xs, resets=resets, mask=mask)
    stateful = nn.Stateful(part, BATCH)
    found = stateful(xs, resets=resets, mask=mask, stride=5)
    np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-6)
    for ours, theirs in zip(*map(jax.tree.leaves, (found.state, expected.state)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for ours, theirs in zip(*(jax.tree.leaves(nnx.state(m)) for m in (part, whole)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    again = make_layer("gru", num_layers=2, norm="batch")
    after = again(xs, resets=resets, mask=mask, return_all_states=True)
    for kept, states in zip(stateful.carry, jax.tree.leaves(after.state), strict=True):
        np.testing.assert_allclose(kept[...], states[:, 4], atol=1e-6)


class Twice(cells.MinGRU):
    """A cell whose output is a dict."""

    @property
    def output_shape(self):
        return {"y": (HIDDEN,), "z": (HIDDEN,)}

    def output(self, p, gates, state):
        return {"y": state, "z": 2 * state}


@pytest.mark.parametrize("return_sequences", [True, False])
def test_overlapping_windows_of_a_cell_with_a_dict_as_output(return_sequences):
    layer = nn.Recurrent(Twice(INPUT, HIDDEN), rngs=nnx.Rngs(0))
    xs, *_ = make_stream()
    want = layer(xs, return_sequences=return_sequences).outputs
    got = nn.Stateful(layer, BATCH)(xs, stride=3, return_sequences=return_sequences).outputs
    for name in ("y", "z"):
        np.testing.assert_allclose(got[name], want[name], atol=1e-6)


@pytest.mark.parametrize("stride", [2, None])
def test_spatial_cells_and_lists_of_resets(stride):
    layer = nn.Recurrent(cells.ConvLSTM1D(1, 2, spatial_shape=3), rngs=nnx.Rngs(0))
    xs = np.random.default_rng(0).normal(size=(BATCH, 4, 3, 1)).astype(np.float32)
    resets = [[False, True, False, True]] * BATCH
    found = nn.Stateful(layer, BATCH)(xs, stride=stride, resets=resets)
    expected = layer(xs, resets=resets)
    np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"resets": np.zeros((BATCH, 5), bool), "stride": 2},
            ValueError,
            r"resets: expected shape \(2, 4\), got \(2, 5\)",
        ),
        ({"layer": nnx.Linear(2, 2, rngs=nnx.Rngs(0))}, TypeError, "layer: expected a seqjax.nn.R"),
        ({"layer": "both"}, ValueError, "layer: expected one direction"),
        ({"batch_shape": 0}, ValueError, "batch_shape: expected a positive integer, got 0"),
        ({"xs": np.ones((3, 4, INPUT))}, ValueError, r"xs: expected the batch shape \(2,\), got"),
        ({"xs": np.ones((4, INPUT))}, ValueError, r"xs: expected the batch shape \(2,\), got"),
        ({"stride": 5}, ValueError, "stride: expected at most 4, the steps of xs, got 5"),
        ({"initial_state": None}, ValueError, "initial_state: expected none, since a Stateful"),
        ({"lengths": [1, 5], "stride": 2}, ValueError, "lengths: expected 0 to 4"),
        ({"stride": 0}, ValueError, "stride: expected a positive integer, got 0"),
    ],
)
def test_mistakes_are_named(change, error, message):
    layer = change.get("layer", None)
    if layer is None or layer == "both":
        layer = make_layer("gru", bidirectional=layer == "both")
    given = {"initial_state", "lengths", "resets"} & set(change)
    options = {name: change[name] for name in given}
    with pytest.raises(error, match=message):
        stateful = nn.Stateful(layer, change.get("batch_shape", BATCH))
        xs = change.get("xs", np.ones((BATCH, 4, INPUT), np.float32))
        stateful(xs, stride=change.get("stride"), **options)
