"""The table of kernels, and how a plan is carried out."""

import functools
from collections.abc import Callable
from typing import Any

from seqjax.cells.base import Cell
from seqjax.kernels.associative import associative
from seqjax.kernels.cudnn import cudnn
from seqjax.kernels.fused import fused
from seqjax.kernels.plan import Plan
from seqjax.kernels.problem import Problem
from seqjax.kernels.scan import scan
from seqjax.kernels.segments import in_segments
from seqjax.types import Unrolled

__all__ = ["KERNELS", "run"]

KERNELS: dict[str, Callable[..., Unrolled]] = {
    "scan": scan,
    "fused": fused,
    "associative": associative,
    "cudnn": cudnn,
}
"""Every kernel by name."""


def run(cell: Cell[Any, Any], problem: Problem, plan: Plan, *, reverse: bool = False) -> Unrolled:
    """Runs a problem as planned.

    Args:
      cell: the cell.
      problem: arrays, time-major; see `Problem`.
      plan: as from `make_plan`.
      reverse: process t = T-1 … 0.

    Returns:
      `Unrolled` with time-major outputs.

    Raises:
      ValueError: what the kernel cannot run.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from seqjax.cells import GRU
      >>> from seqjax.kernels import make_plan
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros)
      >>> plan = make_plan(cell, (2,), 7, jnp.float32, platform="cpu", remat="sqrt")
      >>> run(cell, problem, plan).outputs.shape
      (7, 2, 5)
    """
    kernel = functools.partial(
        KERNELS[plan.kernel], cell, reverse=reverse, inline=plan.inline, unroll=plan.unroll
    )
    return in_segments(kernel, cell, problem, plan.segments, reverse=reverse)
