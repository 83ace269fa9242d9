"""The kernel that defines the semantics: `jax.lax.scan` over the cell contract.

Every other kernel is tested against this one, values and gradients.
"""

from typing import Any

import jax

from seqjax.cells._base import Cell, compute_dtype
from seqjax.cells.stepping import Now, advance, enter, finished
from seqjax.kernels._kernel import Kernel, Spec
from seqjax.kernels._problem import Problem
from seqjax.types import Array, PyTree, Unrolled

__all__ = ["SCAN", "scan"]


def scan(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
    inline: bool = False,
    unroll: int = 1,
    with_gates: bool = False,
) -> Unrolled:
    """Runs a cell over time in `jax.lax.scan`, one step of `seqjax.cells.stepping` at a time.

    Args:
      cell: the cell.
      problem: arrays, time-major; see `Problem`.
      reverse: process t = T-1 … 0.
      inline: whether each step projects its own input, instead of all steps at once before.
      unroll: steps in one iteration of the compiled loop.
      with_gates: whether the outputs are pairs `(output, cell.gate_values)`, for pictures.

    Returns:
      `Unrolled` with time-major outputs.

    Example:
      >>> from seqjax.cells import GRU
      >>> import jax.numpy as jnp
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros)
      >>> scan(cell, problem).outputs.shape
      (7, 2, 5)
    """
    p, dtype = problem.params, compute_dtype(problem.xs)
    inputs = problem.xs if inline else cell.project(p, problem.xs)

    def step(state: Any, per_step: Any) -> tuple[Any, PyTree]:
        given, mask, reset, hold = per_step
        now = Now(cell.project(p, given) if inline else given, mask, reset, hold)
        ran = advance(
            cell, p, now, state, output_dtype=dtype,
            reset_state=problem.reset_state, recurrent_mask=problem.recurrent_mask,
        )  # fmt: skip
        if not with_gates:
            return ran.state, ran.output
        _, here = enter(cell, p, now, state, problem.reset_state)
        values = cell.gate_values(p, ran.gates, here)
        return ran.state, (ran.output, finished(values, mask, dtype))

    state, outputs = jax.lax.scan(
        step,
        varying_like(problem.state, problem),
        (inputs, problem.mask, problem.resets, problem.zoneout),
        reverse=reverse,
        unroll=unroll,
    )
    return Unrolled(outputs, state)


def _takes(cell: Cell[Any, Any], spec: Spec) -> str:
    """The last resort: "auto" comes here if every other kernel refuses."""
    del cell, spec
    return "a state that is not all floating-point has no derivative of its own"


SCAN = Kernel("scan", scan, takes=_takes)
"""The kernel that defines what the others must equal."""


def varying_like(state: Any, problem: Any) -> Any:
    """The state as one that differs between shards wherever any array of the problem does.

    Inside `jax.shard_map` a loop's carry must have that type from the start, while zeros made
    there are the same on every shard.
    """

    def axes(leaf: Array) -> frozenset[str]:
        return getattr(getattr(jax.typeof(leaf), "manual_axis_type", None), "varying", frozenset())

    wanted = frozenset().union(*map(axes, jax.tree.leaves(problem)))

    def one(leaf: Array) -> Array:
        missing = tuple(sorted(wanted - axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, state)
