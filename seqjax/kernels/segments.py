"""Checkpointed backpropagation through time: any kernel, run on one segment of time after another.

Reverse mode keeps what the steps of a segment stored only while that segment is differentiated; of
the others it keeps the state at their start, and runs them again when their turn comes. Segments
within segments make the memory logarithmic in T (Griewank 1992; Chen et al. 2016).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.cells.base import Cell
from seqjax.kernels.problem import Problem
from seqjax.kernels.scan import varying_like
from seqjax.types import PyTree, Unrolled

__all__ = ["in_segments"]

Run = Callable[[Problem], Unrolled]


def in_segments(
    run: Run, cell: Cell[Any, Any], problem: Problem, sizes: Sequence[int], *, reverse: bool
) -> Unrolled:
    """Runs a problem segment by segment, each of which is run again in the backward pass.

    Args:
      run: runs a problem of any number of steps.
      cell: the cell.
      problem: the whole.
      sizes: steps in a segment, in a segment of that segment, and so on; each divides the one
        before. Empty: the problem is run as it is. Where the first does not divide T, masked
        steps fill the last segment.
      reverse: whether the last segment comes first.

    Returns:
      What `run` gives for the whole, in values and derivatives.

    Example:
      >>> import functools
      >>> from seqjax.cells import GRU
      >>> from seqjax.kernels import scan
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([8, 2, 3]), zeros, zeros)
      >>> ran = in_segments(functools.partial(scan, cell), cell, problem, [4, 2], reverse=False)
      >>> bool(jnp.allclose(ran.outputs, scan(cell, problem).outputs, atol=1e-6))
      True
    """
    if not sizes:
        return run(problem)
    size, *inner = sizes
    steps = problem.steps
    if steps <= size:
        return in_segments(run, cell, problem, inner, reverse=reverse)
    count = math.ceil(steps / size)
    problem = _filled_up(cell, problem, count * size)

    @jax.checkpoint
    def segment(state: Any, per_step: PyTree) -> Unrolled:
        part = dataclasses.replace(problem, state=state, **per_step)
        return in_segments(run, cell, part, inner, reverse=reverse)

    def one(state: Any, per_step: PyTree) -> tuple[Any, PyTree]:
        outputs, state = segment(state, per_step)
        return state, outputs

    segments = jax.tree.map(lambda a: a.reshape(count, size, *a.shape[1:]), problem.per_step())
    state, outputs = jax.lax.scan(
        one, varying_like(problem.state, problem), segments, reverse=reverse
    )
    outputs = jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:])[:steps], outputs)
    return Unrolled(outputs, state)


def _filled_up(cell: Cell[Any, Any], problem: Problem, steps: int) -> Problem:
    """The problem with masked steps at its end, so that there are `steps` of them."""
    missing = steps - problem.steps
    if not missing:
        return problem
    mask = problem.mask
    if mask is None:
        mask = jnp.ones((problem.steps, *problem.batch_shape(cell)), bool)
    problem = dataclasses.replace(problem, mask=mask)
    padded = jax.tree.map(
        lambda a: jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)), problem.per_step()
    )
    return dataclasses.replace(problem, **padded)
