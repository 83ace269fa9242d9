"""Cells whose step is a function `(params, carry, x) -> (carry, y)` of another library.

`update` calls the function, which computes the whole step: `project` returns the input unchanged,
and the cell has no `recur`. Before the call, all batch axes are reshaped to one.
"""

import abc
import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from seqjax import checks
from seqjax._arguments import same_structure
from seqjax.cells import ops
from seqjax.cells._base import Cell, Role, cast, compute_dtype
from seqjax.kernels import _taps as taps
from seqjax.types import Array, Shape, Slots

__all__ = ["Emitted", "ProgramCell"]


class Emitted(NamedTuple):
    """The state of a cell whose output is not one of the arrays of its carry.

    Attributes:
      carry: the carry that the function returned.
      output: the output of the same step. Before the first step, it is zero.
    """

    carry: Any
    output: Any


@dataclasses.dataclass(frozen=True)
class ProgramCell(Cell[Any, Any]):
    """Base class of cells that are made from a function.

    If the output of the function is one of the arrays of its new carry, the state of the cell is
    the carry. Otherwise, the state is an `Emitted`.

    Attributes:
      spatial_shape: the sizes of the spatial axes of an input; `()` for cells of vectors.
    """

    opaque: ClassVar[bool] = True

    spatial_shape: Shape = dataclasses.field(default=(), kw_only=True)

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name of the function, for error messages."""

    @abc.abstractmethod
    def call(self, params: Any, carry: Any, x: Array) -> tuple[Any, Array]:
        """Run one step of the function on arrays with one batch axis."""

    @abc.abstractmethod
    def start(self, params: Any, shape: Shape) -> Any:
        """Return the initial carry for an input of the given shape.

        The values of the carry must not depend on the parameters.
        """

    @property
    def input_shape(self) -> Shape:
        return (*self.spatial_shape, self.input_size)

    @property
    def output_shape(self) -> Shape:
        return self.form().output_shape

    def form(self) -> "Form":
        """Return the shapes of the carry and output, and the initial carry (see `Form`)."""
        return _form(self)

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> Any:
        batch_shape = checks.require_shape("batch_shape", batch_shape)
        form = self.form()

        def batched(value: np.ndarray, shape: Shape) -> Array:
            return jnp.broadcast_to(jnp.asarray(value), (*batch_shape, *shape))

        leaves = map(batched, form.start, form.shapes)
        carry = cast(jax.tree.unflatten(form.structure, leaves), dtype)
        if form.place is not None:
            return carry
        return Emitted(carry, jnp.zeros((*batch_shape, *form.output_shape), dtype))

    def state_roles(self) -> Any:
        roles = super().state_roles()
        if self.form().place is not None:
            return roles
        return roles._replace(output=Role(held=False, learned=False))

    def project(self, p: Any, x: Array) -> Slots:
        del p
        return (x,)

    def update(self, p: Any, gates: Slots, state: Any) -> Any:
        x: Any = gates[0]
        in_carry = self.form().place is not None
        old = state if in_carry else state.carry
        lead = x.shape[: x.ndim - len(self.input_shape)]

        def joined(leaf: Array) -> Array:
            return leaf.reshape(math.prod(lead), *leaf.shape[len(lead) :])

        def like(new: Array, before: Array) -> Array:
            # A function that has a dtype of its own may return another dtype than it was given.
            return new.reshape(before.shape).astype(before.dtype)

        wide = ops.accumulator_dtype(compute_dtype((p, x)))
        new, output = self.call(cast(p, wide), jax.tree.map(joined, old), cast(joined(x), wide))
        carry = jax.tree.map(like, new, old)
        return carry if in_carry else Emitted(carry, like(output, state.output))

    def output(self, p: Any, gates: Slots, state: Any) -> Array:
        del p, gates
        place = self.form().place
        found: Array = state.output if place is None else jax.tree.leaves(state)[place]
        return found


class Form(NamedTuple):
    """The properties of a step function, found by tracing one step.

    Attributes:
      output_shape: the shape of the output, without batch axis.
      place: the index of the output among the arrays of the new carry; None if the output is not
        one of these arrays.
      structure: the pytree structure of the carry.
      shapes: the shapes of the arrays of the carry, without batch axis.
      start: the arrays of the initial carry, without batch axis. If all elements of an array are
        equal, only this number is stored.
    """

    output_shape: Shape
    place: int | None
    structure: Any
    shapes: tuple[Shape, ...]
    start: tuple[Any, ...]


@functools.lru_cache(maxsize=256)
def _form(cell: ProgramCell) -> Form:
    """Trace one step of a cell (cached for later calls).

    Raises:
      ValueError: the carry or the output of the function is not valid.
    """
    params, x = jax.eval_shape(
        lambda: (
            cast(
                jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), cell.param_specs()), jnp.float32
            ),
            jnp.zeros((1, *cell.input_shape), jnp.float32),
        )
    )
    start = _start(cell, params, x.shape)
    carry = jax.eval_shape(lambda: cast(jax.tree.map(jnp.asarray, start), jnp.float32))
    closed, (new, output) = jax.make_jaxpr(
        lambda params, x, carry: cell.call(params, carry, x), return_shape=True
    )(params, x, carry)
    if not same_structure(new, carry) or _shapes(new) != _shapes(carry):
        raise ValueError(
            f"module: expected {cell.name} to return a carry like its argument, {_shapes(carry)}, "
            f"got {_shapes(new)}"
        )
    if not isinstance(output, jax.ShapeDtypeStruct) or output.ndim < 2 or output.shape[0] != 1:
        raise ValueError(
            f"module: expected {cell.name} to return one array of features as its output, with the "
            f"batch axis of its input, got {_shapes(output)} for a batch of 1"
        )
    *carries, y = closed.jaxpr.outvars
    places = [n for n, variable in enumerate(carries) if variable is y]
    leaves, structure = jax.tree.flatten(start)
    return Form(
        output_shape=output.shape[1:],
        place=places[-1] if places else None,
        structure=structure,
        shapes=tuple(leaf.shape[1:] for leaf in leaves),
        start=tuple(a.flat[0] if a.size and (a == a.flat[0]).all() else a[0] for a in leaves),
    )


def _start(cell: ProgramCell, params: Any, shape: Shape) -> Any:
    """Return the initial carry as NumPy arrays, with a batch axis of 1."""
    closed, carry = jax.make_jaxpr(lambda p: cell.start(p, shape), return_shape=True)(params)
    inputs = closed.jaxpr.invars
    if taps.reached(closed.jaxpr, inputs).intersection(taps.variables(closed.jaxpr.outvars)):
        raise ValueError(
            f"module: expected {cell.name} to have an initial carry that does not depend on "
            "parameters; use learned_initial_state=True of the layer"
        )
    if any(leaf.shape[:1] != (1,) for leaf in jax.tree.leaves(carry)):
        raise ValueError(
            f"module: expected {cell.name} to have a carry with the batch axes of its input, got "
            f"{_shapes(carry)} for a batch of 1"
        )
    with jax.ensure_compile_time_eval():
        zeros = [np.zeros(variable.aval.shape, variable.aval.dtype) for variable in inputs]
        leaves = core.jaxpr_as_fun(closed)(*zeros)
    return jax.tree.unflatten(jax.tree.structure(carry), map(np.asarray, leaves))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(jnp.shape, tree)
