"""Running a problem with the kernel and the options of a plan."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import sequences
from seqjax._arguments import layout
from seqjax.cells._base import Cell, compute_dtype, prepared
from seqjax.cells.stepping import select
from seqjax.kernels._plan import Plan
from seqjax.kernels._problem import Problem
from seqjax.kernels._segments import in_segments
from seqjax.types import Array, PyTree, Unrolled

__all__ = ["run"]


@functools.partial(
    jax.jit,
    static_argnames=("cell", "plan", "batch_ndim", "reverse", "burn_in", "all_states"),
)
def run(
    cell: Cell[Any, Any],
    problem: Problem,
    plan: Plan,
    *,
    batch_ndim: int = 0,
    reverse: bool = False,
    burn_in: int = 0,
    all_states: bool = False,
) -> Unrolled:
    """Run a problem as planned, in one compiled program.

    Args:
      cell: the cell.
      problem: the arrays of the call; see `Problem`.
      plan: the plan, as `make_plan` returns it.
      batch_ndim: the number of batch axes before the time axis, which is 0 for time-major arrays.
      reverse: whether to process the steps in the order t = T-1 … 0.
      burn_in: the number of steps at the start through which no gradient passes.
      all_states: whether the outputs of the plan's kernel are pairs of the output and the state
        after each step. If `all_states` is True, the result has the states after all steps in
        place of the final state.

    Returns:
      `Unrolled` in the layout of the problem.

    Raises:
      ValueError: the kernel cannot run the problem.

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
    given = jax.lax.stop_gradient(problem.state) if burn_in else problem.state
    problem = _with_states(cell, dataclasses.replace(problem, params=params), batch_ndim)
    idle = None
    if given is not None and problem.mask is not None:
        # The state of a row without real steps is not used, but if it is NaN, so are gradients.
        idle = ~problem.mask.any(axis=batch_ndim)
        own = cell.initial_state(idle.shape, compute_dtype(problem.xs))
        own = jax.tree.map(lambda a, b: a.astype(b.dtype), own, given)
        problem = dataclasses.replace(problem, state=select(idle, own, given))
    if burn_in or plan.segments:
        part = functools.partial(_run_part, cell, plan, batch_ndim, reverse)
        ran = _after_burn_in(part, problem, burn_in, batch_ndim) if burn_in else part(problem)
    else:
        by_time = _time_major(problem, batch_ndim)
        ran = plan.kernel.run(cell, by_time, reverse=reverse, **_options(plan))
        ran = Unrolled(sequences.to_batch_major(ran.outputs, batch_ndim), ran.state)
    outputs, state = ran.outputs if all_states else ran
    if idle is not None:
        kept = jnp.expand_dims(idle, batch_ndim)
        if problem.resets is not None:
            kept &= ~_so_far(problem.resets, batch_ndim, reverse)
        if all_states:
            given = jax.tree.map(lambda a: jnp.expand_dims(a, batch_ndim), given)
        else:
            kept = kept.all(axis=batch_ndim)
        state = select(kept, given, state)
    return Unrolled(outputs, state)


def _so_far(happens: Array, axis: int, reverse: bool) -> Array:
    """Return, for each step, whether something happens there or at an earlier step."""
    counts = happens.astype(jnp.int32)
    return jax.lax.cumsum(counts, axis=axis, reverse=reverse) > 0


def _options(plan: Plan) -> dict[str, Any]:
    """Return the arguments of a kernel that the plan determines."""
    loop = {"inline": plan.inline, "unroll": plan.unroll} if plan.kernel.loops else {}
    return loop | dict(plan.kernel.options)


def _run_part(
    cell: Cell[Any, Any], plan: Plan, batch_ndim: int, reverse: bool, problem: Problem
) -> Unrolled:
    """Run a problem whose parameters are prepared, in the segments of the plan."""
    part = functools.partial(_in_layout, cell, plan, batch_ndim, reverse)
    return in_segments(part, cell, problem, plan.segments, axis=batch_ndim, reverse=reverse)


def _after_burn_in(
    part: Callable[[Problem], Unrolled], problem: Problem, burn_in: int, axis: int
) -> Unrolled:
    """Run the steps of the burn-in without gradients, and then the other steps."""

    def some(steps: slice) -> dict[str, PyTree]:
        where = (*[slice(None)] * axis, steps)
        return {
            name: jax.tree.map(lambda a: a[where], value)
            for name, value in problem.per_step().items()
        }

    before = dataclasses.replace(problem, **some(slice(None, burn_in)))
    first = jax.lax.stop_gradient(part(jax.lax.stop_gradient(before)))
    after = dataclasses.replace(problem, state=first.state, **some(slice(burn_in, None)))
    second = part(after)
    outputs = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b], axis), first.outputs, second.outputs
    )
    return Unrolled(outputs, second.state)


def _with_states(cell: Cell[Any, Any], problem: Problem, batch_ndim: int) -> Problem:
    """Replace the state and the reset state by the cell's initial state where they are None."""
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
    """Run one segment of a problem, in the layout of the whole problem."""
    by_time = _time_major(part, batch_ndim)
    ran = plan.kernel.run(cell, by_time, reverse=reverse, **_options(plan))
    return Unrolled(sequences.to_batch_major(ran.outputs, batch_ndim), ran.state)


def _time_major(problem: Problem, batch_ndim: int) -> Problem:
    """Return the problem with time-major arrays and with zero inputs at masked steps."""
    if problem.mask is not None:
        # Set masked inputs to 0 before they are used, since 0 · NaN in a gradient is NaN.
        mask = problem.mask
        xs = jax.tree.map(lambda x: sequences.zero_masked(x, mask=mask), problem.xs)
        problem = dataclasses.replace(problem, xs=xs)
    moved = sequences.to_time_major(problem.per_step(), batch_ndim)
    return dataclasses.replace(problem, **moved)
