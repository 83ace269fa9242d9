"""The pointwise part of a cell, as a function of arrays `[H, B]` inside a GPU kernel.

Inside a kernel, the last axis of an array is the batch, but the methods of a cell expect the hidden
units as the last axis. Therefore `update` and its `jax.vjp` are traced for one example, with arrays
`[H]`, and the traced equations are evaluated with arrays `[H, B]`. This is correct because each
equation works on each hidden unit separately.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from seqjax.cells._base import Cell
from seqjax.types import Array, PyTree, Slots

__all__ = ["Pointwise", "pointwise"]

Arrays = list[Array]


class Pointwise(NamedTuple):
    """The gates of a cell, and its `update` as a function of arrays `[H, B]` in float32.

    Attributes:
      projected: for each gate, the index of its term from `project`, or None.
      recurred: for each gate, the index of its term from `recur`, or None.
      hidden: the index of the state's array that `recur` multiplies.
      forward: `forward(vectors, gates, state)` returns the arrays of the new state and the output.
      backward: `backward(vectors, gates, state, cotangents)` returns the cotangents of the vectors,
        the gates and the state, as one list. The last argument is a list of the cotangents of the
        results of `forward`.
    """

    projected: tuple[int | None, ...]
    recurred: tuple[int | None, ...]
    hidden: int
    forward: Callable[[Arrays, Arrays, Arrays], Arrays]
    backward: Callable[[Arrays, Arrays, Arrays, Arrays], Arrays]

    @property
    def terms(self) -> int:
        """The number of terms from `project`."""
        return sum(i is not None for i in self.projected)

    @property
    def products(self) -> int:
        """The number of terms from `recur`."""
        return sum(i is not None for i in self.recurred)


def pointwise(cell: Cell[Any, Any], p: PyTree, vectors: Sequence[str]) -> Pointwise:
    """Trace the pointwise part of a cell.

    Args:
      cell: a cell whose `update` and `output` work on each hidden unit separately.
      p: the parameters, a NamedTuple of arrays or of their types.
      vectors: the names of the parameters `[H]` that `update` or `output` read.

    Raises:
      NotImplementedError: an equation of `update` or `output` mixes hidden units.

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = GRU(3, 2)
      >>> found = pointwise(cell, cell.param_specs(), ["b_hn"])
      >>> found.projected, found.recurred, found.hidden
      ((0, 1, 2, None), (0, 1, None, 2), 0)
      >>> ones = jnp.ones([2, 5])
      >>> new, output = found.forward([ones], [ones] * 4, [ones])
      >>> new.shape
      (2, 5)
    """
    state = jax.eval_shape(lambda: cell.initial_state((), jnp.float32))
    leaves, structure = jax.tree.flatten(state)
    x = jax.ShapeDtypeStruct(cell.input_shape, p.w_ih.dtype)
    projected = jax.eval_shape(cell.project, p, x)
    recurred = jax.eval_shape(lambda p, s: cell.recur(p, cell.recurrent_input(s)), p, state)
    hidden = jax.tree.leaves(cell.recurrent_input(_numbered(state)))[0]
    row = jax.ShapeDtypeStruct(leaves[0].shape, jnp.float32)

    def one(vectors_: Arrays, gates: Arrays, state: Arrays) -> Arrays:
        q = p._replace(**dict(zip(vectors, vectors_, strict=True)))
        new = cell.update(q, tuple(gates), jax.tree.unflatten(structure, state))
        return [*jax.tree.leaves(new), cell.output(q, tuple(gates), new)]

    def gradient(vectors_: Arrays, gates: Arrays, state: Arrays, d_results: Arrays) -> Arrays:
        found = jax.vjp(one, vectors_, gates, state)[1](d_results)
        return jax.tree.leaves(found)

    given = [row] * len(vectors), [row] * len(projected), [row] * len(leaves)
    results = [row] * (len(leaves) + 1)
    return Pointwise(
        _counted(projected),
        _counted(recurred),
        hidden,
        _replayed(jax.make_jaxpr(one)(*given)),
        _replayed(jax.make_jaxpr(gradient)(*given, results)),
    )


def _numbered(state: PyTree) -> PyTree:
    """Return a state whose arrays are replaced by their indices."""
    structure: Any = jax.tree.structure(state)
    return jax.tree.unflatten(structure, range(structure.num_leaves))


def _counted(slots: Slots) -> tuple[int | None, ...]:
    """Return for each slot the number of arrays before it, or None if the slot has no array."""
    arrays = [n for n, slot in enumerate(slots) if slot is not None]
    return tuple(arrays.index(n) if n in arrays else None for n in range(len(slots)))


def _replayed(closed: core.ClosedJaxpr) -> Callable[..., Arrays]:
    """Return a function that evaluates equations traced for `[H]` with arrays `[H, B]`."""
    _check(closed.jaxpr, closed.jaxpr.outvars[-1].aval.shape[0])

    def function(*arguments: Any) -> Arrays:
        arrays = jax.tree.leaves(arguments)
        shape = arrays[-1].shape
        results = _evaluate(closed.jaxpr, closed.consts, arrays)
        return [
            a if getattr(a, "shape", None) == shape else jnp.full(shape, a, jnp.float32)
            for a in results
        ]

    return function


NESTED = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr"}
"""The primitives that call a jaxpr, and the parameter that holds it."""


def _check(jaxpr: core.Jaxpr, size: int) -> None:
    """Raise if an equation has arrays other than scalars and `[H]`, as a product or a sum has."""
    for equation in jaxpr.eqns:
        for variable in (*equation.invars, *equation.outvars):
            aval: Any = variable.aval
            if aval.shape not in ((), (size,)):
                raise NotImplementedError(f"expected a pointwise update, got {equation}")
        if equation.primitive.name in NESTED:
            _check(equation.params[NESTED[equation.primitive.name]].jaxpr, size)


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> Arrays:
    """Evaluate the equations of a jaxpr. A scalar stays a scalar until it meets an array."""
    values: dict[Any, Any] = {}

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        operands = [read(variable) for variable in equation.invars]
        name = equation.primitive.name
        if name in NESTED:
            inner = equation.params[NESTED[name]]
            results = _evaluate(inner.jaxpr, inner.consts, operands)
        elif name == "broadcast_in_dim":
            results = operands
        elif name == "add_any":
            results = [operands[0] + operands[1]]
        else:
            # A primitive needs operands of one shape, and the constants were broadcast to [H].
            shape = max((jnp.shape(a) for a in operands), key=len)
            operands = [_full(a, shape, v) for a, v in zip(operands, equation.invars, strict=True)]
            results = [equation.primitive.bind(*operands, **equation.params)]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _full(a: Any, shape: tuple[int, ...], variable: Any) -> Any:
    return a if jnp.shape(a) == shape else jnp.full(shape, a, variable.aval.dtype)
