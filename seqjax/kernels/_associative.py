"""The kernel that solves time in parallel, for cells that are linear in their state.

h_t = a_t ⊙ h_{t-1} + b_t is a composition of maps, and composing maps is associative:

    (a_2, b_2) ∘ (a_1, b_1) = (a_2 ⊙ a_1, a_2 ⊙ b_1 + b_2)

so all prefixes can be had in O(log T) parallel steps (Blelloch 1990; Martin, Cundy 2018).
"""

from typing import Any, cast

import jax
import jax.numpy as jnp

from seqjax.cells._base import Cell, compute_dtype, widened
from seqjax.cells._minimal import LinearCell
from seqjax.cells.stepping import held, select, shown
from seqjax.kernels._kernel import INSTEAD, Kernel, Spec, require
from seqjax.kernels._problem import Problem
from seqjax.types import Array, Unrolled

__all__ = ["ASSOCIATIVE", "associative"]


def associative(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
    inline: bool = False,
    unroll: int = 1,
) -> Unrolled:
    """Runs a linear cell over time in `jax.lax.associative_scan`.

    Masks, resets and zoneout change a_t and b_t, and nothing else: a masked step is (1, 0), a reset
    (0, a_t ⊙ h_reset + b_t), and zoneout mixes in (1, 0). The state is rounded once, at the end,
    where the loop rounds it at each step; that shows in half precision only.

    Args:
      cell: a `LinearCell`: one with `linear_terms`.
      problem: arrays, time-major; see `Problem`.
      reverse: process t = T-1 … 0.
      inline: for kernels with a loop.
      unroll: for kernels with a loop.

    Returns:
      `Unrolled` with time-major outputs.

    Raises:
      ValueError: another cell.

    References:
      Blelloch (1990), Prefix sums and their applications; Martin, Cundy (2018), Parallelizing
      linear recurrent neural nets over sequence length.

    Example:
      >>> from seqjax.cells import MinGRU
      >>> from seqjax.kernels import scan
      >>> cell = MinGRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros)
      >>> same = associative(cell, problem).outputs, scan(cell, problem).outputs
      >>> bool(jnp.allclose(*same, atol=1e-6))
      True
    """
    del inline, unroll
    require(_refuses(cell))
    cell = cast(LinearCell, cell)
    p, start = problem.params, widened(problem.state)
    gates, dtype = cell.project(p, problem.xs), compute_dtype(problem.xs)
    if problem.steps == 0:
        nothing = jnp.zeros((0, *start.shape), start.dtype)
        return Unrolled(shown(cell, p, gates, nothing, None, dtype), problem.state)
    a, b = (
        jnp.broadcast_to(term, (problem.steps, *start.shape))
        for term in cell.linear_terms(p, gates)
    )
    stay = jnp.ones_like(a), jnp.zeros_like(b)
    if problem.zoneout is not None:
        a, b = (held(problem.zoneout, old, new) for old, new in zip(stay, (a, b), strict=True))
    if problem.mask is not None:
        a, b = select(problem.mask, (a, b), stay)
    if problem.resets is None:
        a, b = jax.lax.associative_scan(_composed, (a, b), reverse=reverse)
    else:
        back = a * jax.lax.broadcast_to_rank(widened(problem.reset_state), a.ndim) + b
        a, b = select(problem.resets, (jnp.zeros_like(a), back), (a, b))
        cut = select(problem.resets, jnp.ones(a.shape, bool), jnp.zeros(a.shape, bool))
        a, b, cut = jax.lax.associative_scan(_composed_with_cuts, (a, b, cut), reverse=reverse)
        start = jnp.where(cut, 0, jax.lax.broadcast_to_rank(start, a.ndim))
    states = a * jax.lax.broadcast_to_rank(start, a.ndim) + b
    outputs = shown(cell, p, gates, states, problem.mask, dtype)
    return Unrolled(outputs, states[0 if reverse else -1].astype(problem.state.dtype))


def _refuses(cell: Cell[Any, Any], spec: Spec | None = None) -> str | None:
    """Why the kernel cannot run a cell."""
    del spec
    name = type(cell).__name__
    if not isinstance(cell, LinearCell):
        return f"'associative' runs cells with linear_terms, got {name}; {INSTEAD}"
    if cell.recurrent_input(cell.initial_state()) is not None:
        return f"'associative' runs cells without a recurrent input, {name} has one; {INSTEAD}"
    return None


def _takes(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Many steps on a platform where solving them in parallel pays."""
    del cell
    least, because = spec.choices.parallel_from
    if least is None or spec.steps < least:
        return None
    return (
        "the cell is linear in its state, and an accelerator runs its "
        f"{spec.steps} steps in parallel ({because})"
    )


ASSOCIATIVE = Kernel("associative", associative, refuses=_refuses, takes=_takes, loops=False)
"""Time in parallel, for linear cells."""


def _composed(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """The map that applies `first`, then `second`."""
    (a_1, b_1), (a_2, b_2) = first, second
    return a_2 * a_1, a_2 * b_1 + b_2


def _composed_with_cuts(
    first: tuple[Array, Array, Array], second: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """The same where a reset may cut off what came before, whatever that is: 0 · NaN is NaN."""
    (a_1, b_1, cut_1), (a_2, b_2, cut_2) = first, second
    a_1, b_1 = (jnp.where(cut_2, 0, term) for term in (a_1, b_1))
    return *_composed((a_1, b_1), (a_2, b_2)), cut_1 | cut_2
