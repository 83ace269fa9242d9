"""The laws that every cell must obey. Each law is a function that tells how a cell breaks it."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax._arguments import same_structure
from seqjax._unroll import unroll
from seqjax.cells._base import Role, cast, flat_roles, input_specs, is_shape, prepared, widened
from seqjax.cells.stepping import Now, advance, joined
from seqjax.kernels import KERNELS, Spec, target
from seqjax.kernels import _taps as taps
from seqjax.testing._sample import (
    Sample,
    counts,
    described,
    difference,
    drawn,
    fetched,
    loss_of,
    real_parts,
)
from seqjax.testing._units import mixed_units
from seqjax.types import Array, PyTree, Shape

__all__ = ["LAWS", "gradients_are_slopes", "shapes_hold"]


def shapes_hold(sample: Sample, tolerance: float) -> str | None:
    """States must keep shape and dtype, outputs must have `output_shape`, gates must be tuples."""
    del tolerance
    cell = sample.cell
    states = (
        lambda: cell.initial_state(sample.batch, jnp.float32),
        lambda: cell.initial_state(),
    )
    state, alone = map(jax.eval_shape, states)
    for leaf, one in zip(*map(jax.tree.leaves, (state, alone)), strict=True):
        if leaf.shape != (*sample.batch, *one.shape):
            return f"initial_state({sample.batch}) has an array of {leaf.shape}."
    roles = cell.state_roles()
    if not same_structure(state, roles, is_leaf=_is_role):
        return f"state_roles must have the structure of the state, got {roles}."
    for role, leaf in zip(flat_roles(roles), jax.tree.leaves(state), strict=True):
        if (role.held or role.learned) and not counts(leaf):
            return f"state_roles says that an array of {leaf.dtype} is held or learned."

    def advanced(params: Any, x: PyTree, state: Any) -> Any:
        p = prepared(cell, params, jnp.float32)
        advance(cell, p, Now(cell.project(p, x)), state, output_dtype=jnp.float32)
        return cell.step(params, x, state)

    output, new = jax.eval_shape(advanced, sample.params, sample.steps_of(sample.xs, 0), state)
    if described(new) != described(state):
        return f"Expected a new state of {described(state)}, got {described(new)}."
    shapes = jax.tree.map(
        lambda shape: (*sample.batch, *shape), cell.output_shape, is_leaf=is_shape
    )
    returned = jax.tree.map(lambda leaf: leaf.shape, output)
    if returned != shapes:
        return f"output_shape says {shapes} with the batch axes, output returned {returned}."
    if cell != dataclasses.replace(cell):
        return "Cells with equal fields must be equal, so that they share one compiled program."
    return None


def _recur_is_bilinear(sample: Sample, tolerance: float) -> str | None:
    """`recur(p, r)` must be linear in r and linear in p, since kernels rely on this property."""
    cell = sample.cell

    def mixed(a: PyTree, b: PyTree) -> PyTree:
        return jax.tree.map(lambda u, v: 2 * u - 3 * v if counts(u) else u, a, b)

    def products(params: Any, start: Any, other_r: PyTree, other_p: PyTree) -> Any:
        p, r = prepared(cell, params, jnp.float32), cell.recurrent_input(widened(start))
        slots = cell.recur(p, r)
        of_r = cell.recur(p, mixed(r, other_r)), mixed(slots, cell.recur(p, other_r))
        return slots, of_r, cell.recur(other_p, r), cell.recur(mixed(p, other_p), r)

    p, r = jax.eval_shape(
        lambda params, start: (
            prepared(cell, params, jnp.float32), cell.recurrent_input(widened(start)),
        ),
        sample.params, sample.start,
    )  # fmt: skip
    if r is None:
        return None
    others = drawn(r, sample.seed + 3), drawn(p, sample.seed + 4)
    slots, of_r, moved, of_p = sample.run(products, sample.start, *others)
    found = difference(of_r[0], of_r[1], tolerance)
    if found is not None:
        return f"In r: {found}"
    # A slot that does not depend on p, such as r itself, need only be linear in r.
    wanted = [
        None if a is None or b is None else a if bool(np.all(a == b)) else 2 * a - 3 * b
        for a, b in zip(slots, moved, strict=True)
    ]
    found = difference(list(of_p), wanted, tolerance)
    return None if found is None else f"In p: {found}"


def _matrix_is_that_of_recur(sample: Sample, tolerance: float) -> str | None:
    """`recurrent_matrix(p)` must be the matrix by which `recur` multiplies, gate after gate."""
    cell = sample.cell

    def products(params: Any, start: Any) -> Any:
        p, r = prepared(cell, params, jnp.float32), cell.recurrent_input(widened(start))
        w = cell.recurrent_matrix(p)
        if w is None or r is None:
            return None, None
        weighs = iter(taps.depends(cell.recur, p, r))
        slots = [q for q in cell.recur(p, r) if q is not None and next(weighs)]
        return jnp.asarray(r) @ w, jnp.concatenate(slots, axis=-1)

    got, want = sample.run(products, sample.start)
    return difference(got, want, tolerance)


def _units_are_apart(sample: Sample, tolerance: float) -> str | None:
    """`diagonal` and `parameter_units` must be true, since online gradients rely on them."""
    del tolerance
    x = drawn(input_specs(sample.cell, (), jnp.float32), sample.seed + 6)
    first = (0,) * len(sample.batch)
    state = jax.tree.map(lambda a: a[first], sample.start)
    return mixed_units(sample.cell, sample.params, x, state)


def _inputs_of_zero_are_fine(sample: Sample, tolerance: float) -> str | None:
    """`project` must be finite and have finite derivatives at x = 0, the input of masked steps."""
    del tolerance
    cell = sample.cell

    def total(params: Any, x: PyTree) -> Array:
        slots = cell.project(prepared(cell, params, jnp.float32), x)
        parts = [part.sum() for slot in slots if slot is not None for part in real_parts(slot)]
        return jnp.sum(jnp.stack(parts))

    zeros = jax.tree.map(np.zeros_like, sample.steps_of(sample.xs, 0))
    value, gradient = sample.run(jax.value_and_grad(total, 1), zeros)
    if not np.isfinite(value):
        return "Its value is not finite."
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    return None if finite else "Its derivative is not finite."


def _rows_are_apart(sample: Sample, tolerance: float) -> str | None:
    """The result for one sequence of a batch must not depend on the other sequences."""
    if not sample.batch or sample.batch[0] < 2:
        return None

    def others_changed(x: Any) -> Any:
        row = np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1))
        return np.where(row > 0, x + 1, x).astype(x.dtype)

    changed = jax.tree.map(others_changed, sample.xs)
    first = [jax.tree.map(lambda a: a[0], tuple(sample.unroll(xs))) for xs in (sample.xs, changed)]
    return difference(first[0], first[1], tolerance)


def _leading_axes_are_free(sample: Sample, tolerance: float) -> str | None:
    """`project` and `recur` must accept any leading axes, such as batch and time axes."""
    cell = sample.cell
    axis = len(sample.batch)
    xs = sample.xs

    def gates(params: Any, x: PyTree) -> list[Array]:
        p = prepared(cell, params, jnp.float32)
        r = cell.recurrent_input(widened(cell.initial_state(x_lead(x), jnp.float32)))
        joined(cell, cell.project(p, x), None if r is None else cell.recur(p, r))
        return [slot for slot in cell.project(p, x) if slot is not None]

    def x_lead(x: PyTree) -> Shape:
        leaf, event = jax.tree.leaves(x)[0], cell.input_shapes[0]
        shape: Shape = leaf.shape[: leaf.ndim - len(event)]
        return shape

    compiled = jax.jit(gates)
    together = compiled(sample.params, jax.tree.map(lambda x: np.moveaxis(x, axis, 0), xs))
    apart = [compiled(sample.params, sample.steps_of(xs, t)) for t in range(sample.steps)]
    stacked = [np.stack(slots) for slots in zip(*fetched(apart), strict=True)]
    return difference(together, stacked, tolerance)


def _steps_make_the_sequence(sample: Sample, tolerance: float) -> str | None:
    """`unroll` must equal repeated calls of `step`."""
    state, outputs = sample.start, []
    ran = sample.unroll(sample.xs, state)
    for t in range(sample.steps):
        output, state = sample.step(sample.params, sample.steps_of(sample.xs, t), state)
        outputs.append(fetched(output))
    stacked = jax.tree.map(lambda *ys: np.stack(ys, len(sample.batch)), *outputs)
    return difference((ran.outputs, ran.state), (stacked, state), tolerance)


def _masked_steps_change_nothing(sample: Sample, tolerance: float) -> str | None:
    """A masked step must not change the state, and NaN in its input must have no effect."""
    mask, xs = sample.mask, sample.xs

    def garbage(x: Any, shape: Shape) -> Any:
        over = mask.reshape(*mask.shape, *[1] * len(shape))
        return np.where(over, x, np.nan).astype(x.dtype) if counts(x) else x

    shapes = jax.tree.leaves(sample.cell.input_shape, is_leaf=is_shape)
    leaves, structure = jax.tree.flatten(xs)
    dirty = jax.tree.unflatten(structure, map(garbage, leaves, shapes))
    for name, start in itertools.product(_kernels_of(sample), sample.starts):
        clean, clean_gradient = sample.with_gradient(name, xs, start)
        found, found_gradient = sample.with_gradient(name, dirty, start)
        worst = difference(found, clean, tolerance)
        if worst is not None:
            return f"{name!r}: {worst}"
        worst = difference(found_gradient, clean_gradient, tolerance)
        if worst is not None:
            return f"In a gradient by {name!r}: {worst}"
        last = sample.steps_of(clean[0], -1)
        if any((leaf != 0).any() for leaf in jax.tree.leaves(last)):
            return f"{name!r}: The output at a masked step is not zero."
    return None


def _chunks_make_the_whole(sample: Sample, tolerance: float) -> str | None:
    """Running a sequence in two parts, with the state passed on, must equal running it at once."""
    xs, mask, half = sample.xs, sample.mask, sample.half
    whole = sample.unroll(xs, mask=mask)
    first = sample.unroll(sample.steps_of(xs, slice(None, half)), mask=mask[..., :half])
    second = sample.unroll(
        sample.steps_of(xs, slice(half, None)), first.state, mask=mask[..., half:]
    )
    axis = len(sample.batch)
    outputs = jax.tree.map(lambda a, b: np.concatenate([a, b], axis), first.outputs, second.outputs)
    return difference((whole.outputs, whole.state), (outputs, second.state), tolerance)


def _resets_start_anew(sample: Sample, tolerance: float) -> str | None:
    """After a reset, outputs and states must not depend on the steps before the reset."""
    xs, half = sample.xs, sample.half
    resets = np.broadcast_to(np.arange(sample.steps) == half, (*sample.batch, sample.steps))
    packed = sample.unroll(xs, sample.start, resets=resets)
    alone = sample.unroll(sample.steps_of(xs, slice(half, None)))
    after = sample.steps_of(packed.outputs, slice(half, None))
    return difference((after, packed.state), (alone.outputs, alone.state), tolerance)


def _dtypes_are_kept(sample: Sample, tolerance: float) -> str | None:
    """With bfloat16 inputs, outputs must be bfloat16 and accurate, and states must keep dtypes."""
    half, exact = sample.unroll(cast(sample.xs, jnp.bfloat16)), sample.unroll(sample.xs).outputs
    narrowed = jax.eval_shape(lambda: sample.cell._narrowed(exact, jnp.bfloat16))
    got, expected = (
        [leaf.dtype.name for leaf in jax.tree.leaves(tree)] for tree in (half.outputs, narrowed)
    )
    if got != expected:
        return f"The outputs have the dtypes {', '.join(sorted(set(got)))}."
    if described(half.state) != described(sample.fresh):
        return f"Expected a state of {described(sample.fresh)}, got {described(half.state)}."
    wide, floats = (
        [leaf.astype(np.float32) for leaf in jax.tree.leaves(tree) if counts(leaf)]
        for tree in (half.outputs, exact)
    )
    return difference(wide, floats, max(0.1, tolerance))


def _kernels_of(sample: Sample) -> list[str]:
    """Return the names of the kernels that can run the cell, "scan" first."""
    spec = Spec(sample.batch, sample.steps, jnp.dtype(jnp.float32), target.this_machine())
    others = [name for name, kernel in KERNELS.items() if name != "scan"
              and kernel.refuses(sample.cell, spec) is None]  # fmt: skip
    return ["scan", *others]


def _kernels_agree(sample: Sample, tolerance: float) -> str | None:
    """Every kernel that can run the cell must equal "scan", in values and in gradients."""
    values, gradient = sample.with_gradient("scan", sample.xs)
    for name in _kernels_of(sample)[1:]:
        found, found_gradient = sample.with_gradient(name, sample.xs)
        worst = difference(found, values, tolerance)
        if worst is not None:
            return f"{name!r}: {worst}"
        worst = difference(found_gradient, gradient, tolerance)
        if worst is not None:
            return f"The gradient by {name!r}: {worst}"
    return None


def gradients_are_slopes(sample: Sample, tolerance: float) -> str | None:
    """Gradients must agree with finite differences of the loss."""
    del tolerance
    with jax.enable_x64(True):
        own = jax.eval_shape(lambda: sample.cell.initial_state(sample.batch, jnp.float64))
        point = (
            *(jax.tree.map(_doubled, tree) for tree in (sample.params, sample.xs)),
            jax.tree.map(
                lambda a, spec: np.asarray(a, spec.dtype) if counts(a) else a, sample.start, own
            ),
        )
        ways = tuple(drawn(tree, sample.seed + 5 + n) for n, tree in enumerate(point))

        def slopes_at(steps: Array, point: Any, ways: Any, mask: Array) -> Any:
            def at(steps: Array) -> Array:
                params, xs, state = (
                    jax.tree.map(lambda a, d, by=by: a + by * d if _is_double(a) else a, tree, way)
                    for tree, way, by in zip(point, ways, steps, strict=True)
                )
                return loss_of(unroll(sample.cell, params, xs, state=state, mask=mask))

            return jax.value_and_grad(at)(steps)

        compiled = jax.jit(slopes_at)
        slopes = np.asarray(compiled(np.zeros(3), point, ways, sample.mask)[1])
        for name, slope, step in zip(
            ("parameters", "inputs", "initial state"), slopes, 1e-5 * np.eye(3), strict=True
        ):
            above, below = (
                float(compiled(by, point, ways, sample.mask)[0]) for by in (step, -step)
            )
            measured = (above - below) / 2e-5
            if not abs(slope - measured) <= 1e-4 * max(abs(slope), abs(measured), 1e-3):
                return (
                    f"Along a random direction of the {name}: {slope:.6g}, measured {measured:.6g}."
                )
    return None


def _doubled(leaf: Any) -> Any:
    """Return a float leaf in float64, a complex leaf in complex128, and other leaves unchanged."""
    if not counts(leaf):
        return leaf
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return np.asarray(leaf, np.complex128 if is_complex else np.float64)


def _is_double(leaf: Any) -> bool:
    """Return whether a leaf is precise enough for finite differences."""
    return leaf.dtype in (np.float64, np.complex128)


def _is_role(leaf: Any) -> bool:
    return isinstance(leaf, Role)


LAWS: tuple[Callable[[Sample, float], str | None], ...] = (
    shapes_hold,
    _recur_is_bilinear,
    _matrix_is_that_of_recur,
    _units_are_apart,
    _inputs_of_zero_are_fine,
    _rows_are_apart,
    _leading_axes_are_free,
    _steps_make_the_sequence,
    _masked_steps_change_nothing,
    _chunks_make_the_whole,
    _resets_start_anew,
    _dtypes_are_kept,
    _kernels_agree,
    gradients_are_slopes,
)
"""The laws: functions of a sample and a tolerance that describe how a law fails, or return None."""
