"""Means over the real elements of a batch, from which losses and metrics are computed."""

import math
from typing import Any, NamedTuple, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from seqjax import checks, sequences
from seqjax._compiled import compiled
from seqjax.data._containers import numbers

__all__ = [
    "Elements",
    "Mean",
    "averaged",
    "binary_cross_entropies",
    "binary_hits",
    "class_labels",
    "cross_entropies",
    "floats",
    "hidden_by",
    "hits",
    "in_range",
    "reals",
    "squared_errors",
]

Elements: TypeAlias = tuple[jax.Array, jax.Array | None]
"""Values and their mask. The mask is True at real positions, and the shape of the values begins
with the shape of the mask. If the mask is None, all values are real."""


class Mean(NamedTuple):
    """A mean stored as total and count, so that the means of batches of any size merge exactly.

    If a mean is empty (count 0), its value and its gradient are 0 and not NaN. Therefore a batch of
    padding only does not change a training step or an evaluation. To accumulate means, start with
    `Mean()`.

    Attributes:
      total: float scalar, the sum over the real elements.
      count: int scalar, the number of real elements. An int32 count can be at most 2**31 - 1. If
        there are more elements, convert each mean to Python numbers before you merge it:
        `Mean(float(m.total), int(m.count))`.

    Example:
      >>> long, short = Mean.of(jnp.array([1.0, 2.0, 3.0])), Mean.of(jnp.array([10.0]))
      >>> float(long.merge(short).value())
      4.0
      >>> float(Mean().value())
      0.0
    """

    total: jax.Array | float = 0.0
    count: jax.Array | int = 0  # type: ignore[assignment]  # hides tuple.count, of no use here

    @classmethod
    def of(
        cls,
        values: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> "Mean":
        """Return the mean over the real elements of an array.

        Args:
          values: float, int or bool [...], which are summed in float32 or wider.
          lengths: int [...], the number of real steps of each sequence. In values, the time axis
            comes right after the axes of `lengths`.
          mask: bool, True at real positions. The shape of values must begin with the shape of mask.
            All elements at a real position are real. Masked values may be NaN. Pass lengths or
            mask, not both.

        Returns:
          The mean, whose count is the number of elements and not of positions.

        Raises:
          TypeError: values are not real numbers, lengths are not integers, or mask is not bool.
          ValueError: a NumPy array has masked entries, or the shape of values does not begin with
            the shape of mask or lengths.

        Example:
          >>> float(Mean.of(jnp.array([1.0, 3.0, jnp.nan]), mask=jnp.arange(3) < 2).value())
          2.0
        """
        values = reals("values", values)
        # NumPy converts them, because JAX would wrap 64-bit integers around before the conversion.
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            values = values.astype(np.float32)
        values = _at_least_float32(jnp.asarray(values))
        mask = _real_positions(lengths, mask, values.shape)
        return cls(*_total(values, mask))

    def merge(self, other: "Mean") -> "Mean":
        """Return the mean over the elements of both means, as if they were one batch."""
        if not isinstance(other, Mean):
            raise TypeError(f"other: expected a Mean, got {checks.brief(other)}")
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> jax.Array:
        """Return the value of the mean: total / count, or 0 if the count is 0."""
        total = jnp.asarray(self.total)
        return total / jnp.maximum(jnp.asarray(self.count, total.dtype), 1)

    def __add__(self, other: object) -> NoReturn:
        # Without this method, + would silently join two means into a tuple of four numbers.
        raise TypeError("Mean: merge two means with a.merge(b); a + b and sum are not defined")

    def __radd__(self, other: object) -> NoReturn:
        self.__add__(other)  # sum(means) starts with 0 + mean


def averaged(values: jax.Array, mask: jax.Array | None, per_sequence: bool) -> jax.Array:
    """Return the mean over the real elements of the batch, or of each sequence."""
    if not checks.require_bool("per_sequence", per_sequence):
        return _mean(values, mask)
    if not values.ndim:
        raise ValueError("per_sequence: expected a batch of sequences, got a single position")
    if mask is not None and not mask.ndim:
        mask = jnp.broadcast_to(mask, values.shape[:1])
    return _each_mean(values, mask)


@compiled()
def _total(values: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return the sum and the number of the real elements."""
    if mask is None:
        return values.sum(), jnp.array(values.size, dtype=int)
    elements = math.prod(values.shape[mask.ndim :])
    return hidden_by(values, mask).sum(), mask.sum(dtype=int) * elements


@compiled()
def _mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    return Mean.of(values, mask=mask).value()


@compiled()
def _each_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    return jax.vmap(_mean)(values, mask)


def mean(values: jax.Array, mask: jax.Array | None) -> Mean:
    """Return the mean of `Elements`, the values and mask that a function of this module returns."""
    return Mean.of(values, mask=mask)


def cross_entropies(
    logits: ArrayLike,
    labels: ArrayLike,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    label_smoothing: float,
) -> Elements:
    """Return `-Σ_c q_c log softmax(logits)_c` at each position, NaN at a label out of range."""
    label_smoothing = checks.require_rate("label_smoothing", label_smoothing)
    logits, labels, mask = _classes(logits, labels, lengths, mask)
    return _cross_entropies(logits, labels, mask, label_smoothing), mask


@compiled("label_smoothing")
def _cross_entropies(
    logits: jax.Array, labels: jax.Array, mask: jax.Array | None, label_smoothing: float
) -> jax.Array:
    logits, (labels, valid) = hidden_by(logits, mask), in_range(labels, logits.shape[-1])
    values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing:
        # The mean of the cross entropies of all classes, without an array of smoothed labels.
        uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
        values = (1 - label_smoothing) * values + label_smoothing * uniform
    return jnp.where(valid, values, jnp.nan)


def binary_cross_entropies(
    logits: ArrayLike, labels: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> Elements:
    """Return the logistic cross entropy of each element, NaN at a label out of range."""
    logits, labels, mask = _binary(logits, labels, lengths, mask)
    return _binary_cross_entropies(logits, labels), mask


@compiled()
def _binary_cross_entropies(logits: jax.Array, labels: jax.Array) -> jax.Array:
    values = optax.sigmoid_binary_cross_entropy(logits, labels)
    return jnp.where((labels >= 0) & (labels <= 1), values, jnp.nan)


def squared_errors(
    predictions: ArrayLike, targets: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> Elements:
    """Return the squared difference of each element."""
    predictions, targets, mask = _pair(
        "predictions", predictions, "targets", targets, lengths, mask
    )
    return optax.squared_error(predictions, targets), mask


def absolute_errors(
    predictions: ArrayLike, targets: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> Elements:
    """Return the absolute difference of each element."""
    predictions, targets, mask = _pair(
        "predictions", predictions, "targets", targets, lengths, mask
    )
    return jnp.abs(predictions - targets), mask


def hits(
    logits: ArrayLike, labels: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> Elements:
    """Return 1 where the label has the largest logit, else 0; NaN for invalid logits and labels."""
    logits, labels, mask = _classes(logits, labels, lengths, mask)
    return _hits(logits, labels, mask), mask


@compiled()
def _hits(logits: jax.Array, labels: jax.Array, mask: jax.Array | None) -> jax.Array:
    logits, (labels, valid) = hidden_by(logits, mask), in_range(labels, logits.shape[-1])
    valid &= ~jnp.isnan(logits).any(axis=-1)  # argmax would return the index of a NaN
    hits = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
    return jnp.where(valid, hits.astype(jnp.float32), jnp.nan)


def binary_hits(
    logits: ArrayLike, labels: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> Elements:
    """Return 1 where `logit > 0` equals `label > 0.5`, else 0; NaN for invalid logits or labels."""
    logits, labels, mask = _binary(logits, labels, lengths, mask)
    return _binary_hits(logits, labels), mask


@compiled()
def _binary_hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    # NaN > 0 is False, as if NaN were class 0.
    valid = (labels >= 0) & (labels <= 1) & ~jnp.isnan(logits)
    hits = (logits > 0) == (labels > 0.5)
    return jnp.where(valid, hits.astype(jnp.float32), jnp.nan)


def _classes(
    logits: ArrayLike, labels: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Check logits and labels, and return them with their mask."""
    logits = _floating("logits", logits)
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"logits: expected [..., C] with at least one class, got {logits.shape}")
    labels, mask = class_labels("logits", logits.shape, labels, logits.shape[-1], lengths, mask)
    return logits, labels, mask


def class_labels(
    name: str,
    shape: tuple[int, ...],
    labels: Any,
    classes: int,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Check labels, and return them with their mask. Masked and traced labels may be out of range.

    The labels must have the shape `shape` without its last axis.
    """
    labels = _array("labels", labels)
    if labels.shape != shape[:-1]:
        raise ValueError(f"labels: expected {shape[:-1]} for {name} {shape}, got {labels.shape}")
    if not labels.size and isinstance(labels, np.ndarray):
        labels = labels.astype(np.int32)  # NumPy makes a float array from an empty list
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels: expected integer classes, got {labels.dtype}")
    mask = _real_positions(lengths, mask, labels.shape, whole=True)
    # The check comes before JAX narrows the labels. Narrowing could wrap a wide integer around so
    # that it looks valid.
    checks.require_range("labels", labels, classes - 1, mask=mask)
    return checks.require_ids("labels", jnp.asarray(labels), "integer classes"), mask


def in_range(labels: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """Return the labels, with 0 where they are out of range, and True where they are in range."""
    valid = (labels >= 0) & (labels < classes)
    return hidden_by(labels, valid), valid


def _binary(
    logits: ArrayLike, labels: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return logits and labels, with 0 at masked positions, and their mask."""
    logits, labels, mask = _pair("logits", logits, "labels", labels, lengths, mask)
    checks.require_range("labels", labels, 1, mask=mask)
    return logits, labels, mask


def _pair(
    name: str,
    values: ArrayLike,
    target_name: str,
    targets: ArrayLike,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return two arrays of the same shape and dtype, with 0 at masked positions, and their mask."""
    values, targets = _floating(name, values), reals(target_name, targets)
    if targets.shape != values.shape:
        raise ValueError(
            f"{target_name}: expected the shape of {name}, {values.shape}, got {targets.shape}"
        )
    mask = _real_positions(lengths, mask, values.shape)
    return *_hidden(values, jnp.asarray(targets, values.dtype), mask), mask


@compiled()
def _hidden(
    values: jax.Array, targets: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    return hidden_by(values, mask), hidden_by(targets, mask)


def _array(name: str, x: Any) -> jax.Array | np.ndarray:
    """Return an array of numbers.

    NumPy arrays are not converted to JAX arrays, since JAX would truncate 64-bit numbers.
    """
    if isinstance(x, jax.Array):
        return x
    # An nnx.Variable, or a list of JAX arrays, which may be traced.
    if hasattr(x, "__jax_array__") or any(isinstance(v, jax.Array) for v in jax.tree.leaves(x)):
        return jnp.asarray(x)
    return numbers(name, x)


def reals(name: str, x: Any) -> jax.Array | np.ndarray:
    """Return an array of numbers that are not complex, or raise; NumPy arrays stay as they are."""
    array = _array(name, x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    if isinstance(array, np.ndarray) and array.dtype == np.longdouble:
        array = array.astype(np.float64)
    return array


def _floating(name: str, x: ArrayLike) -> jax.Array:
    return _at_least_float32(floats(name, x))


def floats(name: str, x: ArrayLike) -> jax.Array:
    """Return a JAX array of floats, or raise."""
    x = jnp.asarray(reals(name, x))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a float array, got {x.dtype}")
    return x


def _at_least_float32(x: jax.Array) -> jax.Array:
    wide = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize >= 4
    return x if wide else x.astype(jnp.float32)


def _real_positions(
    lengths: Any, mask: Any, shape: tuple[int, ...], *, whole: bool = False
) -> jax.Array | None:
    """Return the mask that lengths or mask describe, or None if all positions are real."""
    if lengths is None:
        return None if mask is None else _checked_mask(mask, shape, whole=whole)
    if mask is not None:
        raise ValueError("lengths, mask: expected one of them, got both")
    batch = sequences.shape_of("lengths", "integers", lengths)
    if batch != shape[: len(batch)] or len(batch) == len(shape) or (whole and shape[:-1] != batch):
        expected = f"shape {shape[:-1]}" if whole else f"a leading part of {shape[:-1]}"
        raise ValueError(f"lengths: expected {expected}, got {batch}")
    return sequences.step_mask(batch, shape[len(batch)], lengths=lengths)


def _checked_mask(mask: ArrayLike, shape: tuple[int, ...], *, whole: bool = False) -> jax.Array:
    """Return the mask as an array, or raise if `shape` does not begin with the mask's shape.

    With `whole`, the mask's shape must be equal to `shape`.
    """
    mask = _array("mask", mask)
    if mask.dtype != bool:
        raise TypeError(f"mask: expected bool (True where real), got {mask.dtype}")
    if mask.shape != (shape if whole else shape[: mask.ndim]):
        expected = f"shape {shape}" if whole else f"a leading part of {shape}"
        raise ValueError(f"mask: expected {expected}, got {mask.shape}")
    return jnp.asarray(mask)


def hidden_by(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return x with 0 at masked positions. If x is an input, masked NaN do not reach gradients."""
    if mask is None:
        return x
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    return jnp.where(mask, x, jnp.zeros((), x.dtype))
