"""One step of any cell. `Cell.step` and all kernels with a time loop call `advance`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax.cells._base import Cell, widened
from seqjax.types import Array, PyTree, Slots

__all__ = ["Now", "Step", "advance", "enter", "held", "joined", "project_steps", "select", "shown"]


class Now(NamedTuple):
    """The arguments of a step, without the state.

    Attributes:
      projected: the tuple of arrays or None that `cell.project` returned for this step.
      mask: bool `[...]`, False where the step is padding; or None.
      reset: bool `[...]`, True where the state is set to `reset_state` before the step; or None.
      hold: None, or the argument of zoneout, a pytree with the structure of the state. A leaf is
        the fraction of the old state to keep, or an array that is True for each unit to keep.
    """

    projected: Slots
    mask: Array | None = None
    reset: Array | None = None
    hold: PyTree | None = None


class Step(NamedTuple):
    """The results of a step.

    Attributes:
      state: the state after the step, in the dtypes of the state before the step.
      output: the output, or None if `with_output` was False.
      left: the state before the step, but after the reset if there was one.
      gates: the gates that were passed to `update`.
      reached: the state after the step, before it is rounded and masked. `cell.output` reads it.
      extra: the second result of the function `update` that was passed to `advance`, or None if no
        function was passed.
    """

    state: Any
    output: PyTree | None
    left: Any
    gates: Slots
    reached: Any
    extra: Any


def advance(
    cell: Cell[Any, Any],
    p: Any,
    now: Now,
    state: Any,
    *,
    output_dtype: Any,
    reset_state: Any = None,
    recurrent_mask: PyTree | None = None,
    gates: Slots | None = None,
    update: Callable[[Any, Slots, Any], tuple[Any, Any]] | None = None,
    with_output: bool = True,
) -> Step:
    """Run one step of a cell.

        s'      = reset_state where reset else s_{t-1}
        here    = arrive(p, g_t, s')
        r       = recurrent_input(here) ⊙ recurrent_mask
        gates   = g_t ⊕ recur(p, r)
        s~      = hold ⊙ s' + (1 - hold) ⊙ update(p, gates, here)
        y~      = output(p, gates, s~)
        s_t     = s~ where mask else s'
        y_t     = y~ where mask else 0

    Args:
      cell: the cell.
      p: the result of `cell.prepare`, in the compute dtype.
      now: the arguments of this step: projected input, mask, reset and zoneout.
      state: the state before the step. The state after the step has the same dtypes.
      output_dtype: the compute dtype. The output has this dtype.
      reset_state: the state that replaces `state` at a reset.
      recurrent_mask: the mask of recurrent dropout, by which the recurrent input is multiplied; or
        None.
      gates: the gates, if the caller has computed them already. If None, they are computed.
      update: a function `(p, gates, state) -> (state, extra)` that replaces `cell.update`.
      with_output: whether to compute the output.

    Raises:
      TypeError, ValueError: a method of the cell returns a value of the wrong form.

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = GRU(3, 5)
      >>> p = cell.prepare(cell.init(jax.random.key(0)))
      >>> now = Now(cell.project(p, jnp.ones([2, 3])), mask=jnp.array([True, False]))
      >>> ran = advance(cell, p, now, cell.initial_state([2]), output_dtype=jnp.float32)
      >>> bool((ran.state[1] == 0).all()), bool((ran.output[1] == 0).all())
      (True, True)
    """
    left, here = enter(cell, p, now, state, reset_state)
    if gates is None:
        r = masked(cell.recurrent_input(here), recurrent_mask)
        gates = joined(cell, now.projected, None if r is None else cell.recur(p, r))
    if update is None:
        new, extra = cell.update(p, gates, here), None
    else:
        new, extra = update(p, gates, here)
    _check_state(cell, "update", new, here)
    if now.hold is not None:
        new = jax.tree.map(held, now.hold, widened(left), new)
    after = jax.tree.map(lambda a, b: a.astype(b.dtype), new, left)
    if now.mask is not None:
        after = select(now.mask, after, left)
    output = shown(cell, p, gates, new, now.mask, output_dtype) if with_output else None
    return Step(after, output, left, gates, new, extra)


def enter(cell: Cell[Any, Any], p: Any, now: Now, state: Any, reset_state: Any) -> tuple[Any, Any]:
    """Return the state after a reset, and the same state after `cell.arrive`.

    Example:
      >>> from seqjax.cells import GRU
      >>> now = Now((), reset=jnp.array([True]))
      >>> left, here = enter(GRU(3, 1), (), now, jnp.ones([1, 1]), jnp.zeros([1, 1]))
      >>> left.tolist()
      [[0.0]]
    """
    left = state if now.reset is None else select(now.reset, reset_state, state)
    wide = widened(left)
    here = cell.arrive(p, now.projected, wide)
    if here is not wide:
        _check_state(cell, "arrive", here, wide)
    return left, here


def project_steps(cell: Cell[Any, Any], p: Any, xs: PyTree) -> Slots:
    """Return the result of `cell.project` for all steps at once.

    Raises:
      ValueError: an array of the result does not begin with the time axis of xs.

    Example:
      >>> from seqjax.cells import MinGRU
      >>> cell = MinGRU(3, 5)
      >>> project_steps(cell, cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]))[0].shape
      (7, 2, 5)
    """
    slots = cell.project(p, xs)
    steps = jax.tree.leaves(xs)[0].shape[:1]
    for n, slot in enumerate(slots):
        if slot is not None and slot.shape[:1] != steps:
            raise ValueError(
                f"cell: expected slot {n} of {type(cell).__name__}.project to begin with the axes "
                f"of its input, with {steps[0]} time steps first, got the shape {slot.shape}"
            )
    return slots


def shown(
    cell: Cell[Any, Any], p: Any, gates: Slots, reached: Any, mask: Array | None, dtype: Any
) -> PyTree:
    """Return the outputs of one step or of all steps in the compute dtype, with 0 at padding.

    Example:
      >>> from seqjax.cells import GRU
      >>> shown(GRU(3, 1), (), (), jnp.ones([2, 1]), jnp.array([True, False]), "float32").tolist()
      [[1.0], [0.0]]
    """
    return finished(cell._narrowed(cell.output(p, gates, reached), dtype), mask)


def finished(output: PyTree, mask: Array | None) -> PyTree:
    """Return an output with zeros at masked steps."""
    if mask is None:
        return output
    return select(mask, output, jax.tree.map(jnp.zeros_like, output))


def joined(cell: Cell[Any, Any], projected: Slots, recurred: Slots | None) -> Slots:
    """Return the gates.

    Each gate is the sum of an array of `projected` and an array of `recurred`, or one of these
    arrays if the other is None.

    Raises:
      TypeError, ValueError: the arguments are not tuples of the same length, or the two arrays of
        a gate differ in shape.

    Example:
      >>> from seqjax.cells import GRU
      >>> joined(GRU(3, 5), (jnp.int32(1), None), (jnp.int32(2), jnp.int32(3)))
      (Array(3, dtype=int32), Array(3, dtype=int32))
    """
    name = type(cell).__name__
    for method, slots in (("project", projected), ("recur", recurred)):
        if not isinstance(slots, tuple) and not (slots is None and method == "recur"):
            raise TypeError(
                f"cell: expected a tuple of slots from {name}.{method}, got {type(slots).__name__}"
            )
    if recurred is None:
        return projected
    if len(projected) != len(recurred):
        raise ValueError(
            f"cell: expected as many slots from {name}.recur as from {name}.project, "
            f"{len(projected)}, got {len(recurred)}"
        )
    gates = []
    for n, (p, q) in enumerate(zip(projected, recurred, strict=True)):
        if p is not None and q is not None and p.shape != q.shape:
            raise ValueError(
                f"cell: expected slot {n} of {name}.recur to have the same shape as that of "
                f"{name}.project, {p.shape}, got {q.shape}"
            )
        gates.append(added(p, q))
    return tuple(gates)


def added(a: Array | None, b: Array | None) -> Array | None:
    """Return the sum of two arrays, or the only array if the other argument is None."""
    return b if a is None else a if b is None else a + b


def masked(r: PyTree | None, recurrent_mask: PyTree | None) -> PyTree | None:
    """Multiply the recurrent input by the mask of recurrent dropout."""
    if r is None or recurrent_mask is None:
        return r
    return jax.tree.map(
        lambda a, m: a * lax.broadcast_to_rank(m.astype(a.dtype), a.ndim), r, recurrent_mask
    )


def select(condition: Array, if_true: PyTree, if_false: PyTree) -> PyTree:
    """Return `if_true` where the condition `[...]` holds, and `if_false` elsewhere.

    `if_true` and `if_false` are pytrees of arrays `[..., …]`, which begin with the condition's
    axes.

    Example:
      >>> select(jnp.array([True, False]), jnp.ones([2, 1]), jnp.zeros([2, 1])).tolist()
      [[1.0], [0.0]]
    """

    def one(a: Array, b: Array) -> Array:
        return jnp.where(
            condition.reshape(*condition.shape, *[1] * (a.ndim - condition.ndim)), a, b
        )

    return jax.tree.map(one, if_true, if_false)


def held(hold: Array, old: Array, new: Array) -> Array:
    """Apply zoneout to the old and the new state: hold ⊙ old + (1 - hold) ⊙ new.

    Example:
      >>> float(held(jnp.float32(0.25), jnp.float32(4.0), jnp.float32(0.0)))
      1.0
    """
    if hold.dtype == jnp.bool_:
        return jnp.where(hold, old, new)
    if not jnp.issubdtype(new.dtype, jnp.inexact):
        return new  # zoneout does not change a counter
    hold = hold.astype(new.dtype)
    return hold * old + (1 - hold) * new


def _check_state(cell: Cell[Any, Any], method: str, new: Any, old: Any) -> None:
    """Raise if the state `new` that a method returned differs from `old` in structure or shapes."""

    def described(state: Any) -> Any:
        return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", state)

    name = f"cell: expected {type(cell).__name__}.{method} to return a state like its argument"
    same: Any = jax.tree.structure(old)
    if jax.tree.structure(new) != same:
        raise TypeError(f"{name}, {described(old)}, got {jax.tree.structure(new)}")
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        turned_complex = jnp.iscomplexobj(a) and not jnp.iscomplexobj(b)
        narrowed = a.dtype != b.dtype and a.dtype in (jnp.bfloat16, jnp.float16)
        if a.shape != b.shape or turned_complex or narrowed:
            raise ValueError(f"{name}, {described(old)}, got {described(new)}")
