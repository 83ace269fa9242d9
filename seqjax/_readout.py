"""The cross entropy of a linear read-out, which the losses and the metrics share."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax import _chunked, _elements, checks
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
    """

    setting: _chunked.Setting
    readout: _chunked.Readout
    positions: _chunked.Positions
    mask: jax.Array | None
    valid: jax.Array

    def cross_entropies(self) -> _elements.Elements:
        """Return the cross entropy at each position and the mask of the positions."""
        return _nats(self.setting, self.readout, self.positions, self.valid), self.mask

    def means(self) -> tuple[_elements.Mean, _elements.Mean]:
        """Return the mean cross entropy and the accuracy, computed in one pass over the data."""
        totals = _chunked.totals(self.setting, self.readout, self.positions)
        if self.mask is None:
            count, wrong = jnp.array(self.valid.size, dtype=int), ~self.valid
        else:
            count, wrong = self.mask.sum(dtype=int), ~self.valid & self.mask
        spoilt = jnp.where(wrong.any(), jnp.nan, jnp.zeros((), totals.nats.dtype))
        nats, hits = (_elements.Mean(total + spoilt, count) for total in totals)
        return nats, hits


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
    if chunk_size is None:
        chunk_size = _chunked.chunk_size_for(features, classes)
    setting = _chunked.Setting(
        label_smoothing,
        checks.require_integer("chunk_size", chunk_size),
        features_axis,
        masked=mask is not None,
    )
    positions, valid = _positions(hidden, labels, mask, classes)
    return LinearReadout(setting, _chunked.Readout(kernel, bias), positions, mask, valid)


@compiled("classes")
def _positions(
    hidden: jax.Array, labels: jax.Array, mask: jax.Array | None, classes: int
) -> tuple[_chunked.Positions, jax.Array]:
    """Return hidden states, labels and mask with one axis, and True where a label is in range."""
    labels, valid = _elements.in_range(labels, classes)
    count, real = math.prod(labels.shape), valid if mask is None else valid & mask
    hidden = _elements.hidden_by(hidden, mask).reshape(count, hidden.shape[-1])
    return _chunked.Positions(hidden, labels.reshape(count), real.reshape(count)), valid
