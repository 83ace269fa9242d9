"""Normalisation between layers, over real steps only; and initial states that are learned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, nn
from seqjax.nn import Bidirectional
from tests.cases import assert_close, inputs_of, mask_of, with_garbage
from tests.nn.helpers import (
    LENGTHS,
    REAL,
    B,
    H,
    I,
    T,
    assert_finite,
    flat_params,
    flat_shapes,
    float64,
    jit,
    make,
    oracle,
    random,
    run,
    states_of,
    time_first,
    train,
)

KEY = jax.random.key(0)
FIRST, SECOND = slice(0, 1), slice(1, 2)
EPSILON = {"layer": 1e-6, "batch": 1e-5}  # Flax's


def normalised(norm, values, mean, variance, epsilon):
    scale, bias = float64((norm.scale[...], norm.bias[...]))
    return (values - mean) / np.sqrt(variance + epsilon) * scale + bias


def layer_normalised(norm, values):
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return normalised(norm, values, mean, variance, EPSILON["layer"])


def two_layers(layer, xs, between, **options):
    """What the NumPy twin says of two layers with something between them."""
    inner, bottom = oracle("gru", layer, xs, only=FIRST, **options)
    inner = inner if isinstance(inner, np.ndarray) else np.concatenate(inner, -1)
    outputs, top = oracle("gru", layer, between(inner), only=SECOND, **options)
    return outputs, (*bottom, *top)


@pytest.mark.quick("True")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer_norm(bidirectional):
    layer = make(
        cells.GRU(I, H), num_layers=2, bidirectional=bidirectional, norm="layer", residual=True
    )
    xs, mask = random(B, T, I), mask_of((B,), T)
    want = two_layers(layer, xs, lambda v: layer_normalised(layer.norms[0], v), mask=mask)
    found = run(layer, with_garbage(xs, mask), mask=mask)
    assert_close(found, want, 2e-5, 2e-5)
    assert (np.asarray(found.outputs)[~mask] == 0).all()  # not the norm's bias


def over_real_steps(layer, mask):
    def between(values):
        real = values[mask]
        mean, variance = real.mean(0), real.var(0)
        return normalised(layer.norms[0], values, mean, variance, EPSILON["batch"])

    return between


def statistics(layer):
    return np.asarray([layer.norms[0].mean[...], layer.norms[0].var[...]], np.float64)


@pytest.mark.quick("True")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_batch_norm_in_training_is_over_real_steps(bidirectional):
    layer = make(
        cells.GRU(I, H), num_layers=2, bidirectional=bidirectional, norm="batch", residual=True
    )
    xs, mask, old = random(B, T, I), mask_of((B,), T), statistics(layer)
    want = two_layers(layer, xs, over_real_steps(layer, mask), mask=mask)
    found = train(layer, with_garbage(xs, mask), mask=mask)
    assert_close(found, want, 5e-5, 5e-5)
    assert (np.asarray(found.outputs)[~mask] == 0).all()
    inner, _ = oracle("gru", layer, xs, only=FIRST, mask=mask)
    real = inner[mask]
    assert_close(statistics(layer), 0.99 * old + 0.01 * np.stack([real.mean(0), real.var(0)]))


def test_batch_norm_in_evaluation_uses_what_was_learned():
    layer = make(cells.GRU(I, H), num_layers=2, norm="batch")
    xs, mask, (mean, variance) = random(B, T, I), mask_of((B,), T), statistics(layer)
    norm = layer.norms[0]
    want = two_layers(
        layer, xs, lambda v: normalised(norm, v, mean, variance, EPSILON["batch"]), mask=mask
    )
    layer.eval()
    assert_close(train(layer, with_garbage(xs, mask), mask=mask), want, 2e-5, 2e-5)
    layer.train()
    assert_close(layer(xs, mask=mask, deterministic=True), want, 2e-5, 2e-5)
    assert_close(statistics(layer), np.stack([mean, variance]), 0, 0)


def test_more_padding_changes_nothing_in_batch_norm():
    options = dict(num_layers=2, norm="batch")
    xs = with_garbage(random(B, T, I), REAL)
    longer = np.concatenate([xs, np.full((B, 4, I), np.nan, np.float32)], 1)
    wider = np.concatenate([longer, np.full((2, T + 4, I), np.inf, np.float32)])
    short, long, wide = (make(cells.GRU(I, H), **options) for _ in range(3))
    want = train(short, xs, lengths=LENGTHS)
    found = train(long, longer, lengths=LENGTHS)
    assert_close((found.outputs[:, :T], found.state), tuple(want))
    found = train(wide, wider, lengths=np.array([*LENGTHS, 0, 0]))
    assert_close(found.outputs[:B, :T], want.outputs)
    assert_close(statistics(long), statistics(short))
    assert_close(statistics(wide), statistics(short))


def test_batch_norm_in_any_layout():
    options = dict(num_layers=2, norm="batch")
    flat, layer = make(cells.GRU(I, H), **options), make(cells.GRU(I, H), **options)
    turned = make(cells.GRU(I, H), time_major=True, **options)
    xs, mask = random(2, 3, T, I), mask_of((2, 3), T)
    want = train(flat, xs.reshape(6, T, I), mask=mask.reshape(6, T)).outputs
    want = np.reshape(want, (2, 3, T, H))
    assert_close(train(layer, xs, mask=mask).outputs, want)
    found = train(turned, time_first(xs, 2), mask=time_first(mask, 2))
    assert_close(found.outputs, time_first(want, 2))
    assert_close(statistics(layer), statistics(flat))
    assert_close(statistics(turned), statistics(flat))


def test_batch_norm_of_a_spatial_cell_with_a_mask():
    layer = make(cells.ConvLSTM1D(I, H, spatial_shape=4), num_layers=2, norm="batch")
    xs, mask, old = inputs_of(layer.cell, (B,), T), mask_of((B,), T), statistics(layer)
    train(layer, with_garbage(xs, mask), mask=mask)
    inner, _ = oracle("conv_lstm_1d", layer, xs, only=FIRST, mask=mask)
    real = inner[mask].reshape(-1, H)
    assert_close(statistics(layer), 0.99 * old + 0.01 * np.stack([real.mean(0), real.var(0)]))


def test_batch_norm_trains_under_plain_jit():
    layer, eager = (make(cells.GRU(I, H), num_layers=2, norm="batch") for _ in range(2))
    graph, _ = nnx.split(layer)

    @jax.jit
    def step(state, xs):
        layer = nnx.merge(graph, state)
        outputs = layer(xs).outputs
        return outputs, nnx.state(layer)

    state = nnx.state(layer)
    for seed in range(3):
        xs = random(B, T, I, seed=seed)
        outputs, state = step(state, xs)
        assert_close(outputs, eager(xs).outputs)
    nnx.update(layer, state)
    assert_close(statistics(layer), statistics(eager))
    # And under Flax's own, which brings the updates back by itself.
    nnx.jit(lambda layer, xs: layer(xs).outputs)(layer, random(B, T, I))
    eager(random(B, T, I))
    assert_close(statistics(layer), statistics(eager))


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_gradient_of_norms_with_padding(norm):
    layer = make(cells.GRU(I, H), num_layers=2, norm=norm)
    xs, mask = random(B, T, I), mask_of((B,), T)

    @jit
    def gradients(layer, xs):
        loss = lambda layer, xs: jnp.square(layer(xs, mask=mask).outputs).sum()  # noqa: E731
        return jax.grad(loss, (0, 1))(layer, xs)

    found = gradients(layer, with_garbage(xs, mask))
    assert_finite(found)
    assert all(g.any() for g in flat_params(found[0]).values())
    assert (np.asarray(found[1])[~mask] == 0).all()
    assert_close(found, gradients(layer, xs), 1e-5, 1e-4)


@pytest.mark.parametrize("case", ["all masked", "no time", "no batch"])
def test_batch_norm_of_no_real_step_leaves_the_statistics_finite(case):
    layer = make(cells.GRU(I, H), num_layers=2, norm="batch")
    old = statistics(layer)
    xs = random(*{"all masked": (B, T), "no time": (B, 0), "no batch": (0, T)}[case], I)
    train(layer, xs, mask=np.zeros(xs.shape[:2], bool))
    assert_finite(statistics(layer))
    assert_close(statistics(layer), old, 0, 0)


def test_norms_stand_between_layers_only():
    for norm in ("layer", "batch"):
        one = make(cells.GRU(I, H), norm=norm)
        assert len(one.norms) == 0
        assert_close(run(one, random(B, T, I)), run(make(cells.GRU(I, H)), random(B, T, I)))
        both = make(cells.GRU(I, H), num_layers=3, bidirectional=True, merge_mode="none", norm=norm)
        assert [each.scale.shape for each in both.norms] == [(2 * H,)] * 2
    assert len(make(cells.GRU(I, H), num_layers=3).norms) == 0


# Learned initial states.


@pytest.mark.parametrize("name", ["gru", "lstm", "projected_lstm", "conv_lstm_1d"])
def test_learned_states_are_parameters(name):
    def build(learned):
        options: dict[str, Any] = dict(num_layers=2, bidirectional=True, rngs=KEY)
        return nn.Recurrent(seqjax.CELLS[name](I, H), learned_initial_state=learned, **options)

    fields = [""] if name == "gru" else ["_h", "_c"]
    params, others = (flat_shapes(jax.eval_shape(lambda b=b: build(b))) for b in (True, False))
    assert set(params) - set(others) == {
        f"layers.{index}.{direction}.initial_state{field}"
        for index in (0, 1)
        for direction in ("forward", "backward")
        for field in fields
    }
    event = jax.tree.leaves(seqjax.CELLS[name](I, H).initial_state())[-1].shape
    assert params["layers.1.backward.initial_state" + fields[-1]] == event
    assert others.items() < params.items()


def test_learned_states_start_at_zero_and_change_no_other_draw():
    learned: Any = nn.RNN(I, H, learned_initial_state=True, rngs=KEY)
    plain: Any = nn.RNN(I, H, rngs=KEY)
    assert not learned.layers[0].forward.initial_state[...].any()
    for name in ("w_ih", "w_hh", "b"):
        ours, theirs = (getattr(one.layers[0].forward, name)[...] for one in (learned, plain))
        assert (ours == theirs).all()


@pytest.mark.parametrize("name", ["lru", "s5"])
def test_complex_states_descend(name):
    """The gradient of a complex array would be the conjugate of the direction of ascent."""
    layer = make(seqjax.CELLS[name](I, H), learned_initial_state=True)
    xs = jnp.zeros([B, T, I])
    goal = random(B, T, *layer.layers[0].forward.cell.output_shape)
    forward = layer.layers[0].forward
    step = jit(nnx.value_and_grad(lambda layer: jnp.square(layer(xs).outputs - goal).mean()))
    losses = []
    for _ in range(8):
        loss, gradient = step(layer)
        losses.append(float(loss))
        for part in ("initial_state_re", "initial_state_im"):
            getattr(forward, part)[...] -= gradient.layers[0].forward[part][...]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0], losses


def test_learned_states_receive_the_gradient():
    layer = make(cells.GRU(I, H), num_layers=2, bidirectional=True, learned_initial_state=True)
    xs = random(B, T, I)
    loss = lambda layer, **options: jnp.square(layer(xs, **options).outputs).sum()  # noqa: E731
    gradient = float64(jit(jax.grad(loss))(layer).initial_state())
    # One parameter starts every sequence: its gradient is the sum of theirs.
    given = jax.grad(lambda layer, state: loss(layer, initial_state=state), (0, 1))
    elsewhere, each = jit(given)(layer, layer.initial_state((B,)))
    assert_close(gradient, jax.tree.map(lambda g: g.sum(0), float64(each)), 1e-5, 1e-5)
    assert all(g.all() for g in jax.tree.leaves(gradient))
    # A given state takes its place.
    assert not any(g.any() for g in jax.tree.leaves(float64(elsewhere.initial_state())))


@pytest.mark.quick("True")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_resets_return_to_the_learned_state(bidirectional):
    layer = make(
        cells.LSTM(I, H), num_layers=2, bidirectional=bidirectional, learned_initial_state=True
    )
    xs, carried = random(B, T, I), states_of(layer, (B,))
    resets = np.zeros((B, T), bool)
    resets[:, [0, 3]] = True
    found = run(layer, xs, resets=resets, initial_state=carried)
    want = oracle("lstm", layer, xs, resets=resets, initial_state=float64(carried))
    assert_close(found, want, 1e-5, 1e-5)
    if not bidirectional:
        assert_close(found.outputs[:, :3], run(layer, xs[:, :3]).outputs)
        assert_close(found.outputs[:, 3:], run(layer, xs[:, 3:]).outputs)


@pytest.mark.quick("True")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_none_stands_for_the_initial_state_of_a_layer(bidirectional):
    layer = make(
        cells.GRU(I, H), num_layers=2, bidirectional=bidirectional, learned_initial_state=True
    )
    xs, given, own = random(B, T, I), states_of(layer, (B,)), layer.initial_state((B,))
    want = run(layer, xs, initial_state=(given[0], own[1]))
    assert_close(run(layer, xs, initial_state=(given[0], None)), want)


def test_none_stands_for_the_initial_state_of_a_direction():
    layer = make(cells.GRU(I, H), bidirectional=True, learned_initial_state=True)
    xs, (given,), (own,) = random(B, T, I), states_of(layer, (B,)), layer.initial_state((B,))
    want = run(layer, xs, initial_state=(Bidirectional(given.forward, own.backward),))
    assert_close(run(layer, xs, initial_state=(Bidirectional(given.forward, None),)), want)


def test_initial_state_in_any_shape_and_dtype():
    layer = make(cells.LSTM(I, H), num_layers=2, learned_initial_state=True)
    state = layer.initial_state((2, B), jnp.bfloat16)
    assert state[1].c.shape == (2, B, H) and state[1].c.dtype == jnp.bfloat16
    assert_close(state[1].c[1, 2], layer.layers[1].forward.initial_state_c[...], 1e-2, 1e-2)
    zeros = make(cells.LSTM(I, H), num_layers=2).initial_state((B,))
    assert not any(leaf.any() for leaf in jax.tree.leaves(zeros))


def test_an_entry_of_none_is_the_layers_own_initial_state():
    layer = nn.GRU(I, H, learned_initial_state=True, rngs=nnx.Rngs(0))
    learned: Any = layer.layers[0].forward
    learned.initial_state[...] = jnp.ones(H)
    xs = jnp.ones([2, 3, I])
    np.testing.assert_array_equal(layer(xs, initial_state=(None,)).outputs, layer(xs).outputs)
    zeros = (jnp.zeros([2, H]),)
    assert not np.array_equal(layer(xs, initial_state=zeros).outputs, layer(xs).outputs)


@pytest.mark.parametrize("flag", ["bidirectional", "time_major", "residual"])
def test_flags_are_bools(flag):
    with pytest.raises(TypeError, match=f"{flag}: expected a bool, got 'no'"):
        nn.GRU(I, H, **{flag: "no"}, rngs=nnx.Rngs(0))  # type: ignore[arg-type]
