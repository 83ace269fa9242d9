"""The kernel that defines the results: `jax.lax.scan` over the steps of a cell.

Tests compare the values and gradients of every other kernel with this kernel.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.cells._base import Cell, cast, compute_dtype
from seqjax.cells.stepping import Now, advance, enter, finished, project_steps
from seqjax.kernels import target
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
    with_states: bool = False,
) -> Unrolled:
    """Run a cell over time in `jax.lax.scan`, one step of `seqjax.cells.stepping` at a time.

    Args:
      cell: the cell.
      problem: the time-major arrays of the call; see `Problem`.
      reverse: whether to process the steps in the order t = T-1 … 0.
      inline: whether each step projects its own input. If `inline` is False, the inputs of all
        steps are projected at once, before the loop.
      unroll: the number of steps in one iteration of the compiled loop.
      with_gates: whether the outputs are pairs of the output and `cell.gate_values(…)`. Plots of
        gates need these pairs.
      with_states: whether the outputs are pairs of the output and the state after the step.

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
    inside = dtype_inside(dtype)
    inputs = problem.xs if inline else project_steps(cell, p, problem.xs)

    def step(state: Any, per_step: Any) -> tuple[Any, PyTree]:
        given, mask, reset, hold, again = per_step
        again = problem.reset_state if again is None else again
        now = Now(cell.project(p, given) if inline else given, mask, reset, hold)
        ran = advance(
            cell, p, now, state, output_dtype=inside,
            reset_state=again, recurrent_mask=problem.recurrent_mask,
        )  # fmt: skip
        output = ran.output
        if with_gates:
            _, here = enter(cell, p, now, state, again)
            values = cell.gate_values(p, ran.gates, here)
            output = output, finished(cast(values, inside), mask)
        return ran.state, (output, ran.state) if with_states else output

    state, outputs = jax.lax.scan(
        step,
        varying_like(problem.state, problem),
        (inputs, problem.mask, problem.resets, problem.zoneout, problem.reset_states),
        reverse=reverse,
        unroll=unroll,
    )
    outputs, *states = outputs if with_states else (outputs,)
    if with_gates:
        outputs, values = outputs
        outputs = cell._narrowed(outputs, dtype), cast(values, dtype)
    else:
        outputs = cell._narrowed(outputs, dtype)
    return Unrolled((outputs, *states) if with_states else outputs, state)


def dtype_inside(dtype: Any) -> Any:
    """Return the dtype in which a loop writes its outputs, for a compute dtype.

    On CPUs, it is float32 for the 16-bit dtypes. XLA has no 16-bit operations for CPUs: at each
    step, it would convert the array of the outputs of all steps to float32 and back.
    """
    half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits == 16
    return jnp.float32 if half and "cpu" in target.platforms() else dtype


def _takes(cell: Cell[Any, Any], spec: Spec) -> str:
    """Return why "auto" chooses this kernel if it has chosen no other kernel."""
    del spec
    if cell.opaque:
        return f"the step of {type(cell).__name__} is opaque, so it is differentiated as it is"
    return "the fused derivative needs a state of floating-point or complex arrays only"


SCAN = Kernel("scan", scan, takes=_takes)
"""The kernel whose results all other kernels must equal."""


def varying_like(state: Any, problem: Any) -> Any:
    """Mark a state as varying over the mesh axes over which the problem varies.

    Inside `jax.shard_map`, the type of a loop's carry says over which mesh axes the carry varies,
    and this type must not change in the loop. An initial state of zeros varies over no mesh axis.
    """
    wanted = varying_axes(problem)

    def one(leaf: Array) -> Array:
        missing = tuple(sorted(wanted - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, state)


def varying_axes(tree: Any) -> frozenset[str]:
    """Return the mesh axes over which the arrays of a pytree vary, inside of `jax.shard_map`."""

    def axes(leaf: Array) -> frozenset[str]:
        return getattr(getattr(jax.typeof(leaf), "manual_axis_type", None), "varying", frozenset())

    return frozenset().union(*map(axes, jax.tree.leaves(tree)))
