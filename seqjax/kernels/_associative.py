"""The kernel that computes all steps in parallel, for cells that are linear in their state.

Each step h_t = a_t ⊙ h_{t-1} + b_t is a map, and the composition of such maps is associative:

    (a_2, b_2) ∘ (a_1, b_1) = (a_2 ⊙ a_1, a_2 ⊙ b_1 + b_2)

All prefixes of the sequence of maps can therefore be composed in O(log T) parallel steps (Blelloch
1990; Martin, Cundy 2018).
"""

from typing import Any, cast

import jax
import jax.numpy as jnp

from seqjax.cells._base import Cell, compute_dtype, widened
from seqjax.cells._minimal import LinearCell
from seqjax.cells.stepping import held, project_steps, select, shown
from seqjax.kernels._kernel import INSTEAD, Kernel, Spec, require
from seqjax.kernels._problem import Problem
from seqjax.types import Array, Unrolled

__all__ = ["ASSOCIATIVE", "associative"]


def associative(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
) -> Unrolled:
    """Run a linear cell over time with `jax.lax.associative_scan`.

    Masks, resets and zoneout only change the pair (a_t, b_t): a masked step has the pair (1, 0), a
    reset step has the pair (0, a_t ⊙ h_reset + b_t), and zoneout takes a weighted mean of the pair
    and (1, 0). This kernel rounds the state once, at the end. A loop rounds the state at every
    step, so its results differ, but only in half precision.

    Args:
      cell: a `LinearCell`, which has `linear_terms`.
      problem: the time-major arrays of the call; see `Problem`.
      reverse: whether to process the steps in the order t = T-1 … 0.

    Returns:
      `Unrolled` with time-major outputs.

    Raises:
      ValueError: the cell is not a `LinearCell`, or it has a recurrent input.

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
    require(_refuses(cell))
    cell = cast(LinearCell, cell)
    p, start = problem.params, widened(problem.state)
    gates, dtype = project_steps(cell, p, problem.xs), compute_dtype(problem.xs)
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
    """Return why the kernel cannot run a cell, or None if it can."""
    del spec
    name = type(cell).__name__
    if not isinstance(cell, LinearCell):
        return f"'associative' runs cells with linear_terms, got {name}; {INSTEAD}"
    if cell.recurrent_input(cell.initial_state()) is not None:
        return f"'associative' runs cells without a recurrent input, got {name}; {INSTEAD}"
    return None


def _takes(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Return why "auto" chooses the kernel, or None if there are too few steps for it."""
    del cell
    least, because = spec.choices.parallel_from
    if least is None or spec.steps < least:
        return None
    return (
        "the cell is linear in its state, and an accelerator runs its "
        f"{spec.steps} steps in parallel ({because})"
    )


ASSOCIATIVE = Kernel("associative", associative, refuses=_refuses, takes=_takes, loops=False)
"""The kernel that computes all steps in parallel, for linear cells."""


def _composed(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the map that applies `first`, then `second`."""
    (a_1, b_1), (a_2, b_2) = first, second
    return a_2 * a_1, a_2 * b_1 + b_2


def _composed_with_cuts(
    first: tuple[Array, Array, Array], second: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """Compose two maps; a map is (a, b, whether there is a reset).

    Where `second` has a reset, zeros replace the terms of `first`, so its NaNs have no effect.
    """
    (a_1, b_1, cut_1), (a_2, b_2, cut_2) = first, second
    a_1, b_1 = (jnp.where(cut_2, 0, term) for term in (a_1, b_1))
    return *_composed((a_1, b_1), (a_2, b_2)), cut_1 | cut_2
