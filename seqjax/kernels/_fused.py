"""The kernel whose weight gradients are one product each: a loop with a derivative of its own.

`lax.scan` differentiates a loop as it stands, so the transpose of the loop carries the gradient of
each matrix and adds a small product to it at every step. Here the loop's *derivative* is written so
that the matrices move out of it. With r_t the recurrent input and dots for tangents,

    recur(p, r_t)˙ = recur(p, ṙ_t) + recur(ṗ, r_t)

The second term does not depend on the tangents of earlier steps. It can therefore be computed as
one product for all steps. The same holds for its transpose, which is the gradient of p. That holds
for any `recur`, since it is linear in each argument: dense, block-diagonal, convolutional,
elementwise. Products inside `update` are taken out in the same way (`_taps.py`), and an `output`
that multiplies runs for all steps at once after the loop.

Nothing else is needed: JAX transposes this derivative into the backward loop, which emits the
cotangents of the products, and the products after it. Forward mode, second derivatives and `vmap`
follow from the same lines, and no cell's gradient is written by hand: a step is differentiated by
`jax.jvp`, at values recomputed from what the forward loop stored (states and gates).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells import ops
from seqjax.cells._base import Cell, compute_dtype, widened
from seqjax.cells._minimal import LinearCell
from seqjax.cells.stepping import Now, Step, added, advance, enter, masked, shown
from seqjax.kernels import _taps as taps
from seqjax.kernels._kernel import Kernel, Spec, require
from seqjax.kernels._problem import Problem
from seqjax.kernels._scan import varying_like
from seqjax.types import Array, PyTree, Slots, Unrolled

__all__ = ["FUSED", "fused"]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 2, 3, 4))
def fused(
    cell: Cell[Any, Any],
    problem: Problem,
    reverse: bool = False,
    inline: bool = False,
    unroll: int = 1,
) -> Unrolled:
    """Run a cell over time, with weight gradients outside the backward loop where possible.

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
      ValueError: the state has an array that is neither floating-point nor complex; use "scan".

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros)
      >>> fused(cell, problem).outputs.shape
      (7, 2, 5)
    """
    require(_refuses(cell))
    with ops.divided_like(problem):
        return _run(_Setting(cell, reverse, inline, unroll), problem, store=False)[0]


def _refuses(cell: Cell[Any, Any], spec: Spec | None = None) -> str | None:
    """Why the kernel cannot run a cell: it differentiates every array of the state."""
    del spec
    state = jax.tree.leaves(jax.eval_shape(lambda: cell.initial_state()))
    if all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in state):
        return None
    return (
        f"'fused' differentiates the whole state, and that of {type(cell).__name__} has arrays "
        "that are neither floating-point nor complex; expected 'scan' or 'auto'"
    )


def _takes(cell: Cell[Any, Any], spec: Spec) -> str:
    """It is the kernel for everything that no other one takes."""
    if not isinstance(cell, LinearCell):
        return "weight gradients are one product each, not one a step"
    parallel_from = spec.choices.parallel_from.value
    where = "a CPU" if parallel_from is None else f"fewer than {parallel_from} steps"
    return f"on {where} the loop is faster than solving time in parallel"


FUSED = Kernel("fused", fused, refuses=_refuses, takes=_takes)
"""The loop with a derivative of its own, which "auto" takes for most cells."""


class _Setting(NamedTuple):
    """The static part of a call."""

    cell: Cell[Any, Any]
    reverse: bool
    inline: bool
    unroll: int


class _Form(NamedTuple):
    """The use that a cell makes of its slots, as the programs of its methods show it.

    Attributes:
      kinds: one name per slot. "sum": `recur` fills it, and `project` or parameters contribute; its
        value is stored. "copy": `recur` alone fills it, without parameters; it is recomputed.
        "input": `project` alone fills it.
      arrives: whether the step changes the state before it reads it, by what the input made.
      tapped: the products inside `update`, or None.
      output_after: whether the output is computed for all steps at once after the loop.
    """

    kinds: tuple[str, ...]
    arrives: bool
    tapped: taps.Tapped | None
    output_after: bool

    def made(self, projected: Slots) -> Slots:
        """Return the slots of the projection that a step needs besides the sums."""
        return projected if self.arrives else _by_kind(self.kinds, input=projected)


class _Stored(NamedTuple):
    """The values that the forward loop keeps for the derivative, with a time axis."""

    left: Any  # the state before the step, after a reset
    sums: Slots
    made: Any  # what `_Form.made` says of the projection, if that was made in the loop
    products: Any  # `taps.Made`: those inside `update`, without operands that cost little


def _by_kind(kinds: tuple[str, ...], **slots: Any) -> Slots:
    """Slots from tuples of them, one for each kind; None for a kind that is not given."""
    return tuple(slots[kind][n] if kind in slots else None for n, kind in enumerate(kinds))


def _form(setting: _Setting, problem: Problem, inputs: PyTree) -> _Form:
    """Look at the programs of a cell's methods for one step; nothing of it is computed."""
    cell, p = setting.cell, problem.params

    def one_step() -> Any:
        given = jax.tree.map(_first, inputs)
        projected = cell.project(p, given) if setting.inline else given
        here = cell.arrive(p, projected, widened(problem.state))
        r = masked(cell.recurrent_input(here), problem.recurrent_mask)
        recurred = (None,) * len(projected) if r is None else cell.recur(p, r)
        ran = advance(
            cell, p, Now(projected), problem.state, output_dtype=compute_dtype(problem.xs),
            recurrent_mask=problem.recurrent_mask, with_output=False,
        )  # fmt: skip
        return projected, here, r, recurred, ran.gates, ran.reached

    projected, here, r, recurred, gates, reached = jax.eval_shape(one_step)
    weighs = iter([] if r is None else taps.depends(cell.recur, p, r))
    kinds = tuple(
        "input" if q is None else "sum" if next(weighs) or slot is not None else "copy"
        for slot, q in zip(projected, recurred, strict=True)
    )
    # The output leaves the loop if that saves products and needs nothing that was not kept.
    multiplies = taps.has_products(cell.output, p, gates, reached)
    read = iter(taps.reads(lambda g, p, s: cell.output(p, g, s), gates, p, reached))
    unkept = [
        slot is not None and next(read) and (kind != "input" or setting.inline)
        for slot, kind in zip(gates, kinds, strict=True)
    ]
    arrives = type(cell).arrive is not Cell.arrive
    tapped = taps.tap(cell.update, p, gates, here)
    return _Form(kinds, arrives, tapped, multiplies and not any(unkept))


def _first(a: Array) -> Array:
    """The first step of an array, or zeros for no steps: a stand-in of a step's shape and type."""
    empty = isinstance(a.shape[0], int) and a.shape[0] == 0
    return jnp.zeros(a.shape[1:], a.dtype) if empty else a[0]


class _Kept(NamedTuple):
    """All that a run leaves behind: what was stored, and what its parts were."""

    form: _Form
    stored: _Stored
    inputs: PyTree
    reached: Any  # the states that the outputs were computed from, if that was after the loop


def _run(setting: _Setting, problem: Problem, *, store: bool) -> tuple[Unrolled, _Kept]:
    """The forward loop; with `store` also what its derivative needs."""
    cell, p = setting.cell, problem.params
    inputs = problem.xs if setting.inline else cell.project(p, problem.xs)
    form = _form(setting, problem, inputs)

    def step(state: Any, per_step: Any) -> tuple[Any, Any]:
        given, mask, reset, hold = per_step
        projected = cell.project(p, given) if setting.inline else given
        update = form.tapped.run if store and form.tapped else None
        now = Now(projected, mask, reset, hold)
        ran = _advance(setting, form, problem, p, now, state, update=update)
        kept = None
        if store:
            made = form.made(projected) if setting.inline else None
            products = None if form.tapped is None else form.tapped.without_early(ran.extra)
            kept = _Stored(ran.left, _by_kind(form.kinds, sum=ran.gates), made, products)
        return ran.state, (ran.output, ran.reached if form.output_after else None, kept)

    state, (outputs, reached, stored) = jax.lax.scan(
        step,
        varying_like(problem.state, problem),
        (inputs, problem.mask, problem.resets, problem.zoneout),
        reverse=setting.reverse,
        unroll=setting.unroll,
    )
    if form.output_after:
        outputs = _shown_after(setting, form, problem, p, inputs, reached)
    return Unrolled(outputs, state), _Kept(form, stored, inputs, reached)


def _advance(
    setting: _Setting, form: _Form, problem: Problem, p: Any, now: Now, state: Any, **options: Any
) -> Step:
    """One step of this problem."""
    return advance(
        setting.cell, p, now, state,
        output_dtype=compute_dtype(problem.xs),
        with_output=not form.output_after,
        **{"reset_state": problem.reset_state, "recurrent_mask": problem.recurrent_mask} | options,
    )  # fmt: skip


def _shown_after(
    setting: _Setting, form: _Form, problem: Problem, p: Any, inputs: Any, reached: Any
) -> PyTree:
    """The outputs of all steps at once. They read no slot but the projection's own."""
    gates = _by_kind(form.kinds, **({} if setting.inline else {"input": inputs}))
    return shown(setting.cell, p, gates, reached, problem.mask, compute_dtype(problem.xs))


def _derivative(
    cell: Cell[Any, Any],
    reverse: bool,
    inline: bool,
    unroll: int,
    primals: tuple[Problem],
    tangents: tuple[Problem],
) -> tuple[Unrolled, Unrolled]:
    """The loop and its tangent."""
    with ops.divided_like(primals):
        return _with_tangent(_Setting(cell, reverse, inline, unroll), primals[0], tangents[0])


fused.defjvp(_derivative, symbolic_zeros=True)


def _with_tangent(
    setting: _Setting, problem: Problem, tangents: Problem
) -> tuple[Unrolled, Unrolled]:
    """Return the outputs and their tangents; the tangents come from a second, linear loop."""
    cell, p = setting.cell, problem.params
    moved = taps.without_zeros(tangents)
    ran, (form, stored, inputs, reached) = _run(setting, problem, store=True)
    kinds, tapped = form.kinds, form.tapped
    made = stored.made if setting.inline else form.made(inputs)

    def seen(p: Any, kept: _Stored, made: Slots, noise: Any) -> tuple[Any, Any, Slots]:
        """Return the state, the recurrent input and the gates of one step, or of all steps."""
        here = cell.arrive(p, made, widened(kept.left))
        r = masked(cell.recurrent_input(here), noise)
        again = cell.recur(p, r) if "copy" in kinds else made
        return here, r, _by_kind(kinds, sum=kept.sums, copy=again, input=made)

    # For all steps at once: what the parameters and inputs contribute.
    _, d_projected = _jvp(cell.project, (p, problem.xs), (moved.params, moved.xs))
    d_recurred: Any = (None,) * len(kinds)
    if "sum" in kinds:
        _, rs, _ = seen(p, stored, made, problem.recurrent_mask)
        _, d_recurred = _jvp(lambda p: cell.recur(p, rs), (p,), (moved.params,))
    d_sums, widths = _packed(tuple(map(added, d_projected, d_recurred)), stored.sums)
    weights = d_taps = None
    if tapped is not None:
        weights, d_weights = _jvp(tapped.weights, (p,), (moved.params,))

        @jax.checkpoint  # so that an operand that costs little is not kept
        def tapping(p: Any, stored: _Stored, made: Slots, noise: Any, d_weights: Any) -> Any:
            here, _, gates = seen(p, stored, made, noise)
            _, again = jax.vmap(functools.partial(tapped.run, p))(gates, here)
            return tapped.taps(stored.products, again, d_weights)

        d_taps = tapping(p, stored, made, problem.recurrent_mask, d_weights)

    def after(p: Any, gates: Slots, made: Slots, state: Any, *others: Any) -> Any:
        """One step once its gates are known: what the loop carries, and what it emits."""
        reset_state, hold, d_taps, mask, reset, products = others
        update = None
        if tapped is not None:
            update = functools.partial(
                tapped.run, weights=weights, taps=d_taps, values=products.values
            )
        ran = _advance(
            setting, form, problem, p, Now(made, mask, reset, hold), state, gates=gates,
            update=update, reset_state=reset_state,
        )  # fmt: skip
        return ran.state, (ran.output, ran.reached if form.output_after else None)

    # A parameter that no step reads, once the products are apart, needs no gradient from the loop,
    # which would carry zeros for it.
    def all_of_it(p: Any) -> Any:
        kept, own, hold = jax.tree.map(_first, (stored, made, problem.zoneout))
        _, r, gates = seen(p, kept, own, problem.recurrent_mask)
        others = (problem.reset_state, hold, None, None, None, kept.products)
        return r, after(p, gates, own, kept.left, *others)

    read = zip(_leaves(p, moved.params), taps.reads(all_of_it, p), strict=True)
    d_rest = jax.tree.unflatten(jax.tree.structure(p), [d if used else None for d, used in read])

    def step(d_state: Any, per_step: Any) -> tuple[Any, PyTree]:
        kept, made, d_made, d_sums, d_taps, mask, reset, hold, d_hold = per_step

        def found(p: Any, made: Slots, state: Any, reset_state: Any, noise: Any) -> PyTree:
            _, here = enter(cell, p, Now(made, reset=reset), state, reset_state)
            return masked(cell.recurrent_input(here), noise)

        r, d_r = _jvp(
            found,
            (p, made, kept.left, problem.reset_state, problem.recurrent_mask),
            (d_rest, d_made, d_state, moved.reset_state, moved.recurrent_mask),
        )
        through = (None,) * len(kinds) if r is None else cell.recur(p, d_r)
        sums = tuple(map(added, _unpacked(d_sums, widths, kept.sums), through))
        d_gates = _by_kind(kinds, sum=sums, copy=through, input=d_made)
        _, _, gates = seen(p, kept, made, problem.recurrent_mask)
        zeros = jax.tree.map(jnp.zeros_like, d_taps)
        (new, emitted), (d_new, d_emitted) = _jvp(
            after,
            (p, gates, made, kept.left, problem.reset_state, hold, zeros, mask, reset,
             kept.products),
            (d_rest, d_gates, d_made, d_state, moved.reset_state, d_hold, d_taps, None, None, None),
        )  # fmt: skip
        return _filled(new, d_new), _filled(emitted, d_emitted)

    products = None if tapped is None else stored.products._replace(operands=[])
    # Checkpointed, so that reverse mode keeps what was stored and not the activations made of it.
    d_state, (d_outputs, d_reached) = jax.lax.scan(
        jax.checkpoint(step, prevent_cse=False),
        varying_like(_filled(problem.state, moved.state), problem),
        (stored._replace(made=None, products=products), made, form.made(tuple(d_projected)),
         d_sums, d_taps, problem.mask, problem.resets, problem.zoneout, moved.zoneout),
        reverse=setting.reverse,
        unroll=setting.unroll,
    )  # fmt: skip
    if form.output_after:
        _, d_outputs = _jvp(
            functools.partial(_shown_after, setting, form, problem),
            (p, None if setting.inline else inputs, reached),
            (moved.params, None if setting.inline else d_projected, d_reached),
        )
    return ran, Unrolled(d_outputs, d_state)


def _packed(d_sums: Slots, sums: Slots) -> tuple[Any, list[int] | None]:
    """The tangents of sums side by side, so that the loop sees one array, and their widths.

    The list as it was and no widths if the sums differ in more than their last axis; None if
    nothing moves.
    """
    pairs = [(d, slot) for d, slot in zip(d_sums, sums, strict=True) if slot is not None]
    if all(d is None for d, _ in pairs):
        return None, None
    if len({(slot.shape[:-1], slot.dtype) for _, slot in pairs}) > 1 or pairs[0][1].ndim < 2:
        return d_sums, None
    filled = [jnp.zeros_like(slot) if d is None else d for d, slot in pairs]
    return jnp.concatenate(filled, axis=-1), [slot.shape[-1] for _, slot in pairs]


def _unpacked(d_sums: Any, widths: list[int] | None, sums: Slots) -> Slots:
    """One step of what `_packed` returned, slot by slot."""
    if d_sums is None:
        return (None,) * len(sums)
    if widths is None:
        return tuple(d_sums)
    columns = iter(jnp.split(d_sums, np.cumsum(widths)[:-1], axis=-1))
    return tuple(None if slot is None else next(columns) for slot in sums)


def _leaves(primals: PyTree, tangents: PyTree) -> list[Any]:
    """The tangents of all leaves of `primals`; None where one does not move."""
    if tangents is None:
        return [None] * len(jax.tree.leaves(primals))
    structure: Any = jax.tree.structure(primals)
    return list(structure.flatten_up_to(tangents))


def _filled(primals: PyTree, tangents: PyTree) -> PyTree:
    """The tangents with zeros in place of None."""
    return jax.tree.map(lambda a, d: jnp.zeros_like(a) if d is None else d, primals, tangents)


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
