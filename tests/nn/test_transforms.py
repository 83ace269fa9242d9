"""Layers under the transformations of JAX and of Flax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from seqjax import cells, nn
from tests.cases import assert_close, draw_like, mask_of
from tests.nn.helpers import B, H, I, T, flat_params, float64, jit, make, oracle, random, run

OPTIONS: dict[str, Any] = dict(
    num_layers=2, norm="layer", residual=True, learned_initial_state=True
)
XS, MASK = random(B, T, I), mask_of((B,), T)


def loss(layer, xs, mask):
    return jnp.square(layer(xs, mask=mask).outputs).sum()


graded = jit(jax.value_and_grad(loss))


def layer_of(cell=None):
    return make(cell or cells.GRU(I, H), **OPTIONS)


def test_closing_over_a_module_in_jit():
    layer = layer_of()
    want = layer(XS, mask=MASK)
    assert_close(jax.jit(layer)(XS, mask=MASK), want)
    assert_close(run(layer, XS, mask=MASK), want)
    # The closure is a constant of the program: a gradient for the inputs alone.
    gradient = jax.jit(jax.grad(lambda xs: loss(layer, xs, MASK)))(XS)
    assert (np.asarray(gradient)[~MASK] == 0).all() and (np.asarray(gradient)[MASK] != 0).all()


def test_gradient_of_a_whole_module_is_shaped_like_it():
    layer = layer_of(cells.LSTM(I, H))
    _, gradient = graded(layer, XS, MASK)
    assert nnx.graphdef(gradient) == nnx.graphdef(layer)
    g = gradient.layers[1].forward.w_hh
    assert isinstance(g, nnx.Param) and g.shape == (H, 4 * H) and g[...].any()
    assert all(value.any() for value in flat_params(gradient).values())
    assert type(gradient) is nn.Recurrent
    # Good for a step of descent, by tree map or optax.
    lower = jax.tree.map(lambda p, g: p - 0.01 * g, layer, gradient)
    assert graded(lower, XS, MASK)[0] < graded(layer, XS, MASK)[0]
    optimizer = optax.sgd(0.01)
    updates, _ = optimizer.update(gradient, optimizer.init(layer), layer)
    assert_close(optax.apply_updates(layer, updates), lower)


def test_second_calls_and_second_layers_trace_nothing():
    traces = []

    @jax.jit
    def call(layer, xs, lengths, key):
        traces.append(1)
        return layer(xs, lengths=lengths, rngs=key).outputs

    options: dict[str, Any] = dict(num_layers=2, dropout=0.5, zoneout=0.1, norm="layer")
    for seed in range(3):
        layer = nn.GRU(I, H, rngs=nnx.Rngs(seed), **options)
        call(layer, random(B, T, I, seed=seed), np.array([T, 2, seed]), jax.random.key(seed))
    assert len(traces) == 1
    layer.eval()
    call(layer, XS, np.array([T, 2, 1]), jax.random.key(0))
    assert len(traces) == 2  # another program: no noise


@pytest.mark.quick()
def test_vmap_over_the_batch():
    layer = layer_of()
    one = jax.vmap(lambda layer, x, m: layer(x, mask=m), (None, 0, 0))
    assert_close(jit(one)(layer, XS, MASK), run(layer, XS, mask=MASK))
    each = jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(layer, XS, MASK)
    total = graded(layer, XS, MASK)[1]
    assert_close(jax.tree.map(lambda g: g.sum(0), float64(each)), total, 1e-5, 1e-5)


@pytest.mark.quick()
def test_vmap_over_lengths_and_keys():
    layer = make(cells.GRU(I, H), recurrent_dropout=0.5)
    keys, lengths = jax.random.split(jax.random.key(0), B), np.array([T, 2, 0])
    one = lambda x, n, k: layer(x, lengths=n, rngs=k).outputs  # noqa: E731
    found, alone = jit(jax.vmap(one))(XS, lengths, keys), jit(one)
    for row in range(B):
        assert_close(found[row], alone(XS[row], lengths[row], keys[row]))


@pytest.mark.quick()
def test_an_ensemble_by_mapping_the_construction():
    def build(key):
        return nn.RNN(I, H, num_layers=2, norm="batch", recurrent_init="torch_uniform", rngs=key)

    keys = jax.random.split(jax.random.key(0), 3)
    ensemble: Any = jit(jax.vmap(build))(keys)
    assert ensemble.layers[0].forward.w_ih.shape == (3, I, H)
    found = jit(jax.vmap(lambda layer: layer(XS).outputs))(ensemble)
    for member in range(3):
        assert_close(found[member], run(build(keys[member]), XS).outputs, 1e-5)


def test_flax_transformations():
    layer = layer_of()
    value, gradient = graded(layer, XS, MASK)
    assert_close(nnx.jit(loss)(layer, XS, MASK), value, 1e-5)
    found_value, state = nnx.jit(nnx.value_and_grad(loss))(layer, XS, MASK)
    assert_close((found_value, state), (value, nnx.state(gradient)), 1e-5, 1e-5)
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)}
    assert paths == set(flat_params(layer))
    assert_close(nnx.jit(nnx.remat(loss))(layer, XS, MASK), value, 1e-5)


@pytest.mark.quick()
def test_an_nnx_optimizer_trains():
    layer = nn.GRU(I, H, num_layers=2, dropout=0.1, norm="batch", rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(layer, optax.adam(0.05), wrt=nnx.Param)
    rngs = nnx.Rngs(1)

    def error(layer, rngs):
        outputs = layer(XS, mask=MASK, return_sequences=False, rngs=rngs).outputs
        return jnp.square(outputs - 0.3).mean()

    @nnx.jit
    def step(layer, optimizer, rngs):
        value, gradient = nnx.value_and_grad(error)(layer, rngs)
        optimizer.update(layer, gradient)
        return value

    values = [float(step(layer, optimizer, rngs)) for _ in range(30)]
    assert np.isfinite(values).all() and values[-1] < 0.5 * values[0]
    assert layer.norms[0].mean[...].any()
    assert rngs.default.count[...] == 30


def test_tree_mode_of_flax():
    """No shared references, so modules are trees to Flax too."""
    layer = layer_of()
    want = run(layer, XS, mask=MASK)
    with nnx.set_graph_mode(False), nnx.set_graph_updates(False):
        graph, state = nnx.split(layer)
        assert graph == nnx.split(jax.eval_shape(lambda: layer_of()))[0]
        assert_close(nnx.jit(lambda layer: layer(XS, mask=MASK))(layer), want)
        gradient = nnx.jit(nnx.grad(loss))(layer, XS, MASK)
        assert_close(nnx.state(gradient), nnx.state(graded(layer, XS, MASK)[1]), 1e-5, 1e-5)
        assert_close(nnx.state(nnx.merge(graph, state)), state, 0, 0)
        layer.eval()
        assert layer.deterministic is True


def test_checkpoint_changes_nothing():
    layer = layer_of()
    value, gradient = graded(layer, XS, MASK)
    found = jit(jax.value_and_grad(jax.checkpoint(loss)))(layer, XS, MASK)
    assert_close(found, (value, gradient), 1e-5, 1e-5)


@pytest.mark.quick()
def test_forward_mode_and_second_derivatives():
    layer = make(cells.Elman(I, H), num_layers=2)
    tangent = jax.tree.map(jnp.asarray, draw_like(layer, 12))
    dot = lambda a, b: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))  # noqa: E731
    grad = lambda p: jax.grad(loss)(p, XS, MASK)  # noqa: E731

    @jit
    def derivatives(layer):
        _, slope = jax.jvp(lambda p: loss(p, XS, MASK), (layer,), (tangent,))
        gradient, forward = jax.jvp(grad, (layer,), (tangent,))
        return slope, dot(gradient, tangent), forward

    slope, expected, forward = derivatives(layer)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
    # Reverse over reverse against forward over reverse.
    backward = jit(jax.grad(lambda p: dot(grad(p), tangent)))(layer)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(forward))
    assert scale > 0
    assert_close(backward, forward, 1e-4 * scale, 1e-3)


@pytest.mark.two_devices
def test_shard_map_over_the_batch():
    layer = layer_of()
    xs, mask = random(4, T, I), mask_of((4,), T)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("batch")
    call = lambda layer, x, m: tuple(layer(x, mask=m))  # noqa: E731
    sharded = jax.shard_map(call, mesh=mesh, in_specs=(PartitionSpec(), spec, spec), out_specs=spec)
    assert_close(jax.jit(sharded)(layer, xs, mask), tuple(run(layer, xs, mask=mask)))


def test_lengths_under_jit_are_clamped():
    layer = make(cells.GRU(I, H), num_layers=2, bidirectional=True)
    found = run(layer, XS, lengths=np.array([T + 4, 2, -1]))
    assert_close(found, oracle("gru", layer, XS, lengths=np.array([T, 2, 0])), 1e-5, 1e-5)


def test_the_program_does_not_grow_with_the_steps():
    layer = make(cells.LSTM(I, H), num_layers=2, bidirectional=True)
    short, long = (run.lower(layer, random(B, n, I)).as_text() for n in (3, 40))
    assert len(short.splitlines()) == len(long.splitlines())
