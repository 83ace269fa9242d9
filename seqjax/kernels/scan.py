"""The kernel that defines the semantics: `jax.lax.scan` over the cell contract.

Every other kernel is tested against this one, values and gradients.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from seqjax.cells.base import Cell, compute_dtype, rounded, widened
from seqjax.kernels.problem import Problem
from seqjax.types import Array, PyTree, Unrolled

__all__ = ["REMAT", "scan"]

Step: TypeAlias = Callable[[Any, Any], tuple[Any, PyTree]]

REMAT = ("auto", "none", "step", "sqrt")
"""How the backward pass gets its intermediate values. "none" stores all of them. "step" stores
the states and recomputes each step. "sqrt" stores √T states and recomputes stretches of √T steps.
"auto" is "none" until a planner knows better."""


def scan(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
    remat: str = "auto",
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
      remat: one of `REMAT`.
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
    per_step = (
        cell.project(problem.params, problem.xs),
        problem.mask,
        problem.resets,
        problem.zoneout,
    )

    def step(state: Any, inputs: Any) -> tuple[Any, PyTree]:
        projected, mask_t, reset_t, hold_t = inputs
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

    state = varying_like(problem.state, problem)
    steps = jax.tree.leaves(problem.xs)[0].shape[0]
    if remat in ("step", "sqrt"):
        step = jax.checkpoint(step)
    if remat == "sqrt" and steps > 3:
        run = _in_stretches(step, per_step, math.isqrt(steps), reverse=reverse, unroll=unroll)
        state, outputs = run(state)
    else:
        state, outputs = jax.lax.scan(step, state, per_step, reverse=reverse, unroll=unroll)
    return Unrolled(outputs, state)


def _in_stretches(
    step: Step, per_step: PyTree, size: int, *, reverse: bool, unroll: int
) -> Callable[[Any], tuple[Any, PyTree]]:
    """A scan over stretches of `size` steps, each recomputed in the backward pass, and the rest."""
    steps = jax.tree.leaves(per_step)[0].shape[0]
    whole = steps // size * size

    @jax.checkpoint
    def stretch(state: Any, inputs: PyTree) -> tuple[Any, PyTree]:
        return jax.lax.scan(step, state, inputs, reverse=reverse, unroll=unroll)

    def run_whole(state: Any) -> tuple[Any, PyTree]:
        parts = jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), per_step)
        state, outputs = jax.lax.scan(stretch, state, parts, reverse=reverse)
        return state, jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), outputs)

    def run_rest(state: Any) -> tuple[Any, PyTree]:
        return stretch(state, jax.tree.map(lambda a: a[whole:], per_step))

    def run(state: Any) -> tuple[Any, PyTree]:
        if reverse:
            state, rest = run_rest(state)
            state, outputs = run_whole(state)
        else:
            state, outputs = run_whole(state)
            state, rest = run_rest(state)
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, rest)
        return state, joined

    return run


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
