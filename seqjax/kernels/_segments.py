"""Checkpointed backpropagation through time, which runs a kernel on one segment after another.

The forward pass keeps only the state at the start of each segment. For each segment, the backward
pass runs the steps again, keeps their values, and differentiates them. If segments are nested, the
memory is logarithmic in T (Griewank 1992; Chen et al. 2016).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.cells._base import Cell
from seqjax.kernels._problem import Problem
from seqjax.kernels._scan import varying_like
from seqjax.types import Array, PyTree, Unrolled

__all__ = ["in_segments"]

Run = Callable[[Problem], Unrolled]


def in_segments(
    run: Run,
    cell: Cell[Any, Any],
    problem: Problem,
    sizes: Sequence[int],
    *,
    axis: int = 0,
    reverse: bool = False,
) -> Unrolled:
    """Run a problem segment by segment. The backward pass runs each segment again.

    Each segment is a slice of the arrays, so the whole arrays are neither copied nor transposed.
    JAX adds the gradients of the segments in place.

    Args:
      run: a function that runs a problem of any number of steps, in the layout of `problem`.
      cell: the cell.
      problem: the whole problem, batch-major or time-major.
      sizes: the number of steps in a segment, in a segment inside that segment, and so on. Each
        size divides the previous one. If `sizes` is empty, the problem is run without segments. If
        the first size does not divide T, the last segment is filled with masked steps.
      axis: the position of the time axis.
      reverse: whether the last segment is run first.

    Returns:
      `Unrolled` for the whole problem, with the values and derivatives of `run(problem)`.

    Example:
      >>> import functools
      >>> from seqjax.cells import GRU
      >>> from seqjax.kernels import scan
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([8, 2, 3]), zeros, zeros)
      >>> ran = in_segments(functools.partial(scan, cell), cell, problem, [4, 2])
      >>> bool(jnp.allclose(ran.outputs, scan(cell, problem).outputs, atol=1e-6))
      True
    """
    if not sizes:
        return run(problem)
    size, *inner = sizes
    steps = jax.tree.leaves(problem.xs)[0].shape[axis]
    if steps <= size:
        return in_segments(run, cell, problem, inner, axis=axis, reverse=reverse)
    count = math.ceil(steps / size)
    problem = _filled_up(cell, problem, count * size - steps, axis)

    @jax.checkpoint
    def segment(state: Any, index: Array) -> tuple[Any, PyTree]:
        part = jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, index * size, size, axis),
            problem.per_step(),
        )
        part = dataclasses.replace(problem, state=state, **part)
        outputs, state = in_segments(run, cell, part, inner, axis=axis, reverse=reverse)
        return state, outputs

    start = varying_like(problem.state, problem)
    state, outputs = jax.lax.scan(segment, start, jnp.arange(count), reverse=reverse)
    return Unrolled(jax.tree.map(lambda a: _joined(a, steps, axis), outputs), state)


def _joined(segments: Array, steps: int, axis: int) -> Array:
    """Join the outputs `[N, …, T/N, …]` of N segments to outputs `[…, T, …]`."""
    segments = jnp.moveaxis(segments, 0, axis)
    shape = segments.shape
    whole = segments.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    return jax.lax.slice_in_dim(whole, 0, steps, axis=axis)


def _filled_up(cell: Cell[Any, Any], problem: Problem, missing: int, axis: int) -> Problem:
    """Append `missing` masked steps to the problem."""
    if not missing:
        return problem
    mask = problem.mask
    if mask is None:
        x, event = jax.tree.leaves(problem.xs)[0], cell.input_shapes[0]
        mask = jnp.ones(x.shape[: x.ndim - len(event)], bool)
    problem = dataclasses.replace(problem, mask=mask)

    def padded(a: Array) -> Array:
        return jnp.pad(a, [(0, missing if n == axis else 0) for n in range(a.ndim)])

    return dataclasses.replace(problem, **jax.tree.map(padded, problem.per_step()))
