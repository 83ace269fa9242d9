"""One step of online learning, with the derivative that the influence gives."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks, sequences
from seqjax._arguments import (
    as_floating,
    batched_state,
    check_cell,
    checked_params,
    in_words,
    same_structure,
)
from seqjax.cells._base import Cell, compute_dtype, is_shape, prepared
from seqjax.cells.stepping import Now, advance, select
from seqjax.kernels import _taps as taps
from seqjax.online._influence import (
    Influence,
    after_step,
    from_parts,
    next_influence,
    own_recurrence,
    parameter_units,
    through,
    to_parts,
)
from seqjax.online._state import OnlineState, checked_state
from seqjax.types import Array, PyTree, Shape, Slots, Unrolled

__all__ = ["Timing", "learned_step", "reset_states", "step"]


def step(
    cell: Cell[Any, Any],
    params: PyTree,
    x: PyTree,
    state: OnlineState,
    *,
    mask: Any = None,
    resets: Any = None,
    reset_state: PyTree | None = None,
) -> Unrolled:
    """Run one step, so that the gradient of a loss on its results includes the earlier steps.

    The function returns the same outputs as `cell.step`. Its derivative is different: `jax.grad` of
    a loss on the outputs or on the new state with respect to `params` is the derivative through all
    steps since `initial_state` or the last reset, and not only through this step. Sum the gradients
    of the steps for the gradient of a loss on several steps, or update the parameters after each
    step.

    The gradient is exact if the cell is diagonal and the parameters have not changed. In other
    cases, it is an approximation:

    - With "snap1" and a cell that is not diagonal, see `initial_state`.
    - If the parameters are updated at each step, the influence contains derivatives at the earlier
      parameters. The smaller the updates, the smaller the error.
    - The gradient with respect to x only has the path through this step. So in a stack of
      layers, the gradient of the last layer is exact, and those of the layers below are not: a
      lower layer does not learn what an upper layer will need at later steps.
    - The gradient with respect to the arguments `state` and `reset_state` is zero.

    Args:
      cell: the cell.
      params: the parameters of the cell, as `cell.init` returns them.
      x: the input of the step, floating-point `[..., I]`.
      state: the state, as `initial_state` or the previous step returns it.
      mask: bool `[...]`, False where the step is padding. At padding, the output is 0, and state
        and influence do not change.
      resets: bool `[...]`, True where x is the first input of a new sequence. There, `reset_state`
        replaces the state before the step, and the influence becomes 0.
      reset_state: the state after a reset. The default is the cell's initial state.

    Returns:
      `Unrolled(outputs, state)`: the output `[..., O]`, and the new `OnlineState`, whose field
      `state` is the state of the cell.

    Raises:
      TypeError, ValueError: an argument has a wrong type, dtype or shape.

    References:
      Williams, Zipser (1989), A learning algorithm for continually running fully recurrent neural
      networks; Menick et al. (2021), A practical sparse approximation for real time recurrent
      learning. For stacks: Zucchet, Meier, Schug, Mujika, Sacramento (2023), Online learning of
      long-range dependencies.

    Example:
      >>> import seqjax
      >>> cell = seqjax.cells.MinGRU(1, 4)
      >>> params = cell.init(jax.random.key(0))
      >>> def loss_fn(params, x, y, state):
      ...     output, state = step(cell, params, x, state)
      ...     return jnp.square(output.sum() - y), state
      >>> update = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
      >>> state = seqjax.online.initial_state(cell)
      >>> for x in (1.0, 0.0, 0.0):
      ...     (loss, state), gradient = update(params, jnp.array([x]), 1.0, state)
      ...     params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
      >>> bool(jnp.abs(gradient.w_ih).sum() > 0)  # x is 0, but the first x still counts
      True
    """
    check_cell(cell)
    x, batch_shape = _checked_input(cell, x)
    dtype = compute_dtype(x)
    state = checked_state(cell, state, batch_shape, dtype)
    if mask is not None:
        mask = sequences.require_mask("mask", mask, batch_shape)
        x = jax.tree.map(lambda a: sequences.zero_masked(a, mask=mask), x)
    if resets is not None:
        resets = sequences.require_mask("resets", resets, batch_shape)
    reset_state = reset_states(cell, reset_state, state.state, batch_shape, dtype)
    p = to_parts(prepared(cell, checked_params(cell, params), dtype))
    own = own_recurrence(cell, p, dtype)
    return learned_step(cell, p, own, x, state, Timing(mask, resets, reset_state))


class Timing(NamedTuple):
    """The mask and the reset of a step, each `[...]` or None, and the state after a reset."""

    mask: Array | None
    reset: Array | None
    reset_state: PyTree


def reset_states(
    cell: Cell[Any, Any], given: PyTree | None, state: PyTree, batch_shape: Shape, dtype: Any
) -> PyTree:
    """Return the state after a reset, with the dtypes of the state."""
    given = cell.initial_state(batch_shape, dtype) if given is None else given
    given = batched_state("reset_state", cell, given, batch_shape, dtype)
    return jax.tree.map(lambda r, s: r.astype(s.dtype), given, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def learned_step(
    cell: Cell[Any, Any],
    p: PyTree,
    own: Slots | None,
    x: PyTree,
    state: OnlineState,
    timing: Timing,
) -> Unrolled:
    """Run one step, whose derivative `step` describes.

    Args:
      cell: the cell.
      p: the parameters as `to_parts(prepare(params))`.
      own: the result of `own_recurrence`.
      x: the input of the step, `[..., I]`, which is finite at padding, too.
      state: the state before the step.
      timing: the mask and the reset of the step.
    """
    return _forward(cell, p, own, x, state, timing)[0]


def _forward(
    cell: Cell[Any, Any],
    p: PyTree,
    own: Slots | None,
    x: PyTree,
    state: OnlineState,
    timing: Timing,
) -> tuple[Unrolled, Any]:
    whole = from_parts(p)
    now = Now(cell.project(whole, x), timing.mask, timing.reset)
    ran = advance(
        cell, whole, now, state.state,
        output_dtype=compute_dtype(x), reset_state=timing.reset_state,
    )  # fmt: skip
    before = state.influence
    if timing.reset is not None:
        before = select(timing.reset, jax.tree.map(jnp.zeros_like, before), before)
    after = functools.partial(next_influence, cell, p, own)
    for _ in range(jax.tree.leaves(x)[0].ndim - len(cell.input_shapes[0])):
        after = jax.vmap(after)
    influence: Influence = after(x, ran.left, before)
    if timing.mask is not None:
        influence = select(timing.mask, influence, before)
    result = Unrolled(ran.output, OnlineState(ran.state, influence))
    return result, (p, x, timing.mask, ran.left, ran.reached, before, influence)


def _backward(cell: Cell[Any, Any], kept: Any, cotangents: Unrolled) -> tuple[Any, ...]:
    """Return the gradients with respect to the parameters and the input, and zeros."""
    p, x, mask, left, reached, before, after = kept
    left, left_structure = jax.tree.flatten(to_parts(left))
    reached, structure = jax.tree.flatten(to_parts(reached))

    def shown(p: PyTree, x: PyTree, left: list[Array], reached: list[Array]) -> PyTree:
        """Return the output as a function of the state before the step and the state after it."""
        whole = from_parts(p)
        new = from_parts(jax.tree.unflatten(structure, reached))
        now = Now(cell.project(whole, x), mask)
        ran = advance(
            cell, whole, now, from_parts(jax.tree.unflatten(left_structure, left)),
            output_dtype=compute_dtype(x), update=lambda *_: (new, None),
        )  # fmt: skip
        return ran.output

    _, pull = jax.vjp(shown, p, x, left, reached)
    d_p, d_x, d_left, d_reached = pull(cotangents.outputs)
    state = from_parts(jax.tree.unflatten(left_structure, left))

    def kept_state(reached: list[Array]) -> PyTree:
        new = from_parts(jax.tree.unflatten(structure, reached))
        return jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)

    _, pull = jax.vjp(kept_state, reached)
    d_after, d_new = [], []
    for d, e, array in zip(d_reached, pull(cotangents.state.state)[0], reached, strict=True):
        if not jnp.issubdtype(array.dtype, jnp.inexact):  # a counter has no gradient
            e, here = d, d
        else:
            here = d + (e if mask is None else select(mask, e, jnp.zeros_like(e)))
            e = d + e
        d_after.append(e)
        d_new.append(here)
    _, pull = jax.vjp(lambda x: after_step(cell, p, x, state), x)
    d_x = jax.tree.map(jnp.add, d_x, pull(d_new)[0])

    # An array that is not used has no gradient. At padding, the new influence is the old one.
    used = taps.reads(lambda left: shown(p, x, left, reached), left)
    used += [jnp.issubdtype(array.dtype, jnp.inexact) for array in reached]
    rows = zip(d_left + d_after, before + after, used, strict=True)
    read = [(d, row) for d, row, needed in rows if needed]
    units = parameter_units(cell, from_parts(p)) or []
    past = through([d for d, _ in read], tuple(row for _, row in read), units)
    leaves, p_structure = jax.tree.flatten(d_p)
    leaves = [
        d if more is None else (d.astype(more.dtype) + more).astype(d.dtype)
        for d, more in zip(leaves, past, strict=True)
    ]
    return jax.tree.unflatten(p_structure, leaves), None, d_x, None, None


learned_step.defvjp(_forward, _backward)


def _checked_input(cell: Cell[Any, Any], x: PyTree) -> tuple[PyTree, Shape]:
    """Return the input of a step as arrays, and its batch axes."""
    words = jax.tree.map(lambda s: in_words("...", s), cell.input_shape, is_leaf=is_shape)
    if not same_structure(x, words):
        raise ValueError(f"x: expected floating-point inputs as {words}, got {checks.brief(x)}")
    x = jax.tree.map(lambda leaf: as_floating("x", leaf), x)
    pairs = list(zip(jax.tree.leaves(x), cell.input_shapes, strict=True))
    leads = {leaf.shape[: leaf.ndim - len(event)] for leaf, event in pairs}
    if len(leads) > 1 or any((*lead, *e) != leaf.shape for lead in leads for leaf, e in pairs):
        shapes = jax.tree.map(jnp.shape, x)
        raise ValueError(f"x: expected {words} with the same batch axes, got {shapes}")
    return x, leads.pop()
