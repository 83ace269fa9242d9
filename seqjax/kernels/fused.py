"""The kernel whose weight gradient is one product: a loop with a derivative of its own.

`lax.scan` differentiates a loop as it stands, so the transpose of the loop carries the gradient of
the recurrent matrix and adds a small product to it at every step. Here the loop's *derivative* is
written so that the matrix moves out of it. With r_t the recurrent input and dots for tangents,

    q̇_t = ṙ_t W + r_t Ẇ

where the second term knows no earlier tangent. So it is one product for all steps, [r_1 … r_T] Ẇ,
and so is its transpose, the matrix's gradient [r_1 … r_T]^T [dq_1 … dq_T].

Nothing else is needed: JAX transposes this derivative into the backward loop, which emits dq_t, and
the product after it. Forward mode, second derivatives and `vmap` follow from the same lines, and no
cell's gradient is written by hand: `update` is differentiated by `jax.jvp`, at values recomputed
from what the forward loop stored (states and pre-activations).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from seqjax.cells import ops
from seqjax.cells.base import Cell, compute_dtype, rounded, widened
from seqjax.cells.minimal import LinearCell
from seqjax.kernels.kernel import Kernel, Spec
from seqjax.kernels.problem import Problem
from seqjax.kernels.scan import held, select, varying_like
from seqjax.types import Array, PyTree, Unrolled

__all__ = ["FUSED", "fused"]


def fused(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
    inline: bool = False,
    unroll: int = 1,
) -> Unrolled:
    """Runs a cell over time with one product of the recurrent matrix in each loop.

    Equal to `scan` in values and in derivatives of every kind and order.

    Args:
      cell: the cell.
      problem: arrays, time-major; see `Problem`.
      reverse: process t = T-1 … 0.
      inline: whether each step projects its own input, so that the projections of all steps are
        not kept in memory.
      unroll: steps in one iteration of the compiled loops.

    Returns:
      `Unrolled` with time-major outputs.

    Raises:
      ValueError: a state that is not all floating-point, which "scan" can run.

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros)
      >>> fused(cell, problem).outputs.shape
      (7, 2, 5)
    """
    reason = _refuses(cell)
    if reason is not None:
        raise ValueError(f"implementation: {reason}")
    return _loop(_Setting(cell, reverse, inline, unroll), problem)


def _refuses(cell: Cell[Any, Any], spec: Spec | None = None) -> str | None:
    """Why the kernel cannot run a cell: it differentiates every array of the state."""
    del spec
    state = jax.tree.leaves(jax.eval_shape(lambda: cell.initial_state()))
    if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in state):
        return None
    return (
        f"'fused' differentiates the whole state, and that of {type(cell).__name__} is not all "
        "floating-point; expected 'scan' or 'auto'"
    )


def _takes(cell: Cell[Any, Any], spec: Spec) -> str:
    """It is the kernel for everything that no other one takes."""
    if not isinstance(cell, LinearCell):
        return "weight gradients are one product each, not one a step"
    parallel_from = spec.choices.parallel_from.value
    where = "a CPU" if parallel_from is None else f"fewer than {parallel_from} steps"
    return f"on {where} the loop is faster than solving time in parallel"


FUSED = Kernel("fused", fused, refuses=_refuses, takes=_takes, sums_gates=True)
"""The loop with a derivative of its own, which "auto" takes for most cells."""


class _Setting(NamedTuple):
    """The static part of a call."""

    cell: Cell[Any, Any]
    reverse: bool
    inline: bool
    unroll: int


class _Stored(NamedTuple):
    """What the forward loop keeps for the derivative, with a time axis: what `update` was given."""

    state: Any  # before the step, after a reset
    gates: PyTree  # the projection, its additive gates summed with their columns of the product
    rest: Array | None  # the product's other columns


def _multiplies(cell: Cell[Any, Any], problem: Problem) -> bool:
    """Whether there is a recurrent product."""
    matrix, r = cell.recurrent_matrix(problem.params), cell.recurrent_input(problem.state)
    return matrix is not None and r is not None


def _additive_gates(cell: Cell[Any, Any], gates: list[Array]) -> list[int]:
    """The widths of the gates that only ever meet their columns of the product as a sum."""
    count = len(gates) if cell.additive is True else int(cell.additive)
    return [gate.shape[-1] for gate in gates[:count]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loop(setting: _Setting, problem: Problem) -> Unrolled:
    return _run(setting, problem, store=False)[0]


def _run(setting: _Setting, problem: Problem, *, store: bool) -> tuple[Unrolled, _Stored]:
    """The forward loop; with `store` also what its derivative needs."""
    cell, params = setting.cell, problem.params
    matrix, multiplies = cell.recurrent_matrix(params), _multiplies(cell, problem)
    project = functools.partial(cell.project, params)
    inputs = problem.xs if setting.inline else project(problem.xs)
    adds = multiplies and bool(cell.additive)

    def step(state: Any, per_step: Any) -> tuple[Any, Any]:
        given, mask_t, reset_t, hold_t = per_step
        gates = project(given) if setting.inline else given
        if reset_t is not None:
            state = select(reset_t, problem.reset_state, state)
        r = cell.masked_recurrent_input(widened(state), problem.recurrent_mask)
        rest = None
        if multiplies:
            gates, rest = _added(cell, gates, ops.matmul(jnp.asarray(r), jnp.asarray(matrix)))
        kept = _Stored(state, gates if setting.inline or adds else None, rest) if store else None
        recurrent = rest if multiplies else r
        new, output = _updated(setting, problem, params, gates, r, recurrent, state, hold_t)
        if mask_t is not None:
            new = select(mask_t, new, state)
            output = select(mask_t, output, jax.tree.map(jnp.zeros_like, output))
        return new, (output, kept)

    state, (outputs, stored) = jax.lax.scan(
        step,
        varying_like(problem.state, problem),
        (inputs, problem.mask, problem.resets, problem.zoneout),
        reverse=setting.reverse,
        unroll=setting.unroll,
    )
    if store and stored.gates is None:
        stored = stored._replace(gates=inputs)
    return Unrolled(outputs, state), stored


def _updated(
    setting: _Setting,
    problem: Problem,
    params: PyTree,
    gates: PyTree,
    r: Array | None,
    recurrent: Array | None,
    state: Any,
    hold: PyTree | None,
) -> tuple[Any, PyTree]:
    """`cell.update` with zoneout and rounding."""
    cell, wide = setting.cell, widened(state)
    pair = (r, recurrent) if cell.keeps_recurrent_input else recurrent
    new, output = cell.update(params, gates, pair, wide)
    if hold is not None:
        new = jax.tree.map(held, hold, wide, new)
        output = cell.output(params, new)
    return rounded((new, output), state_like=state, output_dtype=compute_dtype(problem.xs))


def _added(cell: Cell[Any, Any], gates: PyTree, product: Array) -> tuple[PyTree, Array | None]:
    """The gates with the product's columns where they are additive, and the other columns."""
    leaves, structure = jax.tree.flatten(gates)
    columns, rest = _columns(product, _additive_gates(cell, leaves))
    leaves[: len(columns)] = [g + q for g, q in zip(leaves, columns, strict=False)]
    return jax.tree.unflatten(structure, leaves), rest


def _columns(product: Array, widths: list[int]) -> tuple[list[Array], Array | None]:
    """The first columns of a product, cut to some widths, and what is left of it."""
    *columns, rest = jnp.split(product, np.cumsum(widths), axis=-1) if widths else [product]
    return columns, rest if rest.shape[-1] else None


def _derivative(
    setting: _Setting, primals: tuple[Problem], tangents: tuple[Problem]
) -> tuple[Unrolled, Unrolled]:
    """The loop and its tangent: a second loop, linear in what moves, and the products before it."""
    (problem,), cell = primals, setting.cell
    moved = jax.tree.map(_none_if_zero, tangents[0], is_leaf=_is_zero)
    ran, stored = _run(setting, problem, store=True)
    multiplies = _multiplies(cell, problem)

    # For all steps at once: what the parameters and inputs contribute.
    _, d_gates = _jvp(cell.project, (problem.params, problem.xs), (moved.params, moved.xs))
    matrix, d_matrix = _jvp(cell.recurrent_matrix, (problem.params,), (moved.params,))
    leaves, structure = jax.tree.flatten(stored.gates)
    widths = _additive_gates(cell, leaves) if multiplies else []
    moves = _leaves(stored.gates, d_gates)
    d_product = None
    if multiplies and d_matrix is not None:
        rs = cell.masked_recurrent_input(widened(stored.state), problem.recurrent_mask)
        d_product = ops.matmul(jnp.asarray(rs), d_matrix)
    if widths and moves[0] is not None:
        # Side by side, as the product has them, so that the loop sees one array.
        side_by_side = jnp.concatenate(moves[: len(widths)], axis=-1)
        spare = matrix.shape[-1] - sum(widths)
        if spare:
            padding = [(0, 0)] * (side_by_side.ndim - 1) + [(0, spare)]
            side_by_side = jnp.pad(side_by_side, padding)
        d_product = side_by_side if d_product is None else d_product + side_by_side
    d_others = [None] * len(widths) + moves[len(widths) :]
    read = _read_by_update(setting, problem, stored)
    d_params = jax.tree.unflatten(
        jax.tree.structure(problem.params),
        [
            d if used else None
            for d, used in zip(_leaves(problem.params, moved.params), read, strict=True)
        ],
    )

    def step(d_state: Any, per_step: Any) -> tuple[Any, PyTree]:
        kept, d_gates, d_recurrent, mask_t, reset_t, hold_t, d_hold_t = per_step
        state, recurrent = kept.state, kept.rest
        if reset_t is not None:
            d_reset = _filled(problem.reset_state, moved.reset_state)
            d_state = select(reset_t, d_reset, d_state)

        def recurrent_input(state: Any, recurrent_mask: Array | None) -> Array | None:
            return cell.masked_recurrent_input(widened(state), recurrent_mask)

        r, d_r = _jvp(
            recurrent_input,
            (state, problem.recurrent_mask),
            (d_state, moved.recurrent_mask),
        )
        if multiplies:
            through = ops.matmul(d_r, matrix)
            d_recurrent = through if d_recurrent is None else d_recurrent + through
            columns, d_recurrent = _columns(d_recurrent, widths)
            d_gates = [*columns, *d_gates[len(widths) :]]
        else:
            recurrent, d_recurrent = r, d_r
        (new, output), (d_new, d_output) = _jvp(
            lambda params, leaves, *others: _updated(
                setting, problem, params, jax.tree.unflatten(structure, leaves), *others
            ),
            (problem.params, jax.tree.leaves(kept.gates), r, recurrent, state, hold_t),
            (d_params, d_gates, d_r, d_recurrent, d_state, d_hold_t),
        )
        d_new, d_output = _filled(new, d_new), _filled(output, d_output)
        if mask_t is not None:
            d_new = select(mask_t, d_new, d_state)
            d_output = select(mask_t, d_output, jax.tree.map(jnp.zeros_like, d_output))
        return d_new, d_output

    # Checkpointed, so that reverse mode keeps what was stored and not the activations made of it.
    d_state, d_outputs = jax.lax.scan(
        jax.checkpoint(step, prevent_cse=False),
        varying_like(_filled(problem.state, moved.state), problem),
        (stored, d_others, d_product, problem.mask, problem.resets,
         problem.zoneout, moved.zoneout),
        reverse=setting.reverse,
        unroll=setting.unroll,
    )  # fmt: skip
    return ran, Unrolled(d_outputs, d_state)


_loop.defjvp(_derivative, symbolic_zeros=True)


def _read_by_update(setting: _Setting, problem: Problem, stored: _Stored) -> list[bool]:
    """Which leaves of the parameters `update` (or `output`) reads, as its program shows.

    A leaf that it does not read needs no gradient from the loop, which would carry zeros for it.
    """
    cell = setting.cell
    leaves, structure = jax.tree.flatten(problem.params)

    def one_step(leaves: list[Array], kept: _Stored, hold: PyTree | None) -> Any:
        r = cell.masked_recurrent_input(widened(kept.state), problem.recurrent_mask)
        recurrent = kept.rest if _multiplies(cell, problem) else r
        params = jax.tree.unflatten(structure, leaves)
        return _updated(setting, problem, params, kept.gates, r, recurrent, kept.state, hold)

    first = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (stored, problem.zoneout)
    )
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    jaxpr = jax.make_jaxpr(one_step)(shapes, *first).jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    read |= {id(v) for v in jaxpr.outvars}
    return [id(v) in read for v in jaxpr.invars[: len(leaves)]]


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _none_if_zero(tangent: Any) -> Any:
    return None if _is_zero(tangent) else tangent


def _leaves(primals: PyTree, tangents: PyTree) -> list[Any]:
    """The tangents of all leaves of `primals`; None where one does not move."""
    if tangents is None:
        return [None] * len(jax.tree.leaves(primals))
    structure: Any = jax.tree.structure(primals)
    return list(structure.flatten_up_to(tangents))


def _filled(primals: PyTree, tangents: PyTree) -> PyTree:
    """The tangents with zeros in place of None."""
    leaves, structure = jax.tree.flatten(primals)
    moves = _leaves(primals, tangents)
    filled = [jnp.zeros_like(a) if d is None else d for a, d in zip(leaves, moves, strict=True)]
    return jax.tree.unflatten(structure, filled)


def _jvp(
    function: Callable[..., PyTree], primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]
) -> tuple[PyTree, PyTree]:
    """`jax.jvp` for tangents that are None where a leaf does not move; None if nothing does."""
    leaves, structure = jax.tree.flatten(primals)
    pairs = zip(primals, tangents, strict=True)
    moving = [d for primal, tangent in pairs for d in _leaves(primal, tangent)]
    moves = {i: d for i, d in enumerate(moving) if d is not None}

    def of_moving(moving: dict[int, Array]) -> PyTree:
        filled = [moving.get(i, leaf) for i, leaf in enumerate(leaves)]
        return function(*jax.tree.unflatten(structure, filled))

    if not moves:
        values = function(*primals)
        return values, jax.tree.map(lambda _: None, values)
    return jax.jvp(of_moving, ({i: leaves[i] for i in moves},), (moves,))
