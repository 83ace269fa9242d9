"""Cells of seqjax in Flax's `nnx.RNN` and `nnx.Bidirectional`, against `seqjax.unroll`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells
from tests.cases import assert_close, draw_like, inputs_of, registered, state_of
from tests.nn.helpers import B, H, I, T, drawn, jit, random
from tests.nn.test_flax_cells import LENGTHS, REAL, weighted

XS: Any = random(B, T, I)
as_nnx_cell: Any = seqjax.nn.as_nnx_cell


def module_of(cell, seed=1) -> Any:
    """The NNX cell of a cell, with random parameters."""
    return drawn(lambda: as_nnx_cell(cell, rngs=nnx.Rngs(0)), seed)


@pytest.mark.quick("lstm")
@registered
def test_the_rnn_of_nnx_equals_unroll(case):
    module, xs = module_of(case.cell), inputs_of(case.cell, (B,), T)

    @jit
    def theirs(module, xs):
        def loss(module, xs):
            rnn = nnx.RNN(module, return_carry=True, rngs=False)
            carry, outputs = rnn(xs, seq_lengths=LENGTHS)
            return weighted(outputs, carry), (outputs, carry)

        gradients, found = nnx.grad(loss, argnums=(0, 1), has_aux=True)(module, xs)
        return found, gradients

    @jit
    def ours(params, xs):
        def loss(params, xs):
            found = seqjax.unroll(case.cell, params, xs, lengths=LENGTHS)
            return weighted(*found), found

        gradients, found = jax.grad(loss, (0, 1), has_aux=True, allow_int=True)(params, xs)
        return found, gradients

    (outputs, carry), (d_params, d_xs) = theirs(module, xs)
    expected, (d_expected, d_xs_expected) = ours(module.params, xs)
    assert_close(np.asarray(outputs)[REAL], np.asarray(expected.outputs)[REAL], 1e-6, 1e-6)
    assert_close(carry, expected.state, 1e-6, 1e-6)
    assert_close(d_xs, d_xs_expected, 1e-6, 1e-6)
    d_params = nnx.to_pure_dict(d_params)
    d_expected = {name: d for name, d in d_expected._asdict().items() if name in d_params}
    assert_close(d_params, d_expected, 2e-6, 2e-6)
    assert d_params


def test_the_options_of_the_rnn_of_nnx():
    module = module_of(cells.LSTM(I, H))
    start = state_of(module.cell, (B,))
    rnn = nnx.RNN(module, time_major=True, reverse=True, keep_order=True, return_carry=True)
    carry, outputs = rnn(np.moveaxis(XS, 1, 0), initial_carry=start, seq_lengths=LENGTHS)
    expected = seqjax.unroll(
        module.cell, module.params, XS, state=start, lengths=LENGTHS, reverse=True
    )
    found = np.moveaxis(np.asarray(outputs), 0, 1)
    assert_close(found[REAL], np.asarray(expected.outputs)[REAL], 1e-6)
    assert_close(carry, expected.state, 1e-6)
    assert isinstance(carry, cells.LSTMState)


def test_both_directions_of_nnx_equal_a_layer():
    pair = [module_of(cells.GRU(I, H), seed) for seed in (1, 2)]
    both = nnx.Bidirectional(*(nnx.RNN(module) for module in pair), return_carry=True)
    layer = seqjax.nn.Recurrent(
        cells.GRU(I, H), bidirectional=True, params=[tuple(module.params for module in pair)]
    )
    carry, outputs = both(XS, seq_lengths=LENGTHS)
    expected, (state,) = layer(XS, lengths=LENGTHS)
    assert_close(np.asarray(outputs)[REAL], np.asarray(expected)[REAL], 1e-6)
    assert_close(carry, state, 1e-6)


def test_a_module_trains_under_nnx():
    model: Any = nnx.RNN(as_nnx_cell(cells.MGU(I, H), rngs=nnx.Rngs(0)))
    before = jax.tree.map(np.asarray, model.cell.params)

    @nnx.jit
    def step(model):
        loss, gradient = nnx.value_and_grad(lambda model: jnp.square(model(XS) - 1).mean())(model)
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient))
        return loss

    losses = [float(step(model)) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert all((a != b).any() for a, b in zip(before, model.cell.params, strict=True))


def test_the_protocol():
    module = as_nnx_cell(cells.LSTM(I, H), param_dtype=jnp.bfloat16, rngs=jax.random.key(0))
    assert issubclass(type(module), nnx.RNNCellBase)
    assert (module.num_feature_axes, module.in_features, module.hidden_features) == (1, I, H)
    assert module.w_hh.dtype == jnp.bfloat16
    carry = module.initialize_carry((2, B, I), nnx.Rngs(0))
    assert carry.h.shape == (2, B, H) and carry.h.dtype == jnp.bfloat16
    new, output = module(carry, jnp.ones((2, B, I)))
    assert output.dtype == jnp.float32 and new.c.dtype == jnp.bfloat16
    conv = as_nnx_cell(cells.ConvLSTM2D(I, H, spatial_shape=(4, 5)), rngs=nnx.Rngs(0))
    assert conv.num_feature_axes == 3
    assert conv.initialize_carry((B, 4, 5, I)).h.shape == (B, 4, 5, H)


def test_there_and_back_again():
    module = module_of(cells.GRU(I, H))
    cell, params = seqjax.nn.from_nnx(module)
    found = seqjax.unroll(cell, params, XS, lengths=LENGTHS)
    expected = seqjax.unroll(module.cell, module.params, XS, lengths=LENGTHS)
    assert_close(found, expected, 1e-6)
    assert dataclasses.replace(cell) == cell == seqjax.nn.from_nnx(module_of(cells.GRU(I, H), 2))[0]
    assert_close(params, draw_like(params, 1, 0.0, np.float32), 10)
