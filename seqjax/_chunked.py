"""Cross entropy of a linear read-out, with the logits of only one chunk of positions at a time.

With positions n, hidden states h_n and a read-out W, b

    z_n = h_n W + b      L = Σ_n -Σ_c q_nc log softmax(z_n)_c      d_n = softmax(z_n) - q_n
    dL/dh_n = d_n Wᵀ     dL/dW = Σ_n h_nᵀ d_n                      dL/db = Σ_n d_n

The logits of a chunk determine the chunk's part of the sum and of the gradients. Therefore one pass
computes sum and gradients, and the logits are computed only once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax.cells import ops
from seqjax.kernels import _scan as scanning
from seqjax.kernels import target

__all__ = [
    "Positions",
    "Readout",
    "Scores",
    "Setting",
    "chunk_size_for",
    "each_nats",
    "sums",
    "sums_and_slopes",
]

CHUNK = {"cpu": 2**21, "other": 2**24}
"""The number of logits in a chunk, by platform. In float32, a chunk has 8 MB on a CPU, else 64 MB.

With much smaller chunks, most of the time goes into adding the gradients of the matrix. On a CPU,
temporary arrays of more than 32 MB in total cause page faults. On other platforms, starting many
small programs would take longer. The number for other platforms is not measured."""


class Readout(NamedTuple):
    """The affine map to the logits: a matrix `[H, C]` or `[C, H]`, and a bias `[C]` or None."""

    kernel: jax.Array
    bias: jax.Array | None


class Positions(NamedTuple):
    """Hidden states `[N, H]`, labels `[N]` in [0, C), and a mask `[N]`, True at real positions."""

    hidden: jax.Array
    labels: jax.Array
    real: jax.Array


class Scores(NamedTuple):
    """Cross entropies, and hits, which are 1 if the label has the (first) largest logit, else 0."""

    nats: jax.Array
    hits: jax.Array


class Setting(NamedTuple):
    """Options that are known when a program is traced.

    Attributes:
      label_smoothing: the share of the probability that is spread over all classes.
      chunk_size: the greatest number of positions in a chunk.
      features_axis: the axis of the features in the matrix, 0 or 1. Transposing the matrix outside
        of the loop would copy it.
      masked: whether a mask was given. If it was, masked positions are moved behind the real
        positions, and chunks that have only masked positions are skipped.
    """

    label_smoothing: float
    chunk_size: int
    features_axis: int
    masked: bool


def chunk_size_for(features: int, classes: int) -> int:
    """Return the default number of positions in a chunk.

    A chunk has at least H positions, so that adding to the gradient of the matrix takes less time
    than the products. The logits of H positions need as much memory as the gradient of the matrix.
    """
    platform = "cpu" if "cpu" in target.platforms() else "other"
    return max(CHUNK[platform] // classes, features, 1)


def sums(setting: Setting, readout: Readout, positions: Positions) -> Scores:
    """Return the sums of the scores over the real positions."""

    def chunk(part: Positions) -> tuple[Scores, None]:
        return _sums(_scores(setting, _shifted(setting, readout, part), part), part), None

    found: Scores = _by_chunks(setting, chunk, readout, positions)[0]
    return found


def sums_and_slopes(
    setting: Setting, wanted: Sequence[str], readout: Readout, positions: Positions
) -> tuple[Scores, list[jax.Array]]:
    """Return the sums of the scores, and gradients of the first sum, in one pass.

    Args:
      setting: the static options.
      wanted: the arrays whose gradients are returned, a subset of "kernel", "bias" and "hidden" in
        this order.
      readout: matrix and bias.
      positions: hidden states, labels and mask.
    """
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
            slope_of_kernel(part, narrow) if "kernel" in wanted else None,
            d.sum(axis=0) if "bias" in wanted else None,
        )
        wants_hidden = "hidden" in wanted
        back = _product(narrow, kernel, 1, 1 - setting.features_axis) if wants_hidden else None
        return summed, back

    (scores, *slopes), slope = _by_chunks(setting, chunk, readout, positions)
    return scores, [each for each in (*slopes, slope) if each is not None]


def each_nats(setting: Setting, readout: Readout, positions: Positions) -> jax.Array:
    """Return the cross entropies `[N]`. Gradients need the logits of each chunk a second time."""

    def chunk(part: Positions) -> tuple[None, jax.Array]:
        return None, _scores(setting, _shifted(setting, readout, part), part).nats

    nats: jax.Array = _by_chunks(setting, jax.checkpoint(chunk), readout, positions)[1]
    return nats


def _product(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
    """Return the product of two matrices over one axis of each, summed in float32 or wider."""
    axes = (((x_axis,), (y_axis,)), ((), ()))
    return lax.dot_general(x, y, axes, preferred_element_type=ops.accumulator_dtype(y.dtype))


def _shifted(setting: Setting, readout: Readout, part: Positions) -> jax.Array:
    """Return the logits `[N, C]` minus the largest one of each position."""
    kernel = readout.kernel
    z = _product(part.hidden.astype(kernel.dtype), kernel, 1, setting.features_axis)
    z = ops.biased(z, readout.bias)
    return z - lax.stop_gradient(z.max(axis=1, keepdims=True))


def _classes(z: jax.Array, part: Positions) -> jax.Array:
    # One row broadcasts. For all rows, JAX would make a constant array outside of the loop.
    return jnp.arange(z.shape[1], dtype=part.labels.dtype)[None]


def _scores(setting: Setting, z: jax.Array, part: Positions) -> Scores:
    """Return the scores of each position, computed from the shifted logits."""
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


def _real_first(real: jax.Array) -> jax.Array:
    """Return the index of each position `[N]` in an order with the real positions first."""
    counted = real.astype(jnp.int32)
    before, others = (jnp.cumsum(each) - each for each in (counted, 1 - counted))
    return jnp.where(real, before, counted.sum(dtype=jnp.int32) + others)


def _number_of_chunks(count: int, chunk_size: int) -> int:
    """Return the number of chunks into which `count` positions are divided.

    With one device, this is the minimum number. With several devices, it is the smallest number, up
    to twice the minimum, for which all devices get chunks of the same size without padding. If
    there is no such number, it is the minimum.
    """
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
    """Apply a function to each chunk. Return the sum of its first outputs, and its second outputs.

    The second outputs are joined in the order of the positions.
    """
    count = positions.labels.shape[0]
    chunks = _number_of_chunks(count, setting.chunk_size)
    if chunks <= 1:
        return function(positions)
    size = -(-count // chunks)
    # Reordering would move positions between devices.
    rank = _real_first(positions.real) if setting.masked and jax.device_count() == 1 else None
    if rank is not None:
        order = (
            jnp.zeros_like(rank)
            .at[rank]
            .set(jnp.arange(count, dtype=rank.dtype), unique_indices=True)
        )
        positions = jax.tree.map(lambda x: x[order], positions)

    def divide(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, size * chunks - count)] + [(0, 0)] * (x.ndim - 1))
        if rank is not None:
            return x.reshape(chunks, size, *x.shape[1:])
        # Each chunk takes positions from the whole batch, so that devices share its work.
        return x.reshape(size, chunks, *x.shape[1:]).swapaxes(0, 1)

    def add(sums: Any, part: Positions) -> tuple[Any, Any]:
        more, each = function(part)
        return jax.tree.map(jnp.add, sums, more), each

    def skip(sums: Any, part: Positions) -> tuple[Any, Any]:
        del part
        return sums, nothing[1]

    def add_if_real(sums: Any, part: Positions) -> tuple[Any, Any]:
        added: tuple[Any, Any] = lax.cond(part.real.any(), add, skip, sums, part)
        return added

    parts = jax.tree.map(divide, positions)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    nothing = scanning.varying_like(nothing, (readout, positions))
    sums, each = lax.scan(add if rank is None else add_if_real, nothing[0], parts)

    def join(x: jax.Array) -> jax.Array:
        x = x if rank is not None else x.swapaxes(0, 1)
        x = x.reshape(size * chunks, *x.shape[2:])[:count]
        return x if rank is None else x[rank]

    return sums, jax.tree.map(join, each)
