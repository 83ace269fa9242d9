"""The elapsed time as the last feature of an input, for cells that read it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import checks, sequences
from seqjax._arguments import as_floating, layout
from seqjax.cells._base import Cell
from seqjax.types import Array, PyTree

__all__ = ["between_steps", "join", "require_times", "turned", "with_elapsed"]


def with_elapsed(
    cell: Cell[Any, Any], xs: PyTree, elapsed: Any, *, name: str = "xs", step: bool = False
) -> PyTree:
    """Return checked inputs with the elapsed time as their last feature, if the cell reads it.

    Args:
      cell: the cell.
      xs: the inputs `[..., I]`; or, if `elapsed` is None and the cell reads the time,
        `[..., I+1]`.
      elapsed: the time since the previous step, numbers of shape `[...]`; or None.
      name: the name of the argument `xs` for error messages.
      step: whether `xs` is the input of one step.
    """
    kind, lead = type(cell).__name__, "[...]" if step else "[..., T]"
    if not cell.reads_elapsed:
        if elapsed is not None:
            raise ValueError(
                f"elapsed: expected None for {kind}, which reads no time; wrap the cell in "
                "seqjax.cells.Decay, or use GRUD or CfC"
            )
        return xs
    features, size = jnp.shape(xs)[-1:], cell.input_size
    if elapsed is None and features == (size,):
        raise ValueError(
            f"elapsed: expected the time since the previous step, {lead}, for {kind}, got None"
        )
    if features != (size + (elapsed is None),):
        raise ValueError(
            f"{name}: expected {lead[:-1]}, {size}] beside elapsed, or {lead[:-1]}, {size + 1}] "
            f"with the time as last feature, got {jnp.shape(xs)}"
        )
    if elapsed is None:
        return xs
    xs = as_floating(name, xs)
    elapsed = checks.require_array("elapsed", elapsed, jnp.number, "numbers")
    if jnp.iscomplexobj(elapsed):
        raise TypeError(f"elapsed: expected real numbers, got dtype {elapsed.dtype}")
    if elapsed.shape != xs.shape[:-1]:
        raise ValueError(f"elapsed: expected the shape {xs.shape[:-1]}, got {elapsed.shape}")
    return join(xs, elapsed)


def require_times(
    cell: Cell[Any, Any],
    xs: PyTree,
    *,
    elapsed: Any = None,
    given: PyTree = None,
    lengths: Any = None,
    mask: Any = None,
    time_major: bool = False,
    step: bool = False,
) -> None:
    """Raise if the elapsed time of a real step is negative, NaN or inf.

    The time must also be finite in the dtype of xs, in which the cell reads it. Nothing is checked
    under tracing.

    Args:
      cell: the cell.
      xs: the inputs. If the cell reads the time, it is their last feature.
      elapsed: the times before they were cast to the dtype of xs; or None.
      given: the inputs before they were cast to the dtype of xs, whose last feature is the time if
        `elapsed` is None. The default is xs.
      lengths: as for `unroll`.
      mask: as for `unroll`.
      time_major: as for `unroll`.
      step: whether `xs` is the input of one step.
    """
    if not cell.reads_elapsed or checks.is_traced(xs, elapsed, given, lengths, mask):
        return
    if elapsed is None:
        times = np.asarray(xs if given is None else given)[..., -1]
    else:
        times = np.asarray(elapsed)
    wrong = ~(np.isfinite(np.asarray(xs)[..., -1]) & (times >= 0))
    if wrong.any() and not step:
        shape = layout(cell, xs, time_major=time_major)
        real = sequences.step_mask(*shape, lengths=lengths, mask=mask, time_major=time_major)
        wrong &= True if real is None else np.asarray(real)
    if wrong.any():
        index = tuple(np.argwhere(wrong)[0].tolist())
        if np.isfinite(times[index]) and times[index] >= 0:
            raise ValueError(
                f"elapsed: expected at most {jnp.finfo(xs.dtype).max}, the largest {xs.dtype}, "
                f"got {times[index]} at {index}; choose a larger unit of time"
            )
        hint = "; in the first row of pandas' diff(), put 0" if np.isnan(times[index]) else ""
        raise ValueError(
            f"elapsed: expected finite times of at least 0, got {times[index]} at {index}{hint}"
        )


def join(xs: Array, elapsed: Array) -> Array:
    """Return inputs `[..., I]` with the elapsed time `[...]` as last feature."""
    return jnp.concatenate([xs, elapsed[..., None].astype(xs.dtype)], axis=-1)


def turned(xs: Array, *, mask: Array | None, resets: Array | None, axis: int) -> Array:
    """Return inputs with the times that a reverse run reads as their last feature.

    Args:
      xs: inputs whose last feature is the time since the previous real step.
      mask: True at real steps, as for `unroll`; or None.
      resets: the resets of the reverse run, as for `unroll`; or None.
      axis: the position of the time axis.
    """
    return join(xs[..., :-1], between_steps(xs[..., -1], mask=mask, resets=resets, axis=axis))


def between_steps(
    elapsed: Array, *, mask: Array | None = None, resets: Array | None = None, axis: int = -1
) -> Array:
    """Return the time from each step to the next real step, or 0 if there is none.

    In a reverse run, the next real step is the step that was processed before. If the state is
    reset between the two steps, the time is 0.

    Example:
      >>> between_steps(jnp.array([0.0, 2.0, 3.0])).tolist()
      [2.0, 3.0, 0.0]
      >>> between_steps(jnp.array([0.0, 9.0, 3.0]), mask=jnp.array([True, False, True])).tolist()
      [3.0, 3.0, 0.0]
    """
    times = jnp.moveaxis(elapsed, axis, -1)
    real = jnp.ones(times.shape, bool) if mask is None else jnp.moveaxis(mask, axis, -1)
    # The index of the next real step, which is T if there is none.
    following = times.shape[-1] - 1 - jnp.flip(sequences.previous_real(jnp.flip(real, -1)), -1)
    lead = [(0, 0)] * (times.ndim - 1)
    gaps = jnp.take_along_axis(jnp.pad(times, [*lead, (0, 1)]), following, -1)
    if resets is not None:
        counts = jnp.pad(jnp.moveaxis(resets, axis, -1).astype(jnp.int32), [*lead, (1, 0)])
        before = jnp.cumsum(counts, axis=-1)  # the number of resets before each step
        same = jnp.take_along_axis(before, following, -1) == before[..., :-1]
        gaps = jnp.where(same, gaps, 0)
    return jnp.moveaxis(gaps, -1, axis)
