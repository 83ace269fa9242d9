"""Carry out a plan."""

import dataclasses
import functools
from typing import Any

import jax

from seqjax import sequences
from seqjax._arguments import layout
from seqjax.cells._base import Cell, compute_dtype, prepared
from seqjax.kernels._plan import Plan
from seqjax.kernels._problem import Problem
from seqjax.kernels._segments import in_segments
from seqjax.types import Unrolled

__all__ = ["run"]


@functools.partial(jax.jit, static_argnames=("cell", "plan", "batch_ndim", "reverse"))
def run(
    cell: Cell[Any, Any],
    problem: Problem,
    plan: Plan,
    *,
    batch_ndim: int = 0,
    reverse: bool = False,
) -> Unrolled:
    """Run a problem as planned, compiled as a whole.

    Args:
      cell: the cell.
      problem: arrays; see `Problem`.
      plan: as from `make_plan`.
      batch_ndim: how many batch axes come before the time axis; 0 for time-major arrays.
      reverse: process t = T-1 … 0.

    Returns:
      `Unrolled` in the layout of the problem.

    Raises:
      ValueError: what the kernel cannot run.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from seqjax.cells import GRU
      >>> from seqjax.kernels import Execution, make_plan
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([2, 7, 3]), zeros, zeros)
      >>> plan = make_plan(cell, (2,), 7, jnp.float32, Execution(remat="sqrt"))
      >>> run(cell, problem, plan, batch_ndim=1).outputs.shape
      (2, 7, 5)
    """
    params = prepared(cell, problem.params, compute_dtype(problem.xs))
    problem = _with_states(cell, dataclasses.replace(problem, params=params), batch_ndim)
    if plan.segments:
        part = functools.partial(_in_layout, cell, plan, batch_ndim, reverse)
        return in_segments(part, cell, problem, plan.segments, axis=batch_ndim, reverse=reverse)
    problem = _time_major(problem, batch_ndim)
    ran = plan.kernel.run(
        cell, problem, reverse=reverse, inline=plan.inline, unroll=plan.unroll,
        **dict(plan.kernel.options),
    )  # fmt: skip
    return Unrolled(sequences.to_batch_major(ran.outputs, batch_ndim), ran.state)


def _with_states(cell: Cell[Any, Any], problem: Problem, batch_ndim: int) -> Problem:
    """The problem with the cell's own states where it has none."""
    if problem.state is not None and problem.reset_state is not None:
        return problem
    batch_shape, _ = layout(cell, problem.xs, time_major=batch_ndim == 0)
    own = cell.initial_state(batch_shape, compute_dtype(problem.xs))
    state = own if problem.state is None else problem.state
    again = problem.reset_state
    if again is None:
        again = jax.tree.map(lambda r, s: r.astype(s.dtype), own, state)
    return dataclasses.replace(problem, state=state, reset_state=again)


def _in_layout(
    cell: Cell[Any, Any], plan: Plan, batch_ndim: int, reverse: bool, part: Problem
) -> Unrolled:
    """Run a part of the steps, in the layout of the whole; its parameters are prepared."""
    ran = plan.kernel.run(
        cell, _time_major(part, batch_ndim), reverse=reverse, inline=plan.inline,
        unroll=plan.unroll, **dict(plan.kernel.options),
    )  # fmt: skip
    return Unrolled(sequences.to_batch_major(ran.outputs, batch_ndim), ran.state)


def _time_major(problem: Problem, batch_ndim: int) -> Problem:
    """The problem in the kernels' form, with zeros for inputs at masked steps."""
    if problem.mask is not None:
        # Replaced before anything is computed from it: in a gradient 0 · NaN would be NaN.
        mask = problem.mask
        xs = jax.tree.map(lambda x: sequences.zero_masked(x, mask=mask), problem.xs)
        problem = dataclasses.replace(problem, xs=xs)
    moved = sequences.to_time_major(problem.per_step(), batch_ndim)
    return dataclasses.replace(problem, **moved)
