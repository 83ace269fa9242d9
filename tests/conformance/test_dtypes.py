"""The dtype rule: inputs decide, the state keeps its own, sums are float32 or wider."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.cells import initializers
from tests.cases import (
    PICKED,
    assert_close,
    conformant,
    dtype_for,
    hold_of,
    inputs_of,
    mask_of,
    params_of,
    reference,
    registered,
    state_of,
)

HALF = [jnp.bfloat16, jnp.float16]


def dtypes(state):
    return [leaf.dtype for leaf in jax.tree.leaves(state)]


@pytest.mark.quick("lstm-fused-*", "min_gru-associative-bfloat16", "conv_lstm_1d-fused-bfloat16")
@pytest.mark.parametrize("dtype", HALF)
@conformant
def test_half_precision(case, dtype):
    if dtype == jnp.float16 and case.name not in PICKED:
        pytest.skip("a few cells show what float16 changes")
    case.needs(dtype)
    cell = case.cell
    params = params_of(cell)
    if dtype == jnp.float16:  # in bfloat16 the parameters stay float32
        params = jax.tree.map(lambda a: a.astype(dtype), params)
    xs, mask = jnp.asarray(inputs_of(cell, (3,)), dtype), mask_of((3,))
    got = case.unroll(params, xs, mask=mask)
    assert got.outputs.dtype == dtype
    assert dtypes(got.state) == dtypes(cell.initial_state((3,), dtype))
    # The reference sees what the cell sees: rounded inputs and parameters. What is left is the
    # rounding of states, once a step.
    rounded = jax.tree.map(lambda a: a.astype(dtype).astype(jnp.float32), (params, xs))
    want = reference(case, *rounded, mask=mask)
    epsilon = float(jnp.finfo(dtype).eps)
    assert_close(got, want, atol=20 * epsilon, rtol=20 * epsilon)


@pytest.mark.quick("elman_readout-*", "lstm-*", "cho_gru-*", "min_gru-*", "conv_lstm_1d-*")
@conformant
def test_a_given_state_keeps_its_dtype(case):
    case.needs(jnp.bfloat16)
    cell, params = case.cell, params_of(case.cell)
    xs = jnp.asarray(inputs_of(cell, (3,)), jnp.bfloat16)
    state = state_of(cell, (3,))

    def run(xs, state):
        return jax.eval_shape(lambda: case.unroll(params, xs, state=state))

    got = run(xs, state)
    assert got.outputs.dtype == jnp.bfloat16
    assert dtypes(got.state) == dtypes(state)
    low = jax.tree.map(lambda s: s.astype(dtype_for(s, jnp.bfloat16)), state)
    got = run(xs.astype(jnp.float32), low)
    assert got.outputs.dtype == jnp.float32
    assert dtypes(got.state) == dtypes(low)


@pytest.mark.quick("lstm-fused", "min_gru-associative", "conv_lstm_1d-fused")
@conformant
def test_float64(case, x64):
    case.needs(np.float64)
    cell = case.cell
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params_of(cell))
    xs, mask = inputs_of(cell, (3,)).astype(np.float64), mask_of((3,))
    got = case.unroll(params, xs, mask=mask)
    assert got.outputs.dtype == jnp.float64
    assert_close(got, reference(case, params, xs, mask=mask), 1e-13, 1e-13)


@pytest.mark.quick("elman_readout-*", "lstm-*", "cho_gru-*", "min_gru-*", "conv_lstm_1d-*")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@conformant
def test_no_implicit_promotion(case, dtype):
    case.needs(dtype)
    cell, params = case.cell, params_of(case.cell)
    with jax.numpy_dtype_promotion("strict"):
        xs = jnp.asarray(inputs_of(cell, (3,)), dtype)
        hold = hold_of(cell, 0.1)
        resets = mask_of((3,), seed=9)
        run = lambda: case.unroll(params, xs, mask=mask_of((3,)), resets=resets, zoneout=hold)  # noqa: E731
        assert jax.eval_shape(run).outputs.dtype == dtype


@pytest.mark.quick("lstm-bfloat16", "conv_lstm_1d-bfloat16", "min_gru-bfloat16")
@pytest.mark.parametrize("dtype", [jnp.float32, *HALF])
@registered
def test_parameters_are_drawn_in_the_dtype_asked_for(case, dtype):
    with jax.numpy_dtype_promotion("strict"):
        params = case.cell.init(jax.random.key(0), dtype)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))


def test_half_precision_products_are_summed_in_float32():
    # 1 + 2000 · 2^-9 is 4.9; summed in bfloat16, which cannot tell 2 from 2 + 2^-9, it sticks at 2.
    cell = seqjax.cells.Elman(2001, 1, activation="identity")
    params = jax.tree.map(jnp.ones_like, cell.init(jax.random.key(0)))._replace(b=jnp.zeros(1))
    xs = jnp.full((1, 2001), 2.0**-9, jnp.bfloat16).at[0, 0].set(1)
    got = seqjax.unroll(cell, params, xs)
    assert abs(float(got.outputs[0, 0]) - 4.90625) < 0.02


@pytest.mark.quick("lstm")
@pytest.mark.parametrize("name", ["lstm", "gru", "cho_gru", "peephole_lstm", "coupled_lstm"])
def test_recurrent_weights_are_orthogonal_per_gate(name):
    w = seqjax.CELLS[name](3, 8).init(jax.random.key(0)).w_hh
    for block in jnp.split(w, w.shape[1] // 8, axis=1):
        assert_close(block.T @ block, np.eye(8), 1e-5)


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm", "projected_lstm", "layer_norm_lstm"])
def test_forget_bias_on_demand(name):
    make: Any = seqjax.CELLS[name]
    b = make(3, 8, forget_bias=1.0).init(jax.random.key(0)).b
    assert b.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    assert not seqjax.CELLS[name](3, 8).init(jax.random.key(0)).b.any()


def test_chrono_biases():
    b = seqjax.cells.LSTM(3, 64, chrono=100).init(jax.random.key(0)).b
    assert b is not None
    i, f, g, o = jnp.split(b, 4)
    assert (i == -f).all() and not g.any() and not o.any()
    assert 0 <= f.min() < 1 and 4 < f.max() <= np.log(99)
    b = seqjax.cells.GRU(3, 64, chrono=100).init(jax.random.key(0)).b
    assert b is not None
    r, z, n = jnp.split(b, 3)
    assert not r.any() and not n.any() and 4 < z.max() <= np.log(99)


def test_torch_uniform_is_bounded_by_the_hidden_size():
    cell = seqjax.cells.LSTM(
        100, 16, kernel_init="torch_uniform", recurrent_init="torch_uniform",
        bias_init="torch_uniform",
    )  # fmt: skip
    for leaf in jax.tree.leaves(cell.init(jax.random.key(0))):
        assert 0.2 < jnp.abs(leaf).max() <= 0.25


def test_glorot_bounds():
    w = seqjax.cells.GRU(10, 20).init(jax.random.key(0)).w_ih
    assert 0.4 < jnp.abs(w).max() <= np.sqrt(6 / 30)
    assert set(initializers.INITIALIZERS) >= {"glorot_uniform", "orthogonal", "identity"}


def test_irnn_starts_as_the_identity():
    cell = seqjax.cells.Elman.irnn(3, 4)
    assert cell.activation == "relu"
    assert_close(cell.init(jax.random.key(0)).w_hh, np.eye(4), 0, 0)
    half = seqjax.cells.Elman.irnn(3, 4, scale=0.5)
    assert_close(half.init(jax.random.key(0)).w_hh, 0.5 * np.eye(4), 0, 0)
