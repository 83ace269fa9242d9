"""Carry out a plan."""

import dataclasses
import functools
from typing import Any

import jax

from seqjax import sequences
from seqjax.cells.base import Cell
from seqjax.kernels.plan import Plan
from seqjax.kernels.problem import Problem
from seqjax.kernels.segments import in_segments
from seqjax.types import Unrolled

__all__ = ["run"]


def run(
    cell: Cell[Any, Any],
    problem: Problem,
    plan: Plan,
    *,
    batch_ndim: int = 0,
    reverse: bool = False,
) -> Unrolled:
    """Runs a problem as planned.

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
      >>> from seqjax.kernels import make_plan
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([2, 7, 3]), zeros, zeros)
      >>> plan = make_plan(cell, (2,), 7, jnp.float32, platform="cpu", remat="sqrt")
      >>> run(cell, problem, plan, batch_ndim=1).outputs.shape
      (2, 7, 5)
    """
    kernel = functools.partial(
        plan.kernel.run, cell, reverse=reverse, inline=plan.inline, unroll=plan.unroll,
        **dict(plan.kernel.options),
    )  # fmt: skip

    def time_major(problem: Problem) -> Unrolled:
        """Brings a problem into the kernels' form and its outputs back."""
        if problem.mask is not None:
            # Replaced before anything is computed from it: in a gradient 0 · NaN would be NaN.
            mask = problem.mask
            xs = jax.tree.map(lambda x: sequences.zero_masked(x, mask), problem.xs)
            problem = dataclasses.replace(problem, xs=xs)
        moved = sequences.to_time_major(problem.per_step(), batch_ndim)
        outputs, state = kernel(dataclasses.replace(problem, **moved))
        return Unrolled(sequences.to_batch_major(outputs, batch_ndim), state)

    return in_segments(time_major, cell, problem, plan.segments, axis=batch_ndim, reverse=reverse)
