"""The laws that every cell must obey. Each law is a function that tells how a cell breaks it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax._arguments import check_cell as require_cell
from seqjax._arguments import same_structure
from seqjax._unroll import unroll
from seqjax.cells._base import (
    Cell,
    Role,
    cast,
    flat_roles,
    input_specs,
    is_shape,
    prepared,
    widened,
)
from seqjax.cells.stepping import Now, advance, joined
from seqjax.kernels import KERNELS, Spec, target
from seqjax.kernels import _taps as taps
from seqjax.testing._units import mixed_units
from seqjax.types import Array, PyTree, Shape

__all__ = ["LAWS", "CellError", "check_cell"]


class CellError(AssertionError):
    """The error of `check_cell` for a cell that breaks laws, with a line for each broken law.

    Example:
      >>> issubclass(CellError, AssertionError)
      True
    """


@dataclasses.dataclass(frozen=True)
class _Sample:
    """A cell with random parameters, inputs and states, none of which is zero."""

    cell: Cell[Any, Any]
    params: Any
    batch: Shape
    steps: int
    seed: int

    @property
    def xs(self) -> PyTree:
        specs = input_specs(self.cell, (*self.batch, self.steps), jnp.float32)
        return _drawn(specs, self.seed + 1)

    @property
    def mask(self) -> Array:
        """A mask, True at real steps, with gaps and with padding at the end."""
        mask = np.random.default_rng(self.seed).random((*self.batch, self.steps)) < 0.7
        mask[..., -1] = False
        mask[..., 0] = True
        return jnp.asarray(mask)

    @property
    def start(self) -> Any:
        """The state after two steps with random inputs."""
        xs = _drawn(input_specs(self.cell, (*self.batch, 2), jnp.float32), self.seed + 2)
        return self.unroll(xs).state

    def unroll(self, xs: PyTree, **options: Any) -> Any:
        """Run the cell over inputs, by default with the kernel "scan"."""
        options.setdefault("implementation", "scan")
        return unroll(self.cell, self.params, xs, **options)

    def steps_of(self, xs: PyTree, part: slice | int) -> PyTree:
        """Return one step, or a slice of the steps, of the inputs."""
        return jax.tree.map(lambda x: x[(slice(None),) * len(self.batch) + (part,)], xs)


def check_cell(
    cell: Cell[Any, Any],
    *,
    params: Any = None,
    batch_shape: Shape = (2,),
    steps: int = 6,
    tolerance: float = 1e-4,
    finite_differences: bool = True,
    seed: int = 0,
) -> None:
    """Check that a cell obeys all laws.

    The laws are about masks, resets, dtypes, kernels and gradients. The check takes some seconds.
    The cell need not be in `CELLS`.

    Args:
      cell: the cell.
      params: the parameters of the cell. By default, they are random numbers in arrays of the
        shapes that `cell.init` returns.
      batch_shape: the sizes of the batch axes for the test.
      steps: the number of steps to run, at least 4.
      tolerance: the largest allowed difference in float32, relative to the largest value or to 1,
        whichever is greater. The laws about bfloat16 and about finite differences have other
        tolerances.
      finite_differences: whether to compare gradients with finite differences. Pass False if the
        cell has custom derivatives that are not the slopes of its values, such as surrogate
        gradients or `stop_gradient`.
      seed: the seed of the random parameters, inputs and states.

    Raises:
      CellError: the cell breaks laws. The message names each broken law and says how the cell
        breaks it.
      TypeError, ValueError: an argument has a wrong type or value.

    Example:
      >>> from seqjax.cells import GRU
      >>> check_cell(GRU(3, 5))
      >>> class Forgetful(GRU):
      ...     def update(self, p, gates, state):
      ...         return super().update(p, gates, state)[..., :1]
      >>> check_cell(Forgetful(3, 5))
      Traceback (most recent call last):
      seqjax.testing._laws.CellError: Forgetful breaks ...
    """
    require_cell(cell)
    if checks.require_integer("steps", steps) < 4:
        raise ValueError(f"steps: expected 4 or more, got {steps}")
    if params is None:
        params = _drawn(cell.param_specs(), seed, 0.4)
    sample = _Sample(cell, params, tuple(batch_shape), steps, seed)
    failures = []
    checks.require_bool("finite_differences", finite_differences)
    for law in LAWS:
        if law is _gradients_are_slopes and not finite_differences:
            continue
        try:
            found = law(sample, tolerance)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if found is not None:
            said = (law.__doc__ or "").strip().split("\n")[0]
            failures.append(f"- {said} {found}")
        if law is _shapes_hold and failures:
            break  # the other laws cannot run with wrong shapes
    if failures:
        raise CellError(
            "\n".join([f"{type(cell).__name__} breaks {len(failures)} of the laws:", *failures])
        )


def _shapes_hold(sample: _Sample, tolerance: float) -> str | None:
    """States must keep shape and dtype, outputs must have `output_shape`, gates must be tuples."""
    del tolerance
    cell = sample.cell
    p = prepared(cell, sample.params, jnp.float32)
    x = sample.steps_of(sample.xs, 0)
    state = cell.initial_state(sample.batch, jnp.float32)
    for leaf, alone in zip(*map(jax.tree.leaves, (state, cell.initial_state())), strict=True):
        if leaf.shape != (*sample.batch, *alone.shape):
            return f"initial_state({sample.batch}) has an array of {leaf.shape}."
    roles = cell.state_roles()
    if not same_structure(state, roles, is_leaf=_is_role):
        return f"state_roles must have the structure of the state, got {roles}."
    for role, leaf in zip(flat_roles(roles), jax.tree.leaves(state), strict=True):
        if (role.held or role.learned) and not _counts(leaf):
            return f"state_roles says that an array of {leaf.dtype} is held or learned."
    projected = cell.project(p, x)
    advance(cell, p, Now(projected), state, output_dtype=jnp.float32)
    output, new = cell.step(sample.params, x, state)
    if _described(new) != _described(state):
        return f"Expected a new state of {_described(state)}, got {_described(new)}."
    shape = (*sample.batch, *cell.output_shape)
    leaves = jax.tree.leaves(output)
    if len(leaves) == 1 and leaves[0].shape != shape:
        return f"output_shape says {shape} with the batch axes, output returned {leaves[0].shape}."
    if cell != dataclasses.replace(cell):
        return "Cells with equal fields must be equal, so that they share one compiled program."
    return None


def _recur_is_bilinear(sample: _Sample, tolerance: float) -> str | None:
    """`recur(p, r)` must be linear in r and linear in p, since kernels rely on this property."""
    cell = sample.cell
    p = prepared(cell, sample.params, jnp.float32)
    r = cell.recurrent_input(widened(sample.start))
    if r is None:
        return None
    other_r, other_p = _drawn(r, sample.seed + 3), _drawn(p, sample.seed + 4)

    def mixed(a: PyTree, b: PyTree) -> PyTree:
        return jax.tree.map(lambda u, v: 2 * u - 3 * v if _counts(u) else u, a, b)

    straight = mixed(cell.recur(p, r), cell.recur(p, other_r))
    found = _difference(cell.recur(p, mixed(r, other_r)), straight, tolerance)
    if found is not None:
        return f"In r: {found}"
    # A slot that does not depend on p, such as r itself, need only be linear in r.
    slots, moved = cell.recur(p, r), cell.recur(other_p, r)
    wanted = [
        None if a is None or b is None else a if bool(jnp.all(a == b)) else 2 * a - 3 * b
        for a, b in zip(slots, moved, strict=True)
    ]
    found = _difference(list(cell.recur(mixed(p, other_p), r)), wanted, tolerance)
    return None if found is None else f"In p: {found}"


def _matrix_is_that_of_recur(sample: _Sample, tolerance: float) -> str | None:
    """`recurrent_matrix(p)` must be the matrix by which `recur` multiplies, gate after gate."""
    cell = sample.cell
    p = prepared(cell, sample.params, jnp.float32)
    r = cell.recurrent_input(widened(sample.start))
    w = cell.recurrent_matrix(p)
    if w is None or r is None:
        return None
    weighs = iter(taps.depends(cell.recur, p, r))
    slots = [q for q in cell.recur(p, r) if q is not None and next(weighs)]
    return _difference(jnp.asarray(r) @ w, jnp.concatenate(slots, axis=-1), tolerance)


def _units_are_apart(sample: _Sample, tolerance: float) -> str | None:
    """`diagonal` and `parameter_units` must be true, since online gradients rely on them."""
    del tolerance
    cell = sample.cell
    p = prepared(cell, sample.params, jnp.float32)
    x = _drawn(input_specs(cell, (), jnp.float32), sample.seed + 6)
    first = (0,) * len(sample.batch)
    return mixed_units(cell, p, x, jax.tree.map(lambda a: a[first], sample.start))


def _inputs_of_zero_are_fine(sample: _Sample, tolerance: float) -> str | None:
    """`project` must be finite and have finite derivatives at x = 0, the input of masked steps."""
    del tolerance
    cell = sample.cell
    p = prepared(cell, sample.params, jnp.float32)
    zeros = jax.tree.map(jnp.zeros_like, sample.steps_of(sample.xs, 0))

    def total(x: PyTree) -> Array:
        parts = [
            part.sum() for slot in cell.project(p, x) if slot is not None for part in _real(slot)
        ]
        return jnp.sum(jnp.stack(parts))

    value, gradient = jax.value_and_grad(total)(zeros)
    if not bool(jnp.isfinite(value)):
        return "Its value is not finite."
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    return None if finite else "Its derivative is not finite."


def _rows_are_apart(sample: _Sample, tolerance: float) -> str | None:
    """The result for one sequence of a batch must not depend on the other sequences."""
    if not sample.batch or sample.batch[0] < 2:
        return None
    changed = jax.tree.map(lambda x: x.at[1:].add(1.0), sample.xs)
    first = [jax.tree.map(lambda a: a[0], tuple(sample.unroll(xs))) for xs in (sample.xs, changed)]
    return _difference(first[0], first[1], tolerance)


def _leading_axes_are_free(sample: _Sample, tolerance: float) -> str | None:
    """`project` and `recur` must accept any leading axes, such as batch and time axes."""
    cell = sample.cell
    p = prepared(cell, sample.params, jnp.float32)
    axis = len(sample.batch)
    xs = sample.xs

    def gates(x: PyTree) -> list[Array]:
        r = cell.recurrent_input(widened(cell.initial_state(x_lead(x), jnp.float32)))
        joined(cell, cell.project(p, x), None if r is None else cell.recur(p, r))
        return [slot for slot in cell.project(p, x) if slot is not None]

    def x_lead(x: PyTree) -> Shape:
        leaf, event = jax.tree.leaves(x)[0], cell.input_shapes[0]
        shape: Shape = leaf.shape[: leaf.ndim - len(event)]
        return shape

    together = gates(jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), xs))
    apart = [gates(sample.steps_of(xs, t)) for t in range(sample.steps)]
    return _difference(
        together, [jnp.stack(slots) for slots in zip(*apart, strict=True)], tolerance
    )


def _steps_make_the_sequence(sample: _Sample, tolerance: float) -> str | None:
    """`unroll` must equal repeated calls of `step`."""
    xs, state, outputs = sample.xs, sample.start, []
    ran = sample.unroll(xs, state=state)
    for t in range(sample.steps):
        output, state = sample.cell.step(sample.params, sample.steps_of(xs, t), state)
        outputs.append(output)
    axis = len(sample.batch)
    stacked = jax.tree.map(lambda *ys: jnp.stack(ys, axis), *outputs)
    return _difference((ran.outputs, ran.state), (stacked, state), tolerance)


def _masked_steps_change_nothing(sample: _Sample, tolerance: float) -> str | None:
    """A masked step must not change the state, and NaN in its input must have no effect."""
    mask, xs = sample.mask, sample.xs

    def garbage(x: Array, shape: Shape) -> Array:
        return jnp.where(mask.reshape(*mask.shape, *[1] * len(shape)), x, jnp.nan)

    shapes = jax.tree.leaves(sample.cell.input_shape, is_leaf=is_shape)
    leaves, structure = jax.tree.flatten(xs)
    dirty = jax.tree.unflatten(structure, map(garbage, leaves, shapes))

    def loss(params: Any, xs: PyTree) -> Any:
        ran = unroll(sample.cell, params, xs, mask=mask, state=sample.start)
        return _loss(ran), (ran.outputs, ran.state)

    clean, clean_gradient = _with_gradient(loss, sample.params, xs)
    found = _with_gradient(loss, sample.params, dirty)
    difference = _difference(found[0], clean, tolerance)
    if difference is not None:
        return difference
    difference = _difference(found[1], clean_gradient, tolerance)
    if difference is not None:
        return f"In a gradient: {difference}"
    last = sample.steps_of(clean[0], -1)
    zero = all(bool((leaf == 0).all()) for leaf in jax.tree.leaves(last))
    return None if zero else "The output at a masked step is not zero."


def _chunks_make_the_whole(sample: _Sample, tolerance: float) -> str | None:
    """Running a sequence in two parts, with the state passed on, must equal running it at once."""
    xs, mask, half = sample.xs, sample.mask, sample.steps // 2
    whole = sample.unroll(xs, mask=mask)
    first = sample.unroll(sample.steps_of(xs, slice(None, half)), mask=mask[..., :half])
    second = sample.unroll(
        sample.steps_of(xs, slice(half, None)), mask=mask[..., half:], state=first.state
    )
    axis = len(sample.batch)
    outputs = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b], axis), first.outputs, second.outputs
    )
    return _difference((whole.outputs, whole.state), (outputs, second.state), tolerance)


def _resets_start_anew(sample: _Sample, tolerance: float) -> str | None:
    """After a reset, outputs and states must not depend on the steps before the reset."""
    xs, half = sample.xs, sample.steps // 2
    resets = jnp.broadcast_to(jnp.arange(sample.steps) == half, (*sample.batch, sample.steps))
    packed = sample.unroll(xs, state=sample.start, resets=resets)
    alone = sample.unroll(sample.steps_of(xs, slice(half, None)))
    after = sample.steps_of(packed.outputs, slice(half, None))
    return _difference((after, packed.state), (alone.outputs, alone.state), tolerance)


def _dtypes_are_kept(sample: _Sample, tolerance: float) -> str | None:
    """With bfloat16 inputs, outputs must be bfloat16 and accurate, and states must keep dtypes."""
    cell, xs = sample.cell, sample.xs
    state = cell.initial_state(sample.batch, jnp.float32)
    half = sample.unroll(cast(xs, jnp.bfloat16), state=state)
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(half.outputs)}
    if dtypes != {"bfloat16"}:
        return f"The outputs have the dtypes {', '.join(sorted(dtypes))}."
    if _described(half.state) != _described(state):
        return f"Expected a state of {_described(state)}, got {_described(half.state)}."
    exact = sample.unroll(xs, state=state)
    wide = cast(half.outputs, jnp.float32)
    return _difference(wide, exact.outputs, max(0.1, tolerance))


def _kernels_agree(sample: _Sample, tolerance: float) -> str | None:
    """Every kernel that can run the cell must equal "scan", in values and in gradients."""
    cell, mask = sample.cell, sample.mask
    spec = Spec(sample.batch, sample.steps, jnp.dtype(jnp.float32), target.this_machine())

    def ran(implementation: str) -> Any:
        def loss(params: Any, xs: PyTree) -> Any:
            ran = unroll(
                cell, params, xs, state=sample.start, mask=mask, implementation=implementation
            )
            return _loss(ran), (ran.outputs, ran.state)

        return _with_gradient(loss, sample.params, sample.xs)

    values, gradient = ran("scan")
    for name, kernel in KERNELS.items():
        if name == "scan" or kernel.refuses(cell, spec) is not None:
            continue
        found = ran(name)
        difference = _difference(found[0], values, tolerance)
        if difference is not None:
            return f"{name!r}: {difference}"
        difference = _difference(found[1], gradient, tolerance)
        if difference is not None:
            return f"The gradient by {name!r}: {difference}"
    return None


def _gradients_are_slopes(sample: _Sample, tolerance: float) -> str | None:
    """Gradients must agree with finite differences of the loss."""
    del tolerance
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a, _double(a)), sample.params)
        xs = jax.tree.map(lambda a: jnp.asarray(a, _double(a)), sample.xs)
        way = _drawn(params, sample.seed + 5)

        def at(step: float) -> Any:
            moved = jax.tree.map(lambda a, d: a + step * d if _counts(a) else a, params, way)
            return _loss(unroll(sample.cell, moved, xs, mask=sample.mask))

        slope = float(jax.grad(at)(0.0))
        measured = float(at(1e-5) - at(-1e-5)) / 2e-5
    scale = max(abs(slope), abs(measured), 1e-3)
    if abs(slope - measured) <= 1e-4 * scale:
        return None
    return f"Along a random direction of the parameters: {slope:.6g}, measured {measured:.6g}."


LAWS: tuple[Callable[[_Sample, float], str | None], ...] = (
    _shapes_hold,
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
    _gradients_are_slopes,
)
"""The laws: functions of a sample and a tolerance that describe how a law fails, or return None."""


def _counts(leaf: Any) -> bool:
    """Return whether a leaf is floating-point or complex."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def _double(leaf: Any) -> Any:
    """Return float64 for a float leaf, complex128 for a complex one, else the dtype of the leaf."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return jnp.complex128
    return jnp.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype


def _drawn(tree: PyTree, seed: int, scale: float = 1.0) -> PyTree:
    """Replace the floating-point and complex leaves of a pytree by normal random numbers."""
    rng = np.random.default_rng(seed)

    def one(leaf: Any) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros(leaf.shape, leaf.dtype) if _is_spec(leaf) else leaf
        values = scale * rng.normal(size=leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            values = values + 1j * scale * rng.normal(size=leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(one, tree)


def _is_role(leaf: Any) -> bool:
    return isinstance(leaf, Role)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _described(tree: PyTree) -> Any:
    return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree)


def _loss(ran: Any) -> Array:
    """Return a number that depends on every output and on every array of the final state."""
    leaves = jax.tree.leaves((ran.outputs, ran.state))
    parts = [jnp.sin(part).sum() for leaf in leaves if _counts(leaf) for part in _real(leaf)]
    return jnp.sum(jnp.stack(parts))


def _real(leaf: Array) -> list[Array]:
    complex_valued = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return [leaf.real, leaf.imag] if complex_valued else [leaf]


def _with_gradient(loss: Callable[..., Any], params: Any, xs: PyTree) -> tuple[Any, Any]:
    """Return the values of a loss and its gradient with respect to parameters and inputs."""
    leaves, structure = jax.tree.flatten(params)
    moving = {n: leaf for n, leaf in enumerate(leaves) if _counts(leaf)}

    def of_moving(moving: dict[int, Array], xs: PyTree) -> Any:
        filled = [moving.get(n, leaf) for n, leaf in enumerate(leaves)]
        return loss(jax.tree.unflatten(structure, filled), xs)

    (_, values), gradient = jax.value_and_grad(of_moving, (0, 1), has_aux=True)(moving, xs)
    return values, gradient


def _difference(got: PyTree, want: PyTree, tolerance: float) -> str | None:
    """Describe the largest difference between two pytrees; None if it is within the tolerance."""
    a, b = jax.tree.leaves(got), jax.tree.leaves(want)
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return f"Expected {_described(want)}, got {_described(got)}."
    for x, y in zip(a, b, strict=True):
        if not x.size:
            continue
        scale = max(1.0, float(jnp.abs(y).max()))
        worst = float(jnp.abs(x - y).max()) if _counts(x) else float((x != y).any())
        if not worst <= tolerance * scale:
            return f"The values differ by {worst:.3g}; the largest value is {scale:.3g}."
    return None
