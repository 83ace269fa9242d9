"""The cross entropy of a linear read-out in the native engine."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from seqjax import _native, losses, metrics, sharding
from seqjax._readout import linear_readout

pytestmark = pytest.mark.skipif(_native.why_absent() is not None, reason=str(_native.why_absent()))
# Two blocks of positions; no size is a multiple of a vector or of a group of classes.
B, T, H, C = 32, 30, 37, 515
loss: Any = losses.linear_cross_entropy


def drawn(seed: int = 0) -> Any:
    """Hidden states, matrix, bias, labels and a mask."""
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=size).astype(np.float32) for size in ((B, T, H), (H, C), (C,))]
    return *inputs, rng.integers(0, C, (B, T)), rng.uniform(size=(B, T)) < 0.6


def expected(hidden, kernel, bias, labels, mask, smoothing=0.0):
    """The loss and its gradients in float64."""
    h = hidden.reshape(-1, H).astype(np.float64)
    y, real = labels.ravel(), mask.ravel()
    z = h @ kernel.astype(np.float64) + (0 if bias is None else bias.astype(np.float64))
    logs = z - z.max(1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    q = (1 - smoothing) * np.eye(C)[y] + smoothing / C
    d = (np.exp(logs) - q) * real[:, None] / real.sum()
    value = -(q * logs).sum(1)[real].mean()
    return value, [(d @ kernel.T).reshape(hidden.shape), h.T @ d, d.sum(0)]


def calls(function, *arguments) -> int:
    """The number of native calls in the program of a function."""
    text = jax.jit(function).lower(*arguments).as_text()
    return len(re.findall(r"custom_call @seqjax_readout", text))


def assert_equal(found, wanted, rtol=2e-5, atol=1e-7):
    assert_close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(assert_close, found, wanted)


@pytest.mark.quick("with bias-0.1-True-masked", "without bias-0.0-False-all")
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "all"])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("biased", [True, False], ids=["with bias", "without bias"])
def test_value_and_gradients(biased, smoothing, transposed, masked):
    hidden, kernel, bias, labels, mask = drawn()
    options: Any = {"label_smoothing": smoothing, "transposed": transposed}
    if masked:  # padding has no effect
        options["mask"] = mask
    else:
        mask = np.ones_like(mask)
    wanted, slopes = expected(hidden, kernel, bias if biased else None, labels, mask, smoothing)
    hidden[~mask], labels[~mask] = np.nan, -1
    inputs = [hidden, kernel.T if transposed else kernel, bias][: 3 if biased else 2]

    def of(hidden, kernel, bias=None):
        return loss(hidden, kernel, bias, labels, **options)

    run = jax.value_and_grad(of, tuple(range(len(inputs))))
    assert calls(run, *inputs) == calls(of, *inputs) == 1
    if transposed:
        slopes[1] = slopes[1].T
    assert_equal(jax.jit(run)(*inputs), (wanted, tuple(slopes[: len(inputs)])))
    np.testing.assert_allclose(of(*inputs), wanted, rtol=1e-6)
    mean = metrics.linear_cross_entropy(
        inputs[0], inputs[1], inputs[2] if biased else None, labels, **options
    )
    assert int(mean.count) == mask.sum()
    np.testing.assert_allclose(mean.value(), wanted, rtol=1e-6)


@pytest.mark.quick()
def test_the_bits_do_not_depend_on_the_threads():
    rng = np.random.default_rng(3)
    sizes = ((300, 64), (64, 2000), (2000,))  # enough work for several threads
    inputs = [jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes]
    labels, mask = rng.integers(0, 2000, 300), rng.uniform(size=300) < 0.9
    run = jax.jit(jax.value_and_grad(lambda *x: loss(*x, labels, mask=mask), (0, 1, 2)))
    try:
        _native.limit_threads(1)
        alone = jax.device_get(run(*inputs))
    finally:
        _native.limit_threads(1 << 16)
    for _ in range(5):
        assert jax.tree.all(jax.tree.map(np.array_equal, alone, run(*inputs)))


@pytest.mark.quick()
@pytest.mark.parametrize("argnums", [0, 1, 2, (0, 2)])
def test_only_some_gradients(argnums):
    *inputs, labels, _ = drawn()
    whole = jax.jit(jax.grad(lambda *x: loss(*x, labels), (0, 1, 2)))(*inputs)
    part = jax.jit(jax.grad(lambda *x: loss(*x, labels), argnums))(*inputs)
    wanted = tuple(whole[i] for i in argnums) if isinstance(argnums, tuple) else whole[argnums]
    assert jax.tree.all(jax.tree.map(np.array_equal, part, wanted))


@pytest.mark.quick()
def test_derivatives_and_transformations():
    """Forward mode, second derivatives, vmap and checkpoint are those of the chunks."""
    *inputs, labels, mask = map(jnp.asarray, drawn())

    def of(chunk_size, *inputs):
        return loss(*inputs, labels, mask=mask, label_smoothing=0.1, chunk_size=chunk_size)

    ours, chunks = functools.partial(of, None), functools.partial(of, 400)
    gradient = functools.partial(jax.grad, argnums=(0, 1, 2))
    along = tuple(jnp.cos(x) for x in inputs)
    stacked = jnp.stack([inputs[1], 2 * inputs[1]])
    cases = {
        "jvp": (lambda f: lambda *x: jax.jvp(f, x, along), 1),
        "grad of jvp": (lambda f: gradient(lambda *x: jax.jvp(f, x, along)[1]), 0),
        "jvp of grad": (lambda f: lambda *x: jax.jvp(gradient(f), x, along)[1], 0),
        "vmap": (
            lambda f: lambda h, w, b: jax.vmap(gradient(f), (None, 0, None))(h, stacked, b),
            0,
        ),
        "checkpoint": (lambda f: jax.value_and_grad(jax.checkpoint(f), (0, 1, 2)), 2),
    }
    for name, (derive, count) in cases.items():
        assert calls(derive(ours), *inputs) == count, name
        found, wanted = (jax.jit(derive(f))(*inputs) for f in (ours, chunks))
        assert_equal(found, wanted, 5e-5, 1e-6)


@pytest.mark.quick()
def test_the_first_run_under_checkpoint_computes_no_gradient():
    *inputs, labels, _ = drawn()
    run = jax.value_and_grad(jax.checkpoint(lambda *x: loss(*x, labels)), (0, 1, 2))
    wanted = re.findall(r"wanted = (\d+)", jax.jit(run).lower(*inputs).as_text())
    assert wanted == ["0", "7"]


@pytest.mark.quick()
def test_special_numbers():
    hidden, kernel, bias, labels, mask = drawn()
    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    nothing = run(hidden, kernel, bias, labels, mask=np.zeros_like(mask))
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), nothing)
    # A bias of -inf excludes classes, here a whole group of them.
    excluded = bias.copy()
    excluded[128:260] = -np.inf
    rest = np.r_[0:128, 260:C]
    labels = np.where((labels >= 128) & (labels < 260), 7, labels)
    value, slopes = run(hidden, kernel, excluded, labels, mask=mask)
    fewer = run(hidden, kernel[:, rest], bias[rest], np.searchsorted(rest, labels), mask=mask)
    np.testing.assert_allclose(value, fewer[0], rtol=1e-6)
    np.testing.assert_allclose(slopes[0], fewer[1][0], rtol=2e-5, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(slopes[1])[:, 128:260], 0)
    # Logits of a million are exact. NaN and infinities of real positions reach the loss.
    large, unit = np.zeros_like(kernel), np.ones_like(hidden)
    large[0, 3] = 1e6
    assert loss(unit, large, None, np.zeros((B, T), int)) == 1e6
    assert loss(unit, large, None, np.full((B, T), 3)) == 0
    for number in (np.nan, np.inf):
        spoilt = hidden.copy()
        spoilt[0, 0, 0] = number
        value, slopes = run(spoilt, kernel, bias, labels)
        assert np.isnan(value) and np.isnan(slopes[0][0, 0]).all()
        assert np.isfinite(slopes[0][0, 1:]).all() and np.isnan(slopes[2]).all()
    wrong = labels.copy()
    wrong[0, 0] = C
    assert np.isnan(run(hidden, kernel, bias, wrong)[0])


@pytest.mark.quick()
def test_accuracy():
    """A position is a hit if its label is the first of the largest logits."""
    hidden, kernel, bias, labels, mask = drawn()
    z = hidden @ kernel + bias
    labels = np.where(np.arange(T) % 2, z.argmax(-1), labels)
    hits = linear_readout(hidden, kernel, bias, labels, mask=mask).means()[1]
    assert float(hits.total) == ((z.argmax(-1) == labels) & mask).sum()
    kernel = np.zeros_like(kernel)
    for ties, label, wanted in (([5, 9], 5, 1), ([5, 9], 9, 0), ([5, 400], 400, 0), ([5, 6], 7, 0),
                                ([130, 400], 130, 1)):  # fmt: skip
        bias = np.zeros_like(bias)
        bias[ties] = 1
        hits = linear_readout(hidden, kernel, bias, np.full((B, T), label)).means()[1]
        assert float(hits.value()) == wanted, (ties, label)


@pytest.mark.quick()
def test_chunks_compute_everything_else(x64):
    hidden, kernel, bias, labels, _ = drawn()
    run = jax.value_and_grad(lambda *x, **options: loss(*x, labels, **options), (0, 1, 2))
    assert calls(run, hidden, kernel, bias) == 1
    assert calls(functools.partial(run, chunk_size=400), hidden, kernel, bias) == 0
    for dtype in (jnp.bfloat16, jnp.float64):
        assert calls(run, *(jnp.asarray(x, dtype) for x in (hidden, kernel, bias))) == 0
    few = functools.partial(loss, labels=labels[:1, :9])
    assert calls(few, hidden[:1, :9], kernel, bias) == 0
    for platforms in (["cpu"], ["cpu", "cuda"]):
        exported = jax.export.export(jax.jit(run), platforms=platforms)(hidden, kernel, bias)
        assert "seqjax_readout" not in exported.mlir_module()
    assert_equal(exported.call(hidden, kernel, bias), run(hidden, kernel, bias))


@pytest.mark.two_devices
def test_two_devices():
    hidden, kernel, bias, labels, mask = drawn()
    wanted, slopes = expected(hidden, kernel, bias, labels, mask)
    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    parts = sharding.shard_batch((hidden, labels, mask), 2)
    whole = sharding.replicate((kernel, bias), 2)
    found = run(parts[0], *whole, parts[1], mask=parts[2])
    assert_equal(found, (wanted, tuple(slopes)))


@pytest.mark.two_devices
def test_inside_shard_map():
    hidden, kernel, bias, labels, _ = drawn()
    hidden, labels = (np.concatenate([x, x]) for x in (hidden, labels))
    wanted, slopes = expected(hidden, kernel, bias, labels, np.ones(labels.shape, bool))
    mesh = sharding.batch_mesh(2)
    (axis,) = mesh.axis_names
    whole, split = PartitionSpec(), PartitionSpec(axis)

    def local(hidden, kernel, labels):
        value, found = jax.value_and_grad(loss, (0, 1))(hidden, kernel, bias, labels)
        return jax.lax.pmean(value, axis), found[0] / 2, found[1] / 2

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(split, whole, split), out_specs=(whole, split, whole)
    )
    assert calls(mapped, hidden, kernel, labels) == 1
    assert_equal(jax.jit(mapped)(hidden, kernel, labels), (wanted, *slopes[:2]))
