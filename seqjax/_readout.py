"""The cross entropy of a linear read-out, which the losses and the metrics share."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax import _chunked, _elements, _totals, checks
from seqjax._compiled import compiled

__all__ = ["LinearReadout", "linear_readout"]


class LinearReadout(NamedTuple):
    """The checked arguments of the cross entropy of a linear read-out.

    Attributes:
      setting: the static options.
      readout: matrix and bias.
      positions: hidden states, labels and mask, with one axis of positions.
      mask: bool, True at real positions, in the shape of the labels; None if all are real.
      valid: bool, True where a label is in range, in the shape of the labels.
      native: whether the native engine computes the means on a CPU.
    """

    setting: _chunked.Setting
    readout: _chunked.Readout
    positions: _chunked.Positions
    mask: jax.Array | None
    valid: jax.Array
    native: bool

    def cross_entropies(self) -> _elements.Elements:
        """Return the cross entropy at each position and the mask of the positions."""
        return _nats(self.setting, self.readout, self.positions, self.valid), self.mask

    def means(self) -> tuple[_elements.Mean, _elements.Mean]:
        """Return the mean cross entropy and the accuracy, computed in one pass over the data."""
        totals = self._totals(jnp.ones((), jnp.float32))
        nats, hits = (_elements.Mean(total, self._count()) for total in totals)
        return nats, hits

    def mean(self) -> jax.Array:
        """Return the mean cross entropy, 0 if there is no real position.

        Its gradient is computed with the division by the count. The gradient of the value of
        `means` is divided afterwards, which takes one more array of the size of the matrix.
        """
        return self._totals(jnp.maximum(self._count(), 1)).nats

    def _count(self) -> jax.Array:
        if self.mask is None:
            return jnp.array(self.valid.size, dtype=int)
        return self.mask.sum(dtype=int)

    def _totals(self, divisor: jax.Array) -> _chunked.Scores:
        """Return the sums divided by a number. They are NaN if a real label is out of range."""
        totals = _totals.totals(self.setting, self.native, self.readout, self.positions, divisor)
        wrong = ~self.valid if self.mask is None else ~self.valid & self.mask
        spoilt = jnp.where(wrong.any(), jnp.nan, jnp.zeros((), totals.nats.dtype))
        return _chunked.Scores(*(total + spoilt for total in totals))


@compiled("setting")
def _nats(
    setting: _chunked.Setting,
    readout: _chunked.Readout,
    positions: _chunked.Positions,
    valid: jax.Array,
) -> jax.Array:
    nats = _chunked.each_nats(setting, readout, positions)
    return jnp.where(valid, nats.reshape(valid.shape), jnp.nan)


def linear_readout(
    hidden: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    transposed: bool = False,
    chunk_size: int | None = None,
) -> LinearReadout:
    """Check the arguments of `seqjax.losses.linear_cross_entropy`."""
    label_smoothing = checks.require_rate("label_smoothing", label_smoothing)
    hidden, kernel = _elements.floats("hidden", hidden), _elements.floats("kernel", kernel)
    features_axis = int(checks.require_bool("transposed", transposed))
    if kernel.ndim != 2 or not kernel.shape[1 - features_axis]:
        layout = "[C, H]" if transposed else "[H, C]"
        raise ValueError(f"kernel: expected {layout} with at least one class, got {kernel.shape}")
    features, classes = kernel.shape[features_axis], kernel.shape[1 - features_axis]
    fitting = f"for a kernel {kernel.shape}"
    if not hidden.ndim or hidden.shape[-1] != features:
        raise ValueError(f"hidden: expected [..., {features}] {fitting}, got {hidden.shape}")
    if bias is not None:
        bias = _elements.floats("bias", bias)
        if bias.shape != (classes,):
            raise ValueError(f"bias: expected ({classes},) {fitting}, got {bias.shape}")
    labels, mask = _elements.class_labels("hidden", hidden.shape, labels, classes, lengths, mask)
    wants_chunks = chunk_size is not None
    if chunk_size is None:
        chunk_size = _chunked.chunk_size_for(features, classes)
    setting = _chunked.Setting(
        label_smoothing,
        checks.require_integer("chunk_size", chunk_size),
        features_axis,
        masked=mask is not None,
    )
    positions, valid = _positions(hidden, labels, mask, classes)
    readout = _chunked.Readout(kernel, bias)
    native = not wants_chunks and _totals.suits_native(readout, positions)
    return LinearReadout(setting, readout, positions, mask, valid, native)


@compiled("classes")
def _positions(
    hidden: jax.Array, labels: jax.Array, mask: jax.Array | None, classes: int
) -> tuple[_chunked.Positions, jax.Array]:
    """Return hidden states, labels and mask with one axis, and True where a label is in range."""
    labels, valid = _elements.in_range(labels, classes)
    count, real = math.prod(labels.shape), valid if mask is None else valid & mask
    hidden = _elements.hidden_by(hidden, mask).reshape(count, hidden.shape[-1])
    return _chunked.Positions(hidden, labels.reshape(count), real.reshape(count)), valid
