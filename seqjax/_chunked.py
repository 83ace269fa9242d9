"""Cross entropy of a linear read-out, by chunks of positions: no array holds all logits.

With positions n, hidden states h_n and a read-out W, b

    z_n = h_n W + b      L = Σ_n -Σ_c q_nc log softmax(z_n)_c      d_n = softmax(z_n) - q_n
    dL/dh_n = d_n Wᵀ     dL/dW = Σ_n h_nᵀ d_n                      dL/db = Σ_n d_n

The gradients of the sum are known once the logits of a chunk are, so the pass that computes the sum
computes them as well, and the logits are computed once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from seqjax.cells import ops
from seqjax.kernels import _scan as scanning
from seqjax.kernels import target

__all__ = ["Positions", "Readout", "Scores", "Setting", "chunk_size_for", "each_nats", "totals"]

CHUNK = {"cpu": 2**21, "other": 2**24}
"""Logits of a chunk by platform: 8 MB in float32 on CPUs, 64 MB elsewhere. Chunks that are much
smaller spend their time adding up the gradient of the matrix. On a CPU, temporary arrays of more
than 32 MB in all cost page faults; elsewhere starting many small programs would cost more (the
second number is not measured)."""


class Readout(NamedTuple):
    """An affine map to the logits: a matrix `[H, C]` or `[C, H]`, and a bias `[C]` or None."""

    kernel: jax.Array
    bias: jax.Array | None


class Positions(NamedTuple):
    """Hidden states `[N, H]`, labels `[N]` in [0, C), and which count, bool `[N]`."""

    hidden: jax.Array
    labels: jax.Array
    real: jax.Array


class Scores(NamedTuple):
    """Cross entropies, and hits: 1 where the first of the largest logits is the label's, else 0."""

    nats: jax.Array
    hits: jax.Array


class Setting(NamedTuple):
    """Options that are known when a program is traced.

    Attributes:
      label_smoothing: the share of the probability that is spread over all classes.
      chunk_size: positions of a chunk at most.
      features_axis: of the matrix, 0 or 1. A matrix that is transposed outside of the loop would be
        copied.
    """

    label_smoothing: float
    chunk_size: int
    features_axis: int


def chunk_size_for(features: int, classes: int) -> int:
    """Return the number of positions of a chunk of moderate size.

    At least H: the logits of a chunk are then no larger than the gradient of the matrix, and the
    additions to it cost less than the products.
    """
    platform = "cpu" if "cpu" in target.platforms() else "other"
    return max(CHUNK[platform] // classes, features, 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def totals(setting: Setting, readout: Readout, positions: Positions) -> Scores:
    """Sums of the scores of the real positions.

    The derivative computes the value and all gradients in one pass. That pass is ordinary JAX, so
    forward mode and higher derivatives work.
    """

    def chunk(part: Positions) -> tuple[Scores, None]:
        return _sums(_scores(setting, _shifted(setting, readout, part), part), part), None

    sums: Scores = _by_chunks(setting, chunk, readout, positions)[0]
    return sums


@functools.partial(totals.defjvp, symbolic_zeros=True)
def _totals_jvp(setting: Setting, primals: Any, tangents: Any) -> tuple[Scores, Scores]:
    readout, positions = primals
    moved, (moved_hidden, *_) = tangents
    wanted = [not isinstance(t, SymbolicZero) for t in (moved.kernel, moved.bias, moved_hidden)]
    wanted[1] = wanted[1] and readout.bias is not None
    kernel, dtype = readout.kernel, ops.accumulator_dtype(readout.kernel.dtype)

    def slope_of_kernel(part: Positions, d: jax.Array) -> jax.Array:
        factors = (part.hidden.astype(d.dtype), d)
        return _product(*(factors[::-1] if setting.features_axis else factors), 0, 0)

    def chunk(part: Positions) -> tuple[Any, Any]:
        z = _shifted(setting, readout, part)
        p = jnp.exp(z)
        is_label = (_classes(z, part) == part.labels[:, None]).astype(dtype)
        d = p / p.sum(axis=1, keepdims=True) - (1 - setting.label_smoothing) * is_label
        if setting.label_smoothing:
            d = d - setting.label_smoothing / z.shape[1]
        d = jnp.where(part.real[:, None], d, 0)
        narrow = d.astype(kernel.dtype)
        summed = (
            _sums(_scores(setting, z, part), part),
            slope_of_kernel(part, narrow) if wanted[0] else None,
            d.sum(axis=0) if wanted[1] else None,
        )
        back = _product(narrow, kernel, 1, 1 - setting.features_axis) if wanted[2] else None
        return summed, back

    (value, *slopes), slope = _by_chunks(setting, chunk, readout, positions)
    pairs = zip((*slopes, slope), (moved.kernel, moved.bias, moved_hidden), wanted, strict=True)
    moves = [(slope * t.astype(dtype)).sum() for slope, t, want in pairs if want]
    still = scanning.varying_like(jnp.zeros((), dtype), (readout, positions))
    return value, Scores(sum(moves, still), still)


def each_nats(setting: Setting, readout: Readout, positions: Positions) -> jax.Array:
    """Cross entropies `[N]`. The gradient computes the logits of a chunk again."""

    def chunk(part: Positions) -> tuple[None, jax.Array]:
        return None, _scores(setting, _shifted(setting, readout, part), part).nats

    nats: jax.Array = _by_chunks(setting, jax.checkpoint(chunk), readout, positions)[1]
    return nats


def _product(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
    """The product of two matrices, summed over an axis of each in float32 or wider."""
    axes = (((x_axis,), (y_axis,)), ((), ()))
    return lax.dot_general(x, y, axes, preferred_element_type=ops.accumulator_dtype(y.dtype))


def _shifted(setting: Setting, readout: Readout, part: Positions) -> jax.Array:
    """Logits `[N, C]`, the largest of a position being 0."""
    kernel = readout.kernel
    z = _product(part.hidden.astype(kernel.dtype), kernel, 1, setting.features_axis)
    z = ops.biased(z, readout.bias)
    return z - lax.stop_gradient(z.max(axis=1, keepdims=True))


def _classes(z: jax.Array, part: Positions) -> jax.Array:
    # One row: of all rows, JAX would make an array outside of the loop.
    return jnp.arange(z.shape[1], dtype=part.labels.dtype)[None]


def _scores(setting: Setting, z: jax.Array, part: Positions) -> Scores:
    """The scores of each position from the shifted logits."""
    of_label = jnp.take_along_axis(z, part.labels[:, None], axis=1)[:, 0]
    normaliser = jnp.log(jnp.exp(z).sum(axis=1))
    nats = normaliser - of_label
    if setting.label_smoothing:
        # The mean of the cross entropies of all classes, without an array of smoothed labels.
        uniform = normaliser - z.mean(axis=1)
        nats = (1 - setting.label_smoothing) * nats + setting.label_smoothing * uniform
    tied = ((_classes(z, part) < part.labels[:, None]) & (z == 0)).any(axis=1)
    hits = ((of_label == 0) & ~tied).astype(z.dtype)
    return Scores(nats, jnp.where(jnp.isnan(nats), jnp.nan, hits))


def _sums(scores: Scores, part: Positions) -> Scores:
    return Scores(*(jnp.where(part.real, each, 0).sum() for each in scores))


def _number_of_chunks(count: int, chunk_size: int) -> int:
    """The fewest chunks of this size, or up to twice as many that devices share without padding."""
    least = -(-count // chunk_size)
    if (devices := jax.device_count()) == 1:
        return least
    fitting = (n for n in range(max(least, 1), 2 * least + 1) if count % (n * devices) == 0)
    return next(fitting, least)


def _by_chunks(
    setting: Setting,
    function: Callable[[Positions], tuple[Any, Any]],
    readout: Readout,
    positions: Positions,
) -> tuple[Any, Any]:
    """Results of a function of positions: a sum over them, and a value for each."""
    count = positions.labels.shape[0]
    chunks = _number_of_chunks(count, setting.chunk_size)
    if chunks <= 1:
        return function(positions)
    size = -(-count // chunks)

    def divide(x: jax.Array) -> jax.Array:
        # A chunk takes positions from everywhere, so that devices share each of them.
        x = jnp.pad(x, [(0, size * chunks - count)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)

    def add(sums: Any, part: Positions) -> tuple[Any, Any]:
        more, each = function(part)
        return jax.tree.map(jnp.add, sums, more), each

    parts = jax.tree.map(divide, positions)
    shapes, _ = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    zeros = scanning.varying_like(zeros, (readout, positions))
    sums, each = lax.scan(add, zeros, parts)

    def join(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(size * chunks, *x.shape[2:])[:count]

    return sums, jax.tree.map(join, each)
