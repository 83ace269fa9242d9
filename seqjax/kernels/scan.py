"""The kernel that defines the semantics: `jax.lax.scan` over the cell contract.

Every other kernel is tested against this one, values and gradients.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.cells.base import Cell, compute_dtype, rounded, widened
from seqjax.kernels.kernel import Kernel, Spec
from seqjax.kernels.problem import Problem
from seqjax.types import Array, PyTree, Unrolled

__all__ = ["SCAN", "scan"]


def scan(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
    inline: bool = False,
    unroll: int = 1,
) -> Unrolled:
    """Runs a cell over time in `jax.lax.scan`, one step of the contract at a time.

        s'      = reset_state where resets_t else s_{t-1}
        s~, y~  = step(x_t, s')
        s_t     = s~ where mask_t else s'
        y_t     = y~ where mask_t else 0

    Args:
      cell: the cell.
      problem: arrays, time-major; see `Problem`.
      reverse: process t = T-1 … 0.
      inline: whether each step projects its own input, instead of all steps at once before.
      unroll: steps in one iteration of the compiled loop.

    Returns:
      `Unrolled` with time-major outputs.

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros)
      >>> scan(cell, problem).outputs.shape
      (7, 2, 5)
    """
    output_dtype = compute_dtype(problem.xs)
    project = functools.partial(cell.project, problem.params)
    inputs = problem.xs if inline else project(problem.xs)

    def step(state: Any, per_step: Any) -> tuple[Any, PyTree]:
        given, mask_t, reset_t, hold_t = per_step
        projected = project(given) if inline else given
        if reset_t is not None:
            state = select(reset_t, problem.reset_state, state)
        wide = widened(state)
        new, output = cell.advance(problem.params, projected, wide, problem.recurrent_mask)
        if hold_t is not None:
            new = jax.tree.map(held, hold_t, wide, new)
            output = cell.output(problem.params, new)
        new, output = rounded((new, output), state_like=state, output_dtype=output_dtype)
        if mask_t is not None:
            new = select(mask_t, new, state)
            output = select(mask_t, output, jax.tree.map(jnp.zeros_like, output))
        return new, output

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


def varying_like(state: Any, problem: Problem) -> Any:
    """The state as one that differs between shards wherever anything of the problem does.

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


def select(condition: Array, if_true: PyTree, if_false: PyTree) -> PyTree:
    """`if_true` where the condition `[...]` holds, else `if_false`, for pytrees of `[..., …]`."""

    def one(a: Array, b: Array) -> Array:
        return jnp.where(
            condition.reshape(*condition.shape, *[1] * (a.ndim - condition.ndim)), a, b
        )

    return jax.tree.map(one, if_true, if_false)


def held(hold: Array, old: Array, new: Array) -> Array:
    """Zoneout's mix of the old and the new state: hold ⊙ old + (1 - hold) ⊙ new."""
    if hold.dtype == jnp.bool_:
        return jnp.where(hold, old, new)
    if not jnp.issubdtype(new.dtype, jnp.floating):
        return new  # a counter has no fractions
    hold = hold.astype(new.dtype)
    return hold * old + (1 - hold) * new
