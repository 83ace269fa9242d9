"""The kernel that computes each weight gradient as one product: a loop with its own derivative.

JAX differentiates `lax.scan` step by step, so the transposed loop carries the gradient of each
matrix and adds a small product to this gradient at every step. This kernel defines the *derivative*
of the loop so that the gradients of the matrices are computed outside of the loop. Let r_t be the
recurrent input, and let dots denote tangents. Then

    recur(p, r_t)˙ = recur(p, ṙ_t) + recur(ṗ, r_t)

The term recur(ṗ, r_t) does not depend on the tangents of earlier steps. Therefore this term can be
computed as one product for all steps. The transpose of this product, which is the gradient of p, is
one product, too. The method works for every `recur` (dense, block-diagonal, convolutional,
elementwise), because `recur` is linear in each argument. Products inside `update` are taken out of
the loop in the same way (`_taps.py`). If `output` contains a product, the outputs of all steps are
computed at once after the loop.

JAX transposes this derivative into a backward loop, which emits the cotangents of the products, and
into products of all steps after that loop. Forward mode, second derivatives and `vmap` use the same
code. No gradient of a cell is written by hand. `jax.jvp` differentiates each step, with values
recomputed from the states and gates that the forward loop stored.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells import ops
from seqjax.cells._base import Cell, compute_dtype, widened
from seqjax.cells.stepping import Now, Step, added, advance, enter, masked, project_steps, shown
from seqjax.kernels import _taps as taps
from seqjax.kernels._associative import ASSOCIATIVE
from seqjax.kernels._kernel import Kernel, Spec, require
from seqjax.kernels._problem import Problem
from seqjax.kernels._scan import dtype_inside, varying_like
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
    """Run a cell over time, and compute weight gradients after the backward loop where possible.

    The values and all derivatives, of every mode and order, are those of `scan`.

    Args:
      cell: the cell.
      problem: the time-major arrays of the call; see `Problem`.
      reverse: whether to process the steps in the order t = T-1 … 0.
      inline: whether each step projects its own input. If `inline` is True, the projections of all
        steps are not kept in memory.
      unroll: the number of steps in one iteration of the compiled loops.

    Returns:
      `Unrolled` with time-major outputs.

    Raises:
      ValueError: the state has an array that is neither floating-point nor complex. For a cell
        with such a state, use the kernel "scan".

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
    """Return why the kernel cannot run a cell, or None if the whole state is differentiable."""
    del spec
    state = jax.tree.leaves(jax.eval_shape(lambda: cell.initial_state()))
    if all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in state):
        return None
    return (
        "'fused' runs cells whose state is floating-point or complex, got "
        f"{type(cell).__name__}, whose state has other arrays; use 'scan' or 'auto'"
    )


def _takes(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Return why "auto" chooses this kernel for a problem, or None if it does not.

    If a more specialised kernel also accepts the problem, the planner prefers that kernel.
    """
    if cell.opaque:
        return None
    if ASSOCIATIVE.refuses(cell, spec) is not None:
        return "weight gradients are one product each, not one a step"
    parallel_from = spec.choices.parallel_from.value
    where = "a CPU" if parallel_from is None else f"fewer than {parallel_from} steps"
    return f"on {where} the loop is faster than all steps in parallel"


FUSED = Kernel("fused", fused, refuses=_refuses, takes=_takes)
"""The kernel of this module, which "auto" chooses for most cells."""


class _Setting(NamedTuple):
    """The arguments of a call that are not arrays."""

    cell: Cell[Any, Any]
    reverse: bool
    inline: bool
    unroll: int


class _Form(NamedTuple):
    """Properties of a cell that are found by tracing its methods.

    Attributes:
      kinds: the kind of each gate: "sum", "copy" or "input". Gates of kind "sum" come from `recur`
        and also from `project` or the parameters, and are stored. Gates of kind "copy" come from
        `recur` alone, without parameters, and are recomputed. Gates of kind "input" come from
        `project` alone.
      arrives: whether the cell overrides `arrive`, which reads the projected input.
      tapped: the products inside `update`, or None if there are none.
      output_after: whether the output is computed for all steps at once after the loop.
    """

    kinds: tuple[str, ...]
    arrives: bool
    tapped: taps.Tapped | None
    output_after: bool

    def made(self, projected: Slots) -> Slots:
        """Return the arrays of the projection that a step needs besides the gates of kind "sum"."""
        return projected if self.arrives else _by_kind(self.kinds, input=projected)


class _Stored(NamedTuple):
    """The values that the forward loop keeps for the derivative, with a time axis."""

    left: Any  # the state before the step, after a reset
    sums: Slots
    made: Any  # the result of `_Form.made`, if the inputs were projected in the loop
    products: Any  # `taps.Made` of `update`, without operands that are cheap to recompute


def _by_kind(kinds: tuple[str, ...], **slots: Any) -> Slots:
    """Return each gate from the tuple given for its kind, or None if its kind has no tuple."""
    return tuple(slots[kind][n] if kind in slots else None for n, kind in enumerate(kinds))


def _form(setting: _Setting, problem: Problem, inputs: PyTree) -> _Form:
    """Return the `_Form` of a cell, found by tracing one step without running it."""
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
    # The output is computed after the loop if it contains products and reads only values that are
    # kept.
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
    """Return the first step of an array, or zeros of its shape and dtype if there are no steps."""
    empty = isinstance(a.shape[0], int) and a.shape[0] == 0
    return jnp.zeros(a.shape[1:], a.dtype) if empty else a[0]


class _Kept(NamedTuple):
    """The intermediate values of a forward pass that its derivative reads."""

    form: _Form
    stored: _Stored
    inputs: PyTree
    reached: Any  # the states from which outputs are computed after the loop, or None


def _run(setting: _Setting, problem: Problem, *, store: bool) -> tuple[Unrolled, _Kept]:
    """Run the forward loop, and return its result and the values that the derivative reads.

    The loop stores these values for each step only if `store` is True.
    """
    cell, p = setting.cell, problem.params
    inputs = problem.xs if setting.inline else project_steps(cell, p, problem.xs)
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
            left = jax.tree.map(lambda a: a.astype(dtype_inside(a.dtype)), ran.left)
            kept = _Stored(left, _by_kind(form.kinds, sum=ran.gates), made, products)
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
    outputs = cell._narrowed(outputs, compute_dtype(problem.xs))
    return Unrolled(outputs, state), _Kept(form, stored, inputs, reached)


def _advance(
    setting: _Setting, form: _Form, problem: Problem, p: Any, now: Now, state: Any, **options: Any
) -> Step:
    """Run one step of a problem."""
    return advance(
        setting.cell, p, now, state,
        output_dtype=dtype_inside(compute_dtype(problem.xs)),
        with_output=not form.output_after,
        **{"reset_state": problem.reset_state, "recurrent_mask": problem.recurrent_mask} | options,
    )  # fmt: skip


def _shown_after(
    setting: _Setting, form: _Form, problem: Problem, p: Any, inputs: Any, reached: Any
) -> PyTree:
    """Compute the outputs of all steps at once, from the states and the projected inputs."""
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
    """Return the result of the loop and its tangent."""
    with ops.divided_like(primals):
        return _with_tangent(_Setting(cell, reverse, inline, unroll), primals[0], tangents[0])


fused.defjvp(_derivative, symbolic_zeros=True)


def _with_tangent(
    setting: _Setting, problem: Problem, tangents: Problem
) -> tuple[Unrolled, Unrolled]:
    """Return the outputs, and their tangents, which a second, linear loop computes."""
    cell, p = setting.cell, problem.params
    moved = taps.without_zeros(tangents)
    ran, (form, stored, inputs, reached) = _run(setting, problem, store=True)
    kinds, tapped = form.kinds, form.tapped
    made = stored.made if setting.inline else form.made(inputs)

    def seen(p: Any, kept: _Stored, made: Slots, noise: Any) -> tuple[Any, Any, Slots]:
        """Return the state, the recurrent input and the gates of one step or of all steps."""
        here = cell.arrive(p, made, widened(kept.left))
        r = masked(cell.recurrent_input(here), noise)
        again = cell.recur(p, r) if "copy" in kinds else made
        return here, r, _by_kind(kinds, sum=kept.sums, copy=again, input=made)

    # The contributions of parameters and inputs to the tangents, for all steps at once.
    _, d_projected = _jvp(cell.project, (p, problem.xs), (moved.params, moved.xs))
    d_recurred: Any = (None,) * len(kinds)
    if "sum" in kinds:
        _, rs, _ = seen(p, stored, made, problem.recurrent_mask)
        _, d_recurred = _jvp(lambda p: cell.recur(p, rs), (p,), (moved.params,))
    d_sums, widths = _packed(tuple(map(added, d_projected, d_recurred)), stored.sums)
    weights = d_taps = None
    if tapped is not None:
        weights, d_weights = _jvp(tapped.weights, (p,), (moved.params,))

        @jax.checkpoint  # operands that are cheap to compute are recomputed instead of stored
        def tapping(p: Any, stored: _Stored, made: Slots, noise: Any, d_weights: Any) -> Any:
            here, _, gates = seen(p, stored, made, noise)
            _, again = jax.vmap(functools.partial(tapped.run, p))(gates, here)
            return tapped.taps(stored.products, again, d_weights)

        d_taps = tapping(p, stored, made, problem.recurrent_mask, d_weights)

    def after(p: Any, gates: Slots, made: Slots, state: Any, *others: Any) -> Any:
        """Run a step from known gates. Return its state and the values that the loop emits."""
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

    # If only products that are computed outside of the loop read a parameter, its gradient inside
    # the loop is zero, and the loop need not carry it.
    def all_of_it(p: Any) -> Any:
        kept, own, hold = jax.tree.map(_first, (stored, made, problem.zoneout))
        kept = _narrowed(kept, problem.state)
        _, r, gates = seen(p, kept, own, problem.recurrent_mask)
        others = (problem.reset_state, hold, None, None, None, kept.products)
        return r, after(p, gates, own, kept.left, *others)

    read = zip(_leaves(p, moved.params), taps.reads(all_of_it, p), strict=True)
    d_rest = jax.tree.unflatten(jax.tree.structure(p), [d if used else None for d, used in read])

    def step(d_state: Any, per_step: Any) -> tuple[Any, PyTree]:
        kept, made, d_made, d_sums, d_taps, mask, reset, hold, d_hold = per_step
        kept = _narrowed(kept, problem.state)

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
    # Checkpointed, so that reverse mode keeps the stored values only and recomputes activations.
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
    return ran, Unrolled(cell._narrowed(d_outputs, compute_dtype(problem.xs)), d_state)


def _narrowed(kept: _Stored, state: Any) -> _Stored:
    """Return the stored values with the state before the step in the dtype of the state."""
    left = jax.tree.map(lambda a, like: a.astype(like.dtype), kept.left, state)
    return kept._replace(left=left)


def _packed(d_sums: Slots, sums: Slots) -> tuple[Any, list[int] | None]:
    """Join the tangents of the gates of kind "sum" into one array, and return it with its widths.

    The widths are the sizes of the last axes of the tangents. If the gates differ in more than
    their last axis, the tangents are returned as they are, with None for the widths. If all
    tangents are None, the result is None, too.
    """
    pairs = [(d, slot) for d, slot in zip(d_sums, sums, strict=True) if slot is not None]
    if all(d is None for d, _ in pairs):
        return None, None
    if len({(slot.shape[:-1], slot.dtype) for _, slot in pairs}) > 1 or pairs[0][1].ndim < 2:
        return d_sums, None
    filled = [jnp.zeros_like(slot) if d is None else d for d, slot in pairs]
    return jnp.concatenate(filled, axis=-1), [slot.shape[-1] for _, slot in pairs]


def _unpacked(d_sums: Any, widths: list[int] | None, sums: Slots) -> Slots:
    """Return one step's tangents, which `_packed` has joined, as separate arrays."""
    if d_sums is None:
        return (None,) * len(sums)
    if widths is None:
        return tuple(d_sums)
    columns = iter(jnp.split(d_sums, np.cumsum(widths)[:-1], axis=-1))
    return tuple(None if slot is None else next(columns) for slot in sums)


def _leaves(primals: PyTree, tangents: PyTree) -> list[Any]:
    """Return the tangents of all leaves of `primals`, with None in place of zero tangents."""
    if tangents is None:
        return [None] * len(jax.tree.leaves(primals))
    structure: Any = jax.tree.structure(primals)
    return list(structure.flatten_up_to(tangents))


def _filled(primals: PyTree, tangents: PyTree) -> PyTree:
    """Return the tangents with zeros in place of None."""
    return jax.tree.map(lambda a, d: jnp.zeros_like(a) if d is None else d, primals, tangents)


def _jvp(
    function: Callable[..., PyTree], primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]
) -> tuple[PyTree, PyTree]:
    """Return the result of `jax.jvp` for tangents in which None stands for zero.

    If all tangents are None, the tangents of the result are None, too.
    """
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
