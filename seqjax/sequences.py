"""Functions for sequences of unequal length: masks, layouts, and selection of real steps.

A step is real if it belongs to the sequence and not to its padding. A mask is a boolean array that
is True at real steps. `lengths` describes a mask in which the first steps of each sequence, up to
its length, are real. Arrays are batch-major, `[..., T, …]`.

After the checks of its arguments, each function is one compiled program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax import checks
from seqjax._compiled import compiled
from seqjax._episodes import dones_from_resets, resets_from_dones
from seqjax._noted import note_range
from seqjax.cells.ops import accumulator_dtype
from seqjax.types import Array, Shape

__all__ = [
    "require_lengths",
    "require_mask",
    "dones_from_resets",
    "first_real",
    "last_real",
    "lengths_to_mask",
    "mask_to_lengths",
    "max_pool",
    "mean_pool",
    "previous_real",
    "repeat",
    "resets_from_dones",
    "reverse",
    "step_mask",
    "zero_masked",
]


def require_lengths(lengths: Any, batch_shape: Shape, steps: int) -> Array:
    """Check lengths and return them as int32.

    Under tracing, where values are not known, a length above T means T, and a length below 0 means
    0.

    Args:
      lengths: an array of integers with the shape `batch_shape`, of any integer dtype.
      batch_shape: the expected shape of the lengths.
      steps: the greatest allowed length, T.

    Raises:
      TypeError: lengths are not integers.
      ValueError: the shape of lengths is not `batch_shape`, or (outside tracing) a length is below
        0 or above T.

    Example:
      >>> require_lengths(np.array([2, 3], np.uint8), (2,), 3).tolist()
      [2, 3]
    """
    traced = checks.is_traced(lengths)
    if not traced and not isinstance(lengths, jax.Array):
        given = lengths
        checks.require_unmasked("lengths", given)
        try:
            lengths = np.asarray(lengths)
        except ValueError:
            raise TypeError(f"lengths: expected integers, got {checks.brief(given)}") from None
        if lengths.dtype.kind in "OUS":
            raise TypeError(f"lengths: expected integers, got {checks.brief(given)}")
        if lengths.size == 0 and lengths.dtype == np.float64:
            lengths = lengths.astype(np.int32)  # NumPy makes a float array from an empty list
    elif isinstance(lengths, (list, tuple)):
        lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths: expected integers, got dtype {lengths.dtype}")
    if lengths.shape != tuple(batch_shape):
        raise ValueError(
            f"lengths: expected the batch shape {tuple(batch_shape)}, got {lengths.shape}"
        )
    if traced:
        if isinstance(steps, int):
            note_range("lengths", lengths, steps)
        # The lengths are clipped in their own dtype first. Otherwise the conversion to int32 could
        # wrap a large length around.
        most = min(int(jnp.iinfo(lengths.dtype).max), int(jnp.iinfo(jnp.int32).max))
        return jnp.minimum(jnp.clip(lengths, 0, most).astype(jnp.int32), steps)
    values = np.asarray(lengths)
    if values.size and (values.min() < 0 or values.max() > steps):
        raise ValueError(
            f"lengths: expected 0 to {steps}, the number of steps, "
            f"got {values.min()} to {values.max()}"
        )
    return jnp.asarray(values.astype(np.int32), np.int32)


def require_mask(name: str, mask: Any, shape: Shape) -> Array:
    """Check the dtype and the shape of a mask or of resets, and return the array.

    Args:
      name: the name of the argument for the error message.
      mask: the boolean array.
      shape: the shape that the array must have.

    Raises:
      TypeError: the array is not boolean. A float mask is refused because its meaning is ambiguous.
      ValueError: the array does not have the expected shape.

    Example:
      >>> require_mask("mask", np.array([True, False]), (2,)).tolist()
      [True, False]
    """
    expected = "bool, True at real steps" if name == "mask" else "bool"
    found = checks.require_array(name, mask, jnp.bool_, expected)
    if found.shape != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {found.shape}")
    return found


def lengths_to_mask(lengths: Any, steps: int) -> Array:
    """Return a mask that is True at the real steps of each sequence.

    Args:
      lengths: integers `[...]` from 0 to T, the number of real steps of each sequence.
      steps: the number of time steps, T.

    Returns:
      The mask, bool `[..., T]`.

    Raises:
      TypeError, ValueError: the lengths are not valid; see `require_lengths`.

    Example:
      >>> lengths_to_mask(jnp.array([0, 2]), 3).astype(int).tolist()
      [[0, 0, 0], [1, 1, 0]]
    """
    is_open: bool = jax.export.is_symbolic_dim(steps)  # a program exported for any T
    steps = steps if is_open else checks.require_integer("steps", steps, least=0)
    lengths = require_lengths(lengths, shape_of("lengths", "integers", lengths), steps)
    return _before(lengths, steps) if is_open else _compiled_before(lengths, steps=steps)


def _before(lengths: Array, steps: int) -> Array:
    position = lax.broadcast_to_rank(jnp.arange(steps, dtype=jnp.int32), lengths.ndim + 1)
    mask: Array = position < lengths[..., None]
    return mask


_compiled_before = compiled("steps")(_before)


def mask_to_lengths(mask: Any) -> Array:
    """Return the number of real steps of each sequence, int32 `[...]`.

    Args:
      mask: bool `[..., T]`, True at real steps. Padding between real steps is allowed.

    Example:
      >>> mask_to_lengths(jnp.array([[True, True, False]])).tolist()
      [2]
    """
    real = checks.require_array("mask", mask, jnp.bool_, "bool, True at real steps")
    if real.ndim == 0:
        raise ValueError("mask: expected a time axis, [..., T], got a scalar")
    return real.sum(axis=-1, dtype=jnp.int32)


def previous_real(mask: Any) -> Array:
    """Return, for each step, the index of the last real step before it.

    Args:
      mask: bool `[..., T]`, True at real steps.

    Returns:
      The indices, int32 `[..., T]`. For a step that no real step precedes, the index is -1.

    Example:
      >>> previous_real(jnp.array([True, False, True, True])).tolist()
      [-1, 0, 0, 2]
    """
    mask = checks.require_array("mask", mask, jnp.bool_, "bool, True at real steps")
    if mask.ndim == 0:
        raise ValueError("mask: expected a time axis, [..., T], got a scalar")
    return _previous(mask)


@compiled()
def _previous(mask: Array) -> Array:
    numbers = lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    last = lax.cummax(jnp.where(mask, numbers, -1), axis=mask.ndim - 1)
    before = [(0, 0)] * (mask.ndim - 1) + [(1, 0)]
    return jnp.pad(last, before, constant_values=-1)[..., :-1]


def step_mask(
    batch_shape: Shape,
    steps: int,
    *,
    lengths: Any = None,
    mask: Any = None,
    time_major: bool = False,
) -> Array | None:
    """Check `lengths` or `mask` and return the mask. Return None if all steps are real.

    Args:
      batch_shape: the sizes of the batch axes.
      steps: the number of time steps, T.
      lengths: integers of `batch_shape`, the number of real steps of each sequence. Pass lengths or
        mask.
      mask: bool `[*batch_shape, T]` (time-major: `[T, *batch_shape]`), True at real steps.
      time_major: whether the time axis comes first, both in `mask` and in the result.

    Raises:
      TypeError, ValueError: `lengths` and `mask` are both given, or one of them has a wrong dtype,
        shape or value.

    Example:
      >>> step_mask((1,), 2, lengths=jnp.array([1])).tolist()
      [[True, False]]
    """
    if lengths is not None and mask is not None:
        raise ValueError("lengths, mask: expected one of them, got both")
    if lengths is not None:
        mask = lengths_to_mask(require_lengths(lengths, batch_shape, steps), steps)
        return jnp.moveaxis(mask, -1, 0) if time_major else mask
    if mask is not None:
        return require_mask(
            "mask", mask, (steps, *batch_shape) if time_major else (*batch_shape, steps)
        )
    return None


def _mask_of(xs: Array, lengths: Any, mask: Any, axis: int) -> Array:
    """Return the mask that `lengths` or `mask` describes, for xs whose time axis is `axis`."""
    if not 0 <= axis < xs.ndim:
        raise ValueError(f"xs: expected a time axis after the batch axes, got shape {xs.shape}")
    batch_shape, steps = xs.shape[:axis], xs.shape[axis]
    found = step_mask(batch_shape, steps, lengths=lengths, mask=mask)
    return jnp.ones((*batch_shape, steps), bool) if found is None else found


def _time_axis(xs: Array, lengths: Any, mask: Any) -> int:
    """Return the position of the time axis of xs.

    The time axis comes right after the batch axes of lengths or mask. If neither lengths nor mask
    is given, the time axis is the second to last axis. An array of integers with two axes may be a
    batch of tokens, whose time axis is the last one, so it needs lengths or mask.
    """
    if lengths is not None:
        return len(shape_of("lengths", "integers", lengths))
    if mask is not None:
        return len(shape_of("mask", "bool, True at real steps", mask)) - 1
    if xs.ndim == 2 and not jnp.issubdtype(xs.dtype, jnp.inexact):
        raise ValueError(
            f"lengths: expected lengths or mask for {xs.dtype} of shape {xs.shape}, which may be "
            "tokens [B, T] or features [T, I]; got none"
        )
    return xs.ndim - 2


def shape_of(name: str, expected: str, values: Any) -> Shape:
    """Return the shape of an array or of nested lists, or raise if lists differ in length."""
    checks.require_unmasked(name, values)
    try:
        return np.shape(values)
    except ValueError:
        raise TypeError(f"{name}: expected {expected}, got {checks.brief(values)}") from None


def _numbers(xs: Any) -> Array:
    return checks.require_array("xs", xs, jnp.generic, "numbers [..., T, …]")


def over_features(mask: Array | np.ndarray, xs: Array | np.ndarray) -> Array:
    """Append axes of size 1 to a mask `[..., T]`, so that it broadcasts with xs `[..., T, …]`."""
    return jnp.asarray(mask).reshape(*mask.shape, *[1] * (xs.ndim - mask.ndim))


def zero_masked(xs: Any, *, lengths: Any = None, mask: Any = None) -> Array:
    """Return xs with zeros at masked steps, even if xs is NaN there.

    Args:
      xs: the sequences, `[..., T, …]`.
      lengths: integers `[...]`, the number of real steps of each sequence. Pass lengths or mask.
      mask: bool `[..., T]`, True at real steps. If neither lengths nor mask is given, xs is
        returned unchanged.

    Raises:
      TypeError, ValueError: lengths or mask are not valid for xs.

    Example:
      >>> zero_masked(jnp.array([[1.0], [jnp.nan]]), mask=jnp.array([True, False])).tolist()
      [[1.0], [0.0]]
    """
    values = _numbers(xs)
    if lengths is not None:
        mask = _mask_of(values, lengths, mask, _time_axis(values, lengths, mask))
    if mask is None:
        return values
    mask = checks.require_array("mask", mask, jnp.bool_, "bool, True at real steps")
    if mask.shape != values.shape[: mask.ndim]:
        raise ValueError(f"mask: expected {values.shape[: mask.ndim]}, got {mask.shape}")
    return _zeroed(values, mask)


@compiled()
def _zeroed(xs: Array, mask: Array) -> Array:
    return jnp.where(over_features(mask, xs), xs, jnp.zeros((), xs.dtype))


@compiled("axis", "last")
def _picked(xs: Array, mask: Array, axis: int, *, last: bool) -> Array:
    steps = xs.shape[axis]
    if steps == 0:
        return jnp.zeros(xs.shape[:axis] + xs.shape[axis + 1 :], xs.dtype)
    index = steps - 1 - jnp.argmax(mask[..., ::-1], -1) if last else jnp.argmax(mask, -1)
    picked = jnp.take_along_axis(xs, over_features(index[..., None], xs), axis=axis).squeeze(axis)
    return zero_masked(picked, mask=mask.any(axis=-1))


def last_real(xs: Any, *, lengths: Any = None, mask: Any = None) -> Array:
    """Return the last real step of each sequence (many-to-one).

    If a sequence has no real step, its result is zero.

    Args:
      xs: the sequences, `[..., T, …]`.
      lengths: integers `[...]`, the number of real steps of each sequence. Pass lengths or mask.
      mask: bool `[..., T]`, True at real steps. Any pattern is allowed. If neither lengths nor mask
        is given, all steps are real, and the time axis is the second to last axis.

    Returns:
      One step of each sequence, `[..., …]`, without the time axis.

    Raises:
      TypeError, ValueError: lengths or mask are not valid for xs.

    Example:
      >>> xs = jnp.arange(6.0).reshape(2, 3, 1)
      >>> last_real(xs, lengths=jnp.array([2, 0])).tolist()
      [[1.0], [0.0]]
    """
    xs = _numbers(xs)
    axis = _time_axis(xs, lengths, mask)
    return _picked(xs, _mask_of(xs, lengths, mask, axis), axis, last=True)


def first_real(xs: Any, *, lengths: Any = None, mask: Any = None) -> Array:
    """Return the first real step of each sequence, which a backward layer processes last.

    The arguments are the same as for `last_real`.

    Example:
      >>> xs = jnp.arange(3.0).reshape(1, 3, 1)
      >>> first_real(xs, mask=jnp.array([[False, True, True]])).tolist()
      [[1.0]]
    """
    xs = _numbers(xs)
    axis = _time_axis(xs, lengths, mask)
    return _picked(xs, _mask_of(xs, lengths, mask, axis), axis, last=False)


def mean_pool(xs: Any, *, lengths: Any = None, mask: Any = None) -> Array:
    """Return the mean over the real steps of each sequence.

    If a sequence has no real step, its result is zero. The arguments are the same as for
    `last_real`. The mean is computed in float32 or wider, and returned in the dtype of xs.

    Example:
      >>> mean_pool(jnp.array([[[1.0], [3.0], [99.0]]]), lengths=jnp.array([2])).tolist()
      [[2.0]]
    """
    xs = _numbers(xs)
    axis = _time_axis(xs, lengths, mask)
    return _mean(xs, _mask_of(xs, lengths, mask, axis), axis)


@compiled("axis")
def _mean(xs: Array, mask: Array, axis: int) -> Array:
    wide = accumulator_dtype(xs.dtype)
    total = zero_masked(xs, mask=mask).astype(wide).sum(axis=axis)
    count = jnp.maximum(mask.sum(axis=-1), 1).astype(wide)
    return (total / over_features(count, total)).astype(xs.dtype)


def _lowest(dtype: Any) -> Any:
    if dtype == jnp.bool_:
        return False
    floating = jnp.issubdtype(dtype, jnp.floating)
    return -jnp.inf if floating else jnp.iinfo(dtype).min


def max_pool(xs: Any, *, lengths: Any = None, mask: Any = None) -> Array:
    """Return the maximum over the real steps of each sequence.

    If a sequence has no real step, its result is zero. The arguments are the same as for
    `last_real`.

    Example:
      >>> max_pool(jnp.array([[[1.0], [3.0], [99.0]]]), lengths=jnp.array([2])).tolist()
      [[3.0]]
    """
    xs = _numbers(xs)
    axis = _time_axis(xs, lengths, mask)
    mask = _mask_of(xs, lengths, mask, axis)
    if jnp.issubdtype(xs.dtype, jnp.complexfloating):
        raise TypeError(f"xs: expected real numbers, got dtype {xs.dtype}")
    if xs.shape[axis] == 0:
        return _picked(xs, mask, axis, last=True)
    return _highest(xs, mask, axis)


@compiled("axis")
def _highest(xs: Array, mask: Array, axis: int) -> Array:
    highest = jnp.max(xs, axis=axis, where=over_features(mask, xs), initial=_lowest(xs.dtype))
    return zero_masked(highest, mask=mask.any(axis=-1))


def reverse(xs: Any, *, lengths: Any = None, mask: Any = None) -> Array:
    """Reverse the real steps of each sequence, and leave the padding in place.

    Args:
      xs: the sequences, `[..., T, …]`.
      lengths: integers `[...]`, the number of real steps of each sequence. Pass lengths or mask.
      mask: bool `[..., T]`, True at the steps to reverse. If neither lengths nor mask is given, all
        steps are reversed, and the time axis is the second to last axis.

    Example:
      >>> reverse(jnp.array([[1, 2, 3, 9]])[..., None], lengths=jnp.array([3]))[..., 0].tolist()
      [[3, 2, 1, 9]]
    """
    xs = _numbers(xs)
    axis = _time_axis(xs, lengths, mask)
    return _reversed(xs, _mask_of(xs, lengths, mask, axis), axis)


@compiled("axis")
def _reversed(xs: Array, mask: Array, axis: int) -> Array:
    steps = xs.shape[axis]
    # The k-th real step moves to the place of the k-th real step from the end.
    order = jnp.argsort(~mask, axis=-1, stable=True)  # real steps first, in their order
    rank = jnp.cumsum(mask, axis=-1) - 1
    opposite = jnp.clip(mask.sum(axis=-1, keepdims=True) - 1 - rank, 0, max(steps - 1, 0))
    source = jnp.where(
        mask,
        jnp.take_along_axis(order, opposite, axis=-1),
        lax.broadcast_to_rank(jnp.arange(steps), mask.ndim),
    )
    return jnp.take_along_axis(xs, over_features(source, xs), axis=axis)


def repeat(x: Any, steps: int) -> Array:
    """Repeat an input at every step (one-to-many), like Keras's `RepeatVector`.

    Args:
      x: the input, `[..., I]`.
      steps: the number of time steps, T.

    Returns:
      The sequence, `[..., T, I]`.

    Raises:
      TypeError, ValueError: `steps` is not a positive integer.

    Example:
      >>> repeat(jnp.ones([2, 3]), 5).shape
      (2, 5, 3)
    """
    steps = checks.require_integer("steps", steps)
    x = checks.require_array("x", x, jnp.generic, "features [..., I]")
    if x.ndim == 0:
        raise ValueError("x: expected features, [..., I], got a scalar")
    return jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], steps, x.shape[-1]))


def to_time_major(tree: Any, batch_ndim: int) -> Any:
    """Move the time axis of each array from the position after the batch axes to the front."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, batch_ndim, 0), tree)


def to_batch_major(tree: Any, batch_ndim: int) -> Any:
    """Move the time axis of each array from the front to the position after the batch axes."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, batch_ndim), tree)
