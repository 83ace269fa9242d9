"""Calls outside of `jit`, which run as one program: they see each change of the layer."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import cells, nn
from tests.cases import assert_close
from tests.nn.helpers import B, H, I, T, float64, make, random

XS = jnp.asarray(random(B, T, I))


def params_of(layer, index=0):
    direction = layer.layers[index].forward
    return {name: float64(getattr(direction, name)[...]) for name in ("w_ih", "w_hh", "b")}


def expected(layer, xs=XS, activation=np.tanh):
    """The outputs of a stack of Elman layers, in float64."""
    values = float64(xs)
    for index in range(len(layer.layers)):
        p, h = params_of(layer, index), np.zeros((len(values), H))
        outputs = []
        for t in range(values.shape[1]):
            h = activation(values[:, t] @ p["w_ih"] + h @ p["w_hh"] + p["b"])
            outputs.append(h)
        values = np.stack(outputs, axis=1)
    return values


@pytest.fixture
def layer():
    made = make(cells.Elman(I, H))
    made(XS), made.step(XS[:, 0])  # so that later calls find what these calls stored
    return made


def assert_current(layer, **options):
    want = expected(layer, **options)
    assert_close(layer(XS).outputs, want)
    assert_close(layer.step(XS[:, 0]).outputs, want[:, 0])


def test_new_values_of_parameters(layer):
    param = layer.layers[0].forward.b
    param[...] = param[...] + 1.0
    assert_current(layer)
    layer.layers[0].forward.b = nnx.Param(jnp.full(H, -0.5))
    assert_current(layer)
    nnx.update(layer, jax.tree.map(lambda p: 0.5 * p, nnx.state(layer, nnx.Param)))
    assert_current(layer)


def test_new_attributes_at_any_depth(layer):
    layer.layers[0].forward.cell = cells.Elman(I, H, activation="relu")
    assert_current(layer, activation=lambda x: np.maximum(x, 0))
    layer.layers[0] = make(cells.Elman(I, H)).layers[0]
    assert_current(layer)
    layer.time_major = True
    assert_close(layer(XS.swapaxes(0, 1)).outputs, expected(layer).swapaxes(0, 1))


def test_layers_take_turns(layer):
    other = make(cells.Elman(I, H))
    other.layers[0].forward.b[...] = jnp.full(H, 0.7)
    for _ in range(2):
        assert_current(layer)
        assert_current(other)
    assert not np.allclose(layer(XS).outputs, other(XS).outputs)


def test_a_layer_that_is_no_longer_used_is_freed(layer):
    made = make(cells.Elman(I, H))
    made(XS), made.step(XS[:, 0])
    array = weakref.ref(made.layers[0].forward.w_hh[...])
    alive = weakref.ref(made)
    del made
    gc.collect()
    assert alive() is None
    assert array() is None


def test_lengths_masks_resets_and_states(layer):
    """NumPy for one program, with all arrays that a call takes."""
    p, rng = params_of(layer), np.random.default_rng(3)
    mask, resets = rng.random((B, T)) < 0.7, rng.random((B, T)) < 0.3
    start = rng.normal(size=(B, H)).astype(np.float32)
    h, outputs = float64(start), []
    for t in range(T):
        real, reset = mask[:, t, None], (mask & resets)[:, t, None]
        new = np.tanh(float64(XS)[:, t] @ p["w_ih"] + np.where(reset, 0, h) @ p["w_hh"] + p["b"])
        h = np.where(real, new, h)
        outputs.append(np.where(real, new, 0))
    found = layer(
        XS, mask=jnp.asarray(mask), resets=jnp.asarray(resets), initial_state=(jnp.asarray(start),)
    )
    assert_close(found.outputs, np.stack(outputs, axis=1))
    assert_close(found.state[0], h)
    lengths = jnp.array([T, 2, 0])
    real = np.arange(T) < np.asarray(lengths)[:, None]
    assert_close(layer(XS, lengths=lengths).outputs, np.where(real[..., None], expected(layer), 0))
    with pytest.raises(ValueError, match="lengths"):
        layer(XS, lengths=jnp.array([T, 2, -1]))


def test_gradients_of_the_module_outside_of_jit(layer):
    def loss(layer, xs):
        return (layer(xs).outputs ** 2).sum()

    found = nnx.grad(loss)(layer, XS)
    want = jax.jit(nnx.grad(loss))(layer, XS)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert_close(one, other)
    assert float(jnp.abs(found.layers[0].forward.b[...]).max()) > 1e-3


def test_errors_come_at_every_call():
    layer = make(cells.Elman(I, H), input_dropout=0.5)
    for _ in range(2):
        with pytest.raises(ValueError, match="rngs"):
            layer(XS)
        with pytest.raises(ValueError, match="implementation"):
            layer(XS, deterministic=True, implementation="scna")
        with pytest.raises(TypeError, match="burn_in"):
            layer(XS, deterministic=True, burn_in=[1])
        with pytest.raises(ValueError, match="resets"):
            layer(XS, deterministic=True, resets=jnp.ones((B, T + 1), bool))
    layer.eval()
    assert_close(layer(XS).outputs, expected(layer))


def test_dropout_draws_anew_at_each_call():
    layer, rngs = make(cells.Elman(I, H), input_dropout=0.5), nnx.Rngs(dropout=0)
    first, second = (layer(XS, rngs=rngs).outputs for _ in range(2))
    assert not np.allclose(first, second)


def test_batch_norm_updates_its_averages():
    layer = make(cells.Elman(I, H), num_layers=2, norm="batch")
    before = np.asarray(layer.norms[0].mean[...])
    layer(XS)
    assert not np.allclose(layer.norms[0].mean[...], before)
    after = np.asarray(layer.norms[0].mean[...])
    layer(XS, deterministic=True)
    np.testing.assert_array_equal(layer.norms[0].mean[...], after)


def test_a_subclass_with_more_parts(layer):
    class Scaled(nn.Recurrent):
        def __init__(self, cell, *, rngs):
            super().__init__(cell, rngs=rngs)
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, xs, **options):
            outputs, state = super().__call__(xs, **options)
            return type(super().__call__(xs))(outputs * self.scale[...], state)

    made = Scaled(cells.Elman(I, H), rngs=nnx.Rngs(0))
    for factor in (1.0, 3.0):
        made.scale[...] = jnp.asarray(factor)
        assert_close(made(XS).outputs, factor * expected(made))
        assert_close(made.step(XS[:, 0]).outputs, factor * expected(made)[:, 0])


def test_one_step_of_a_block_and_of_a_convolution():
    conv = nn.CausalConv(I, 2, rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.array([0.5, -0.5, 1.0])
    first, window = conv.step(XS[:, 0])
    second, _ = conv.step(XS[:, 1], window, resets=jnp.array([False, True, False]))
    kernel, bias, xs = (float64(a) for a in (conv.kernel[...], conv.bias[...], XS))
    assert_close(first, xs[:, 0] * kernel[0] + bias)
    before = np.array([1, 0, 1])[:, None] * xs[:, 0]
    assert_close(second, xs[:, 1] * kernel[0] + before * kernel[1] + bias)
    with pytest.raises(ValueError, match="resets"):
        conv.step(XS[:, 0], resets=jnp.ones(B + 1, bool))


def test_without_jit(layer):
    with jax.disable_jit():
        assert_close(layer.step(XS[:, 0]).outputs, expected(layer)[:, 0])
