"""One step at a time and one to many: equal to whole sequences, and those to NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import cells, nn
from tests import references
from tests.cases import assert_close, hold_of, inputs_of, registered
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

step = jit(lambda layer, x_t, state=None: layer.step(x_t, state))


def stepped(layer, xs, state=None, axis=1):
    """The outputs and the final state of a Python loop over the steps."""
    outputs = []
    for t in range(xs.shape[axis]):
        output, state = step(layer, np.take(xs, t, axis), state)
        outputs.append(np.asarray(output))
    return np.stack(outputs, axis), state


def layer_norm(norm, v):
    v = v - v.mean(-1, keepdims=True)
    v = v / np.sqrt((v**2).mean(-1, keepdims=True) + norm.epsilon)
    return v * float64(norm.scale[...]) + float64(norm.bias[...])


@pytest.mark.quick("lstm", "min_gru", "conv_lstm_1d")
@registered
def test_steps_equal_the_sequence_and_numpy(case):
    """With everything that evaluation has: norm, residual, expected zoneout, learned states."""
    layer = make(
        case.cell, num_layers=2, norm="layer", residual=True, zoneout=0.3,
        learned_initial_state=True,
    )  # fmt: skip
    xs = inputs_of(case.cell, (B,), T)
    found = stepped(layer, xs, layer.initial_state((B,)))
    if case.name in ("elman_readout", "lstm", "gru"):
        assert_close(found, tuple(run(layer, xs, deterministic=True)))

    values, finals = xs, []
    for index, (one, own) in enumerate(zip(layer.layers, layer.initial_state(), strict=True)):
        cell, params = one.forward.cell, float64(one.forward.params)
        hold = hold_of(cell, 0.3)
        outputs, final = references.unroll(
            case.name, cell, params, values, initial_state=float64(own), zoneout=hold
        )
        features = values[..., : cell.input_size] if cell.reads_elapsed else values
        if outputs.shape == features.shape:
            outputs = outputs + features
        values = layer_norm(layer.norms[0], outputs) if index == 0 else outputs
        if cell.reads_elapsed:
            values = np.concatenate([values, xs[..., -1:]], axis=-1)
        finals.append(final)
    assert outputs.shape == (B, T, *case.cell.output_shape)
    assert_close(found, (outputs, tuple(finals)), 2e-5, 2e-5)


@pytest.mark.quick("lstm-*")
@pytest.mark.parametrize(
    ("name", "time_major"), [("lstm", False), ("lstm", True), ("conv_lstm_1d", False)]
)
def test_steps_with_batch_norm_and_any_layout(name, time_major):
    cell, batch = {"lstm": cells.LSTM, "conv_lstm_1d": cells.ConvLSTM1D}[name](I, H), (2, 3)
    layer = make(cell, num_layers=2, norm="batch", dropout=0.5, zoneout=0.2, time_major=time_major)
    xs, axis = inputs_of(cell, batch, T), 2
    if time_major:
        xs, axis = time_first(xs, 2), 0
    state = states_of(layer, batch)
    whole = run(layer, xs, initial_state=state, deterministic=True)
    assert_close(stepped(layer, xs, state, axis), tuple(whole))


def test_steps_without_batch_axes():
    layer = make(cells.GRU(I, H), num_layers=2)
    xs = random(T, I)
    assert_close(stepped(layer, xs, axis=0), tuple(run(layer, xs)))


def test_stepping_leaves_the_layer_as_it_was():
    layer = make(cells.GRU(I, H), num_layers=2, norm="batch", dropout=0.5)
    mean = np.asarray(layer.norms[0].mean[...])
    layer.step(random(B, I))  # in training mode: a step is evaluation all the same
    assert (layer.norms[0].mean[...] == mean).all() and layer.deterministic is False


def test_both_directions_cannot_step():
    layer = make(cells.GRU(I, I), bidirectional=True)
    with pytest.raises(ValueError, match="step: a bidirectional layer"):
        layer.step(random(B, I))
    with pytest.raises(ValueError, match="bidirectional"):
        layer.one_to_many(random(B, I), T, feedback=lambda y: y[..., :I])


# One to many.


@functools.partial(jit, static_argnames="return_sequences")
def repeated(layer, x, **options):
    return layer.one_to_many(x, T, **options)


@pytest.mark.quick("False-False", "True-True")
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("time_major", [False, True])
def test_one_to_many_repeats_its_input(time_major, return_sequences):
    layer = make(cells.GRU(I, H), bidirectional=True, time_major=time_major)
    x, state = random(2, B, I), states_of(layer, (2, B))
    xs = np.repeat(x[..., None, :], T, axis=-2)
    xs = time_first(xs, 2) if time_major else xs
    options = dict(
        initial_state=state,
        lengths=np.array([[T, 2, 0], [1, 3, T]]),
        return_sequences=return_sequences,
    )
    found = repeated(layer, x, **options)
    assert_close(found, run(layer, xs, **options))
    lead = (T, 2, B) if time_major else (2, B, T)
    assert found.outputs.shape == (*(lead if return_sequences else (2, B)), 2 * H)


@pytest.mark.quick("True-batch1", "False-batch0")
@pytest.mark.parametrize(
    ("time_major", "batch"), [(False, ()), (True, (B,)), (False, (2, B)), (True, (2, B))]
)
def test_one_to_many_with_feedback_is_a_loop_of_steps(time_major, batch):
    layer = make(
        cells.GRU(I, H), num_layers=2, dropout=0.5, zoneout=0.2, norm="layer",
        learned_initial_state=True, time_major=time_major,
    )  # fmt: skip
    x, matrix = random(*batch, I), random(H, I, seed=9)
    for state in (None, states_of(layer, batch)):
        found = layer.one_to_many(x, T, feedback=lambda y: y @ matrix, initial_state=state)
        x_t, outputs = x, []
        for _ in range(T):
            output, state = step(layer, x_t, state)
            outputs.append(np.asarray(output))
            x_t = outputs[-1] @ matrix
        axis = 0 if time_major else len(batch)
        assert_close(found, (np.stack(outputs, axis), state))


def test_one_to_many_of_a_spatial_cell():
    layer = make(cells.ConvLSTM1D(I, I, spatial_shape=4))
    x = random(B, 4, I)
    want = layer(np.repeat(x[:, None], T, axis=1))
    assert_close(layer.one_to_many(x, T), want)
    found = layer.one_to_many(x, 2, feedback=lambda y: y)
    first, state = layer.step(x)
    second, state = layer.step(first, state)
    assert_close(found, (jnp.stack([first, second], 1), state))


def test_one_to_many_compiles_and_has_a_gradient():
    layer = make(cells.LSTM(I, I), learned_initial_state=True)

    @jit
    @jax.grad
    def gradient(layer, x):
        return jnp.square(layer.one_to_many(x, T, feedback=lambda y: y).outputs).sum()

    found = gradient(layer, random(B, I))
    assert type(found) is nn.Recurrent
    assert_finite(found)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(found))
