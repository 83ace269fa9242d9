"""Dropout of every kind and zoneout: nothing in evaluation, the right places in training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, nn
from seqjax.nn import _layer as layer_module
from tests import references
from tests.cases import assert_close, inputs_of, mask_of, with_garbage
from tests.nn.helpers import (
    B,
    H,
    I,
    T,
    assert_finite,
    float64,
    jit,
    make,
    random,
    run,
    states_of,
    time_first,
)

ALL = dict(
    dropout=0.5, input_dropout=0.5, recurrent_dropout=0.5, weight_dropout=0.5, zoneout=0.5
)  # fmt: skip
KEY = jax.random.key(0)


def linear(num_layers=1, *, w_ih=None, w_hh=None, **options):
    """Layers h_t = x_t W_ih + h_{t-1} W_hh: what a mask did can be read off their outputs."""
    layer: Any = nn.RNN(
        H, H, activation="identity", use_bias=False, num_layers=num_layers, rngs=KEY, **options
    )
    for one in layer.layers:
        one.forward.w_ih[...] = jnp.eye(H) if w_ih is None else w_ih
        one.forward.w_hh[...] = jnp.zeros([H, H]) if w_hh is None else w_hh
    return layer


def varies(values, axis):
    """Whether anything differs along an axis."""
    values = np.asarray(values)
    return bool((values != values.take([0], axis)).any())


# Evaluation.


def noisy_and_plain(name):
    cell, options = seqjax.CELLS[name](I, H), dict(num_layers=2)
    noise = {key: rate for key, rate in ALL.items() if key != "zoneout"}
    return make(cell, **noise, **options), make(cell, **options), inputs_of(cell, (B,), T)


@pytest.mark.quick("lstm", "conv_lstm_1d")
@pytest.mark.parametrize("name", ["elman", "lstm", "cho_gru", "conv_lstm_1d"])
def test_evaluation_is_the_identity(name):
    noisy, plain, xs = noisy_and_plain(name)
    noisy.eval()
    assert_close(run(noisy, xs), run(plain, xs), 0, 0)


def test_evaluation_and_training_by_the_mode_or_by_argument():
    noisy, plain, xs = noisy_and_plain("elman")
    want = run(plain, xs)
    noisy.eval()
    assert_close(run(noisy, xs, rngs=KEY), want, 0, 0)
    assert (run(noisy, xs, deterministic=False, rngs=KEY).outputs != want.outputs).any()
    noisy.train()
    assert_close(run(noisy, xs, deterministic=True), want, 0, 0)
    assert_close(run(noisy, xs, deterministic=True, rngs=KEY), want, 0, 0)
    assert (run(noisy, xs, rngs=KEY).outputs != want.outputs).any()


@pytest.mark.parametrize("rate", ALL)
def test_each_kind_alone_asks_for_random_numbers_in_training_only(rate):
    layers = 2 if rate == "dropout" else 1
    layer = make(cells.Elman(I, H), num_layers=layers, **{rate: 0.5})
    xs = random(B, T, I)
    with pytest.raises(ValueError, match=rf"rngs: .* training with {rate}, got None"):
        layer(xs)
    layer.eval()
    with pytest.raises(ValueError, match=rate):
        layer(xs, deterministic=False)
    evaluated = run(layer, xs)
    if rate != "zoneout":  # whose expectation is part of the model
        assert_close(evaluated, run(make(cells.Elman(I, H), num_layers=layers), xs), 0, 0)


def test_evaluation_needs_and_draws_no_random_number():
    layer = make(cells.GRU(I, H), num_layers=2, **ALL)
    rngs = nnx.Rngs(0)
    layer(random(B, T, I), rngs=rngs, deterministic=True)
    assert rngs.default.count[...] == 0
    assert not jax.tree.leaves(nnx.state(layer, (nnx.RngKey, nnx.RngCount)))


def test_zoneout_in_evaluation_is_its_expectation():
    layer = make(cells.LSTM(I, H), bidirectional=True, merge_mode="none", zoneout=0.3)
    xs, mask, (own,) = random(B, T, I), mask_of((B,), T), layer.initial_state()
    found = run(layer, with_garbage(xs, mask), mask=mask, deterministic=True)
    one, hold = layer.layers[0], jax.tree.map(lambda s: 0.3, own.forward)
    ran = [
        references.unroll(
            "lstm",
            each.cell,
            float64(each.params),
            xs,
            initial_state=float64(own.forward),
            mask=mask,
            zoneout=hold,
            reverse=each is one.backward,
        )
        for each in (one.forward, one.backward)
    ]
    want = tuple(outputs for outputs, _ in ran), (tuple(state for _, state in ran),)
    assert_close(found, want, 1e-5, 1e-5)


# Training: random numbers.


def test_masks_are_fresh_for_each_call_and_fixed_by_the_key():
    layer = make(cells.Elman(I, H), **ALL)
    xs = random(B, T, I)
    first, second = run(layer, xs, rngs=KEY), run(layer, xs, rngs=jax.random.key(1))
    assert_close(run(layer, xs, rngs=KEY), first, 0, 0)
    assert (first.outputs != second.outputs).any()
    layer, rngs, again = linear(2, dropout=0.5), nnx.Rngs(7), nnx.Rngs(7)
    xs = random(B, T, H)
    one, two = layer(xs, rngs=rngs), layer(xs, rngs=rngs)
    assert (one.outputs != two.outputs).any()
    assert_close((layer(xs, rngs=again), layer(xs, rngs=again)), (one, two), 0, 0)


def test_the_stream_is_called_dropout():
    layer = linear(2, dropout=0.5)
    xs = random(B, T, H)
    found = layer(xs, rngs=nnx.Rngs(0, dropout=5))
    assert_close(found, layer(xs, rngs=nnx.Rngs(1, dropout=5)), 0, 0)
    assert (found.outputs != layer(xs, rngs=nnx.Rngs(0, dropout=6)).outputs).any()


def test_random_streams_under_nnx_jit():
    layer, rngs = linear(2, dropout=0.5), nnx.Rngs(0)
    call = nnx.jit(lambda layer, rngs, xs: layer(xs, rngs=rngs).outputs)
    xs = random(B, T, H)
    assert (call(layer, rngs, xs) != call(layer, rngs, xs)).any()


@pytest.mark.parametrize("key", [jax.random.key(3), jax.random.PRNGKey(3)])
def test_typed_and_raw_keys(key):
    layer = linear(2, dropout=0.5)
    assert layer(random(B, T, H), rngs=key).outputs.shape == (B, T, H)


# Training: places, by construction.


def test_dropout_between_layers_is_not_on_the_last():
    xs = np.ones((B, 50, H), np.float32)
    outputs = np.asarray(linear(2, dropout=0.5)(xs, rngs=KEY).outputs)
    assert set(outputs.flat) == {0.0, 2.0}  # once, not 4 as if twice
    outputs = np.asarray(linear(3, dropout=0.5)(xs, rngs=KEY).outputs)
    assert set(outputs.flat) == {0.0, 4.0}
    # Each element on its own: over time, rows and features.
    assert abs((outputs > 0).mean() - 0.25) < 0.05
    for axis in range(3):
        assert varies(outputs, axis)


def test_dropout_of_a_single_layer_does_nothing():
    layer, plain = make(cells.GRU(I, H), dropout=0.5), make(cells.GRU(I, H))
    xs = random(B, T, I)
    assert_close(layer(xs), plain(xs), 0, 0)
    assert_close(layer(xs, rngs=KEY), plain(xs), 0, 0)


@pytest.mark.parametrize(
    "build", [lambda: linear(2), lambda: nn.LRUBlock(H, H, rngs=KEY)], ids=["stack", "block"]
)
def test_a_rate_that_is_set_later_is_checked(build):
    layer = build()
    layer.dropout = 1.5
    with pytest.raises(ValueError, match=r"dropout: expected a number in \[0, 1\), got 1.5"):
        layer(jnp.ones([B, T, H]), rngs=KEY)


def test_dropout_leaves_states_of_the_layers_alone():
    layer = linear(2, dropout=0.5)
    xs = random(B, T, H)
    (first, second), found = layer(xs, rngs=KEY).state, layer(xs, rngs=KEY).outputs
    assert_close(first, xs[:, -1])
    assert_close(second, found[:, -1], 0, 0)


def test_weight_dropout_is_one_mask_for_all_steps_and_sequences():
    layer = linear(w_ih=jnp.eye(H), w_hh=jnp.ones([H, H]), weight_dropout=0.5)
    xs = np.zeros((B, 4, H), np.float32)
    xs[:, 0] = random(B, H)
    outputs = np.asarray(layer(xs, rngs=KEY).outputs, np.float64)
    # h_t = h_{t-1} (W ∘ M): the matrix is read off a run from unit vectors under the same key.
    units = np.zeros((H, 2, H), np.float32)
    units[:, 0] = np.eye(H)
    matrix = np.asarray(layer(units, rngs=KEY).outputs, np.float64)[:, 1]
    assert set(matrix.flat) == {0.0, 2.0}
    for t in range(3):
        assert_close(outputs[:, t + 1], outputs[:, t] @ matrix, 1e-5, 1e-5)
    with pytest.raises(ValueError, match="weight_dropout: expected 0 for IndRNN, which has no"):
        make(cells.IndRNN(I, H), weight_dropout=0.5)


@pytest.mark.parametrize("time_major", [False, True])
def test_input_dropout_is_constant_over_time(time_major):
    layer = linear(2, input_dropout=0.5, time_major=time_major)
    xs = np.ones((2, 20, T, H), np.float32)
    xs = time_first(xs, 2) if time_major else xs
    outputs = np.asarray(layer(xs, rngs=KEY).outputs)
    outputs = outputs if time_major else time_first(outputs, 2)
    assert set(outputs.flat) == {0.0, 4.0}  # the inputs of both layers
    assert (outputs == outputs[0]).all()
    for axis in (1, 2, 3):  # and differs between sequences and features
        assert varies(outputs, axis)


@pytest.mark.parametrize("time_major", [False, True])
def test_recurrent_dropout_is_constant_over_time(time_major):
    # h_t = m ⊙ h_{t-1}: a unit that any step drops stays zero, one that all keep doubles.
    layer = linear(
        recurrent_dropout=0.5, w_ih=jnp.zeros([H, H]), w_hh=jnp.eye(H), time_major=time_major
    )
    xs = np.ones((2, 20, T, H), np.float32)
    state = (jnp.ones((2, 20, H)),)
    xs = time_first(xs, 2) if time_major else xs
    outputs = np.asarray(layer(xs, initial_state=state, rngs=KEY).outputs)
    outputs = outputs if time_major else time_first(outputs, 2)
    kept = outputs[0] > 0
    for t in range(T):
        assert (outputs[t] == np.where(kept, 2.0 ** (t + 1), 0.0)).all()
    assert abs(kept.mean() - 0.5) < 0.15
    for axis in range(3):
        assert varies(kept, axis)


def test_directions_and_layers_have_masks_of_their_own(monkeypatch):
    layer = make(cells.GRU(H, H), num_layers=2, bidirectional=True, merge_mode="sum", **ALL)
    seen = recorded(monkeypatch)
    layer(random(20, T, H), rngs=KEY)
    masks = [np.asarray(call["recurrent_mask"]) for call in seen]
    holds = [np.asarray(call["zoneout"]) for call in seen]
    for drawings in (masks, holds):
        assert len(drawings) == 4
        for i in range(4):
            assert all((drawings[i] != drawings[j]).any() for j in range(i))
    assert (masks[0] / 2 != holds[0][:, 0]).any()


# Training: values.


def recorded(monkeypatch):
    """The problems that layers run from now on."""
    seen: list[dict[str, Any]] = []
    run = vars(layer_module)["run"]

    def recording(cell, problem, plan, **options):
        seen.append(vars(problem))
        return run(cell, problem, plan, **options)

    monkeypatch.setattr(layer_module, "run", recording)
    return seen


@pytest.mark.quick("cho_gru", "min_gru")
@pytest.mark.parametrize(
    "name",
    ["elman_readout", "projected_lstm", "cho_gru", "min_gru", "conv_lstm_1d"],
)
def test_training_equals_numpy_with_the_masks_drawn(name, monkeypatch):
    cell: Any = seqjax.CELLS[name](I, H)
    recurs = cell.recurrent_input(cell.initial_state()) is not None
    layer = make(cell, input_dropout=0.5, zoneout=0.5, recurrent_dropout=0.5 if recurs else 0.0)
    xs, mask, state = inputs_of(cell, (B,), T), mask_of((B,), T), states_of(layer, (B,))
    seen = recorded(monkeypatch)
    found = layer(with_garbage(xs, mask), mask=mask, initial_state=state, rngs=KEY)
    (call,) = seen
    with np.errstate(invalid="ignore"):
        ratio = np.asarray(call["xs"]) / xs
    real = ratio[mask]
    assert set(real.flat) <= {0.0, 2.0}
    noise: dict[str, Any] = {}
    if recurs:
        noise["recurrent_mask"] = np.asarray(call["recurrent_mask"])
        assert set(noise["recurrent_mask"].flat) == {0.0, 2.0}
        assert noise["recurrent_mask"].shape == cell.recurrent_input(state[0]).shape
    for hold in jax.tree.leaves(call["zoneout"]):
        assert hold.dtype == bool and hold.shape[:2] == (B, T)
    want = references.unroll(
        name,
        cell,
        float64(layer.layers[0].forward.params),
        np.where(np.isfinite(call["xs"]), call["xs"], 0),
        initial_state=float64(state[0]),
        mask=mask,
        zoneout=float64(call["zoneout"]),
        **noise,
    )
    assert_close(found, (want[0], (want[1],)), 1e-5, 1e-5)


def test_zoneout_holds_units_exactly():
    layer = make(cells.GRU(I, H), zoneout=0.5)
    outputs = np.asarray(run(layer, random(40, T, I), rngs=KEY).outputs)
    held = outputs[:, 1:] == outputs[:, :-1]
    assert abs(held.mean() - 0.5) < 0.1
    for axis in range(3):  # each unit, step and sequence on its own
        assert varies(held, axis)
    layer = make(cells.LSTM(I, H), zoneout=0.5)
    state = states_of(layer, (40,))
    (found,) = run(layer, random(40, 1, I), initial_state=state, rngs=KEY).state
    held_h, held_c = found.h == state[0].h, found.c == state[0].c
    assert abs(held_h.mean() - 0.5) < 0.2 and abs(held_c.mean() - 0.5) < 0.2
    assert (held_h != held_c).any()


def assert_mean_is_evaluation(layer, xs, state=None, count=4000):
    """The mean of outputs and the last state over many keys, within five standard errors."""

    def call(key=None):
        options = dict(deterministic=True) if key is None else dict(rngs=key)
        found = layer(xs, initial_state=state, **options)
        return found.outputs, found.state[-1]

    samples = jit(jax.vmap(call))(jax.random.split(KEY, count))
    want = jit(call)()
    for values, expected in zip(*map(jax.tree.leaves, float64((samples, want))), strict=True):
        error = 5 * values.std(0) / np.sqrt(count)
        assert error.any()
        assert (np.abs(values.mean(0) - expected) <= error + 1e-6).all()


# Linear in the masks for these few steps.
@pytest.mark.quick("recurrent_dropout")
@pytest.mark.parametrize(
    "options",
    [dict(input_dropout=0.3), dict(num_layers=2, dropout=0.3), dict(recurrent_dropout=0.3)],
    ids=["input_dropout", "dropout", "recurrent_dropout"],
)
def test_the_mean_over_keys_is_the_evaluation(options):
    layer = linear(w_ih=random(H, H), w_hh=random(H, H, seed=4), **options)
    assert_mean_is_evaluation(layer, random(B, 2, H))


@pytest.mark.quick()
def test_the_mean_over_keys_of_zoneout_for_one_step():
    layer = make(cells.LSTM(I, H), zoneout=0.3)
    assert_mean_is_evaluation(layer, random(B, 1, I), states_of(layer, (B,)))


@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_recurrent_dropout_needs_a_recurrent_product(name):
    with pytest.raises(ValueError, match=r"recurrent_dropout: .*no recurrent product"):
        nn.Recurrent(seqjax.CELLS[name](I, H), recurrent_dropout=0.1, rngs=KEY)
    nn.Recurrent(seqjax.CELLS[name](I, H), recurrent_dropout=0.0, zoneout=0.1, rngs=KEY)


def test_padding_reaches_no_gradient_in_training():
    layer = make(cells.Elman(I, H), num_layers=2, norm="layer", **ALL)
    xs, mask = random(B, T, I), mask_of((B,), T)

    @jit
    def gradients(layer, xs):
        loss = lambda layer, xs: jnp.square(  # noqa: E731
            layer(xs, mask=mask, rngs=KEY).outputs
        ).sum()
        return jax.grad(loss, (0, 1))(layer, xs)

    found = gradients(layer, with_garbage(xs, mask))
    assert_finite(found)
    assert (np.asarray(found[1])[~mask] == 0).all()
    assert_close(found, gradients(layer, xs))


@pytest.mark.parametrize("rate", ["recurrent_dropout", "zoneout"])
def test_a_state_without_batch_axes_draws_noise_for_each_sequence(rate):
    """`unroll` takes such a state, from which every sequence starts; so does a layer."""
    layer = make(cells.GRU(I, H), **{rate: 0.5})
    xs, state = np.repeat(random(1, T, I), 20, axis=0), states_of(layer, ())
    tiled = jax.tree.map(lambda s: jnp.broadcast_to(s, (20, H)), state)
    want = layer(xs, initial_state=tiled, rngs=KEY)
    found = layer(xs, initial_state=state, rngs=KEY)
    assert_close(found, want, 0, 0)
    assert varies(found.outputs, 0)


def test_zoneout_as_a_constant_of_a_compiled_function():
    cell = cells.GRU(I, H)
    params, xs = cell.init(KEY), random(B, T, I)
    hold = jnp.full((B, T, H), 0.5)
    found = jax.jit(lambda p: seqjax.unroll(cell, p, xs, zoneout=hold).outputs)(params)
    assert_close(found, seqjax.unroll(cell, params, xs, zoneout=0.5).outputs)
