"""The adapter for Flax Linen: `unroll` with parameters that Linen keeps."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import seqjax
from seqjax import cells
from seqjax.nn import LinenRecurrent, LinenScanned
from tests.cases import (
    assert_close,
    inputs_of,
    mask_of,
    params_of,
    reference,
    registered,
    with_garbage,
)
from tests.nn.helpers import LENGTHS, REAL, B, H, I, T, random

KEY = jax.random.key(0)


def variables_of(params):
    """A cell's parameters as Linen's variables."""
    return {"params": {k: v for k, v in params._asdict().items() if v is not None}}


@pytest.mark.quick("lstm", "min_gru", "conv_lstm_1d")
@registered
def test_equals_unroll_and_numpy(case):
    layer, params = LinenRecurrent(case.cell), params_of(case.cell)
    xs, mask = inputs_of(case.cell, (B,), T), mask_of((B,), T)
    found: Any = layer.apply(variables_of(params), with_garbage(xs, mask), mask=mask, reverse=True)
    assert isinstance(found, seqjax.Unrolled)
    assert_close(found, seqjax.unroll(case.cell, params, xs, mask=mask, reverse=True), 0, 0)
    assert_close(found, reference(case, params, xs, mask=mask, reverse=True), 1e-5, 1e-5)


@pytest.mark.quick("lstm", "min_gru", "conv_lstm_1d")
@registered
def test_its_parameters_are_those_of_the_cell(case):
    layer, xs = LinenRecurrent(case.cell), inputs_of(case.cell, (B,), T)
    variables = jax.eval_shape(layer.init, KEY, xs)
    want = variables_of(jax.eval_shape(case.cell.init, KEY))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, want)


def test_parameters_are_drawn_together_by_the_cell():
    cell = cells.LSTM(64, 64, forget_bias=1.0)
    params = jax.jit(LinenRecurrent(cell).init)(KEY, jnp.ones([T, 64]))["params"]
    params = jax.tree.map(np.asarray, params)
    for block in np.split(params["w_hh"], 4, axis=1):
        assert_close(block.T @ block, np.eye(64), 1e-5)
    bound = np.sqrt(6 / 128)
    assert 0.95 * bound < np.abs(params["w_ih"]).max() <= bound
    assert abs(float(params["w_ih"].std()) - bound / np.sqrt(3)) < 0.01
    assert params["b"].tolist() == [0.0] * 64 + [1.0] * 64 + [0.0] * 128
    # Weights of the same shape and initialiser are not the same numbers.
    w_ih, w_hh = params["w_ih"].reshape(-1), params["w_hh"].reshape(-1)
    assert abs(np.corrcoef(w_ih, w_hh)[0, 1]) < 0.05


def test_chrono_biases_of_gates_belong_together():
    layer = LinenRecurrent(cells.LSTM(I, 64, chrono=100))
    params = jax.jit(layer.init)(KEY, jnp.ones([T, I]))["params"]
    i, f, *_ = np.split(params["b"], 4)
    assert (i == -f).all() and f.any()


def test_the_key_decides_the_parameters():
    cell = cells.GRU(I, H, recurrent_init="torch_uniform")
    layer, xs = LinenRecurrent(cell), random(B, T, I)
    init = jax.jit(layer.init)
    one, other = init(KEY, xs), init(jax.random.key(1), xs)
    assert_close(layer.init(KEY, xs), one)
    for name in ("w_ih", "w_hh"):
        assert (one["params"][name] != other["params"][name]).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes(dtype):
    layer = LinenRecurrent(cells.LSTM(I, H), param_dtype=dtype)
    variables = jax.eval_shape(layer.init, KEY, random(B, T, I))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(dtype)}
    for given in (jnp.float32, jnp.bfloat16):
        found = jax.eval_shape(layer.apply, variables, jnp.ones([B, T, I], given))
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(given)}


def test_gradient_and_jit():
    cell = cells.LSTM(I, H)
    layer, params, xs = LinenRecurrent(cell), params_of(cell), random(B, T, I)

    def loss(variables, xs):
        found: Any = layer.apply(variables, xs, lengths=LENGTHS)
        return jnp.square(found.outputs).sum()

    def direct(params, xs):
        return jnp.square(seqjax.unroll(cell, params, xs, lengths=LENGTHS).outputs).sum()

    found = jax.jit(jax.grad(loss, (0, 1)))(variables_of(params), with_garbage(xs, REAL))
    want = jax.jit(jax.grad(direct, (0, 1)))(params, xs)
    assert_close(found, (variables_of(want[0]), want[1]), 1e-5, 1e-5)


@pytest.mark.quick()
def test_a_model_of_several():
    class Encoder(linen.Module):
        @linen.compact
        def __call__(self, xs, lengths):
            cell = cells.Elman(I, H, recurrent_init="torch_uniform")
            forward = LinenRecurrent(cell)(xs, lengths=lengths)
            backward = LinenRecurrent(cell, name="back")(xs, lengths=lengths, reverse=True)
            both = jnp.concatenate([forward.outputs, backward.outputs], -1)
            return LinenRecurrent(cells.MinGRU(2 * H, H))(both, lengths=lengths)

    model, xs = Encoder(), random(B, T, I)
    variables = jax.jit(model.init)(KEY, xs, LENGTHS)
    params = variables["params"]
    assert set(params) == {"LinenRecurrent_0", "back", "LinenRecurrent_1"}
    assert (params["back"]["w_ih"] != params["LinenRecurrent_0"]["w_ih"]).any()
    found: Any = jax.jit(model.apply)(variables, with_garbage(xs, REAL), LENGTHS)
    assert_close(found, model.apply(variables, xs, LENGTHS))
    assert (np.asarray(found.outputs)[~REAL] == 0).all()


def test_errors_are_those_of_unroll():
    layer = LinenRecurrent(cells.GRU(I, H))
    with pytest.raises(ValueError, match=r"xs: expected \[..., T, 3\] for input_size=3"):
        layer.init(KEY, random(B, T, I + 1))
    variables = layer.init(KEY, random(B, T, I))
    with pytest.raises(ValueError, match="lengths"):
        layer.apply(variables, random(B, T, I), lengths=[T + 1, 0, 0])
    with pytest.raises(TypeError, match="lenghts"):
        layer.apply(variables, random(B, T, I), lenghts=[T, 0, 0])


def test_mistakes_with_a_scanned_module_are_named():
    kind: Any = LinenScanned
    layer: Any = LinenScanned(cells.GRU(I, H))
    with pytest.raises(TypeError, match="initialize_carry: expected a call on a module, such as"):
        kind.initialize_carry(B, H)
    with pytest.raises(TypeError, match=r"initialize_carry: expected the batch shape alone.*got"):
        layer.initialize_carry(B, H)
    carry, xs = layer.initialize_carry(B), random(T, B, I)
    variables = layer.init(KEY, carry, (xs, jnp.zeros([T, B], bool)))
    with pytest.raises(ValueError, match=r"carry: expected arrays of .* for GRU, got"):
        layer.apply(variables, carry[:, :-1], (xs, jnp.zeros([T, B], bool)))
    for inputs in (xs, (xs,), [xs, xs, xs]):
        with pytest.raises(TypeError, match=r"inputs: expected the pair \(xs, resets\), got"):
            layer.apply(variables, carry, inputs)


def test_a_cell_that_is_none():
    with pytest.raises(TypeError, match="cell: expected a cell"):
        LinenRecurrent(cast(Any, "gru")).init(KEY, random(B, T, I))
