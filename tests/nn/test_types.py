"""The dtype rules of layers: `dtype` or the inputs decide, parameters keep `param_dtype`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import cells, nn
from tests.cases import assert_close, mask_of
from tests.nn.helpers import B, H, I, T, jit, make, oracle, random, run, states_of

HALF = [jnp.bfloat16, jnp.float16]
EVERYTHING = dict(num_layers=2, bidirectional=True, residual=True, learned_initial_state=True)
KEY = jax.random.key(0)


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


@pytest.mark.quick("lstm-bfloat16")
@pytest.mark.parametrize(
    ("cell", "dtype"),
    [(cells.LSTM(I, H), jnp.bfloat16), (cells.GRU(I, H), jnp.float16)],
    ids=["lstm-bfloat16", "gru-float16"],
)
def test_half_precision_with_float32_parameters(cell, dtype):
    layer, full = make(cell, dtype=dtype, **EVERYTHING), make(cell, **EVERYTHING)
    xs, mask = random(B, T, I), mask_of((B,), T)
    found, want = run(layer, xs, mask=mask), run(full, xs, mask=mask)
    assert dtypes(tuple(found)) == {jnp.dtype(dtype)}
    epsilon = float(jnp.finfo(dtype).eps)
    assert_close(found, want, 20 * epsilon, 20 * epsilon)


@pytest.mark.quick("gru-bfloat16")
@pytest.mark.parametrize(
    ("cell", "dtype"),
    [(cells.Elman(I, H), jnp.float16), (cells.GRU(I, H), jnp.bfloat16)],
    ids=["elman-float16", "gru-bfloat16"],
)
def test_gradients_have_the_dtype_of_the_parameters(cell, dtype):
    layer, full = make(cell, dtype=dtype), make(cell)

    @jit
    @jax.grad
    def gradient(layer):
        return jnp.square(layer(random(B, T, I)).outputs.astype(jnp.float32)).sum()

    found, want = gradient(layer), gradient(full)
    assert dtypes(found) == {jnp.dtype(jnp.float32)}
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(want))
    assert_close(found, want, 10 * float(jnp.finfo(dtype).eps) * largest, 0)


def test_inputs_are_cast_to_the_dtype():
    layer = make(cells.GRU(I, H), num_layers=2, dtype=jnp.bfloat16)
    xs = random(B, T, I)
    assert_close(run(layer, xs), run(layer, xs.astype(jnp.bfloat16)), 0, 0)


@pytest.mark.quick("inputs-None", "dtype-batch", "dtype-layer")
@pytest.mark.parametrize("norm", [None, "layer", "batch"])
@pytest.mark.parametrize("given", ["inputs", "dtype"])
def test_the_dtype_asked_for_is_that_of_outputs_and_states(given, norm):
    """With whatever stands between layers; without `dtype` the inputs decide."""
    layer = make(
        cells.LSTM(I, H), norm=norm, dtype=jnp.bfloat16 if given == "dtype" else None, **EVERYTHING
    )
    xs = jnp.asarray(random(B, T, I), jnp.float32 if given == "dtype" else jnp.bfloat16)
    for options in ({}, dict(return_sequences=False), dict(deterministic=True)):
        found = jax.eval_shape(lambda layer, xs, o=options: tuple(layer(xs, **o)), layer, xs)
        assert dtypes(found) == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.quick("zoneout", "dropout")
@pytest.mark.parametrize("rate", ["dropout", "input_dropout", "recurrent_dropout", "zoneout"])
def test_noise_keeps_the_dtype(rate):
    layer = make(cells.LSTM(I, H), **EVERYTHING, **{rate: 0.5})
    xs = jnp.ones([B, T, I], jnp.bfloat16)
    for options in (dict(rngs=KEY), dict(deterministic=True)):
        found = jax.eval_shape(lambda layer, xs, o=options: tuple(layer(xs, **o)), layer, xs)
        assert dtypes(found) == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("mode", ["concat", "sum", "mean", "mul", "none"])
def test_merging_keeps_the_dtype(mode):
    layer = make(cells.GRU(I, H), merge_mode=mode, **EVERYTHING)
    found = jax.eval_shape(lambda xs: layer(xs).outputs, jnp.ones([B, T, I], jnp.float16))
    assert dtypes(found) == {jnp.dtype(jnp.float16)}


def test_a_given_state_keeps_its_dtype():
    layer = make(cells.LSTM(I, H), num_layers=2, bidirectional=True, dtype=jnp.bfloat16)
    state = states_of(layer, (B,))
    assert dtypes(layer.initial_state((B,))) == {jnp.dtype(jnp.bfloat16)}
    found = run(layer, random(B, T, I), initial_state=state)
    assert found.outputs.dtype == jnp.bfloat16
    assert dtypes(found.state) == {jnp.dtype(jnp.float32)}


def test_steps_and_one_to_many_have_the_dtype():
    layer = make(cells.GRU(I, I), num_layers=2, dtype=jnp.bfloat16, learned_initial_state=True)
    x = random(B, I)
    calls = (
        layer.step,
        lambda x: layer.one_to_many(x, T),
        lambda x: layer.one_to_many(x, T, feedback=lambda y: y),
    )
    for call in calls:
        assert dtypes(jax.eval_shape(call, x)) == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("dtype", [jnp.float32, *HALF])
def test_parameters_are_drawn_in_the_dtype_asked_for(dtype):
    build = lambda: nn.LSTM(  # noqa: E731
        I, H, num_layers=2, norm="layer", learned_initial_state=True, param_dtype=dtype, rngs=KEY
    )
    layer = jax.eval_shape(build)
    assert {leaf.dtype for leaf in jax.tree.leaves(layer)} == {jnp.dtype(dtype)}
    # They do not decide what is computed in.
    found = jax.eval_shape(lambda layer, xs: layer(xs).outputs, layer, random(B, T, I))
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_implicit_promotion(dtype):
    """Without a norm: Flax's own promote."""
    layer = make(
        cells.LSTM(I, H), dropout=0.5, input_dropout=0.5, recurrent_dropout=0.5, zoneout=0.5,
        merge_mode="mean", **EVERYTHING,
    )  # fmt: skip
    xs, mask = jnp.asarray(random(B, T, I), dtype), mask_of((B,), T)
    with jax.numpy_dtype_promotion("strict"):
        for options in (dict(rngs=KEY), dict(deterministic=True, return_sequences=False)):
            call = lambda layer, o=options: layer(xs, mask=mask, resets=mask, **o)  # noqa: E731
            assert jax.eval_shape(call, layer).outputs.dtype == dtype


def test_float64(x64):
    layer = make(cells.LSTM(I, H), num_layers=2, residual=True, learned_initial_state=True)
    xs = random(B, T, I).astype(np.float64)
    found = run(layer, xs)
    assert dtypes(tuple(found)) == {jnp.dtype(jnp.float64)}
    want = oracle("lstm", layer, xs)
    assert_close(found, want, 1e-12, 1e-12)
    assert jax.eval_shape(layer, xs.astype(np.float32)).outputs.dtype == jnp.float32
