"""The influence of the parameters on the state, and the rule that carries it from step to step.

Let θ be a parameter that changes unit j of the state, and let s_t[l, j] be unit j of the array l of
the state. The influence M_t[l, θ] is an approximation of d s_t[l, j] / dθ:

    M_t[l, θ] = ∂s_t[l, j] / ∂θ + Σ_m D_t[l, m, j] · M_{t-1}[m, θ]
    D_t[l, m, j] = ∂s_t[l, j] / ∂s_{t-1}[m, j]

In a diagonal cell, unit j depends on no other unit of s_{t-1}, and the rule is exact (real-time
recurrent learning). In other cells, the rule ignores the other units (SnAp-1). In both cases, each
parameter has one number per array of the state, because it changes one unit in one step.

Both derivatives need one pass each, because units do not mix: the derivative of Σ_j s_t[l, j] with
respect to θ is ∂s_t[l, j] / ∂θ, and the derivative of s_t in the direction of ones is D_t.

A complex array counts as two arrays of the state or of the parameters, its real and its imaginary
part. So all derivatives are real.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax.cells import ops
from seqjax.cells._base import Cell, compute_dtype, widened
from seqjax.cells.stepping import Now, advance, joined
from seqjax.types import Array, PyTree, Slots

__all__ = [
    "Influence", "after_step", "from_parts", "next_influence", "own_recurrence", "parameter_units",
    "through", "to_parts", "zeros",
]  # fmt: skip

Influence = tuple[tuple[Array | None, ...], ...]
"""The influence on each array of the state, of each array of p; None if `update` ignores it."""


class _Parts(NamedTuple):
    """The real and the imaginary part of a complex array."""

    real: Array
    imag: Array


def to_parts(tree: PyTree) -> PyTree:
    """Replace the complex arrays of a pytree by pairs of real arrays."""
    return jax.tree.map(lambda a: _Parts(a.real, a.imag) if jnp.iscomplexobj(a) else a, tree)


def from_parts(tree: PyTree) -> PyTree:
    """Undo `to_parts`."""

    def is_pair(node: Any) -> bool:
        return isinstance(node, _Parts)

    return jax.tree.map(lambda a: lax.complex(*a) if is_pair(a) else a, tree, is_leaf=is_pair)


def parameter_units(cell: Cell[Any, Any], p: PyTree) -> list[np.ndarray | None] | None:
    """Return `cell.parameter_units` as a list, with an entry for each array of `to_parts(p)`."""
    units = cell.parameter_units(p)
    if units is None:
        return None
    structure: Any
    leaves, structure = jax.tree.flatten(p)
    return [
        unit
        for leaf, unit in zip(leaves, structure.flatten_up_to(units), strict=True)
        for _ in range(2 if jnp.iscomplexobj(leaf) else 1)
    ]


def zeros(cell: Cell[Any, Any], p: PyTree, state: PyTree) -> Influence:
    """Return an influence of zeros, float32 or wider. p and the state may be shapes."""
    rows = jax.tree.leaves(jax.eval_shape(to_parts, state))
    columns = jax.tree.leaves(jax.eval_shape(to_parts, p))
    units = parameter_units(cell, p) or []

    def one(row: Any, column: Any) -> Array:
        shape = (*row.shape[:-1], *column.shape)  # the batch axes, and the axes of the parameters
        return jnp.zeros(shape, ops.accumulator_dtype(row.dtype))

    return tuple(
        tuple(None if u is None else one(row, c) for c, u in zip(columns, units, strict=True))
        for row in rows
    )


def own_recurrence(cell: Cell[Any, Any], p: PyTree, dtype: Any) -> Slots | None:
    """Return the derivatives of the slots of `recur` with respect to the same unit, `[H]` each.

    They are the diagonals of the recurrent weights. For a diagonal cell, which has no other
    recurrent weights, the result is None.

    Args:
      cell: the cell.
      p: the parameters as `to_parts(prepare(params))`.
      dtype: the dtype of the inputs.
    """
    p = lax.stop_gradient(from_parts(p))
    r = jax.eval_shape(lambda: cell.recurrent_input(widened(cell.initial_state((), dtype))))
    if cell.diagonal or r is None:
        return None
    matrix = cell.recurrent_matrix(p)
    if matrix is None:
        slots = cell.recur(p, jnp.eye(r.shape[-1], dtype=r.dtype))  # `recur` is linear in r
        return tuple(None if q is None else jnp.diagonal(q) for q in slots)
    blocks = iter(ops.split(matrix, matrix.shape[1] // matrix.shape[0]))
    shapes = jax.eval_shape(cell.recur, p, r)
    return tuple(None if q is None else jnp.diagonal(next(blocks)) for q in shapes)


def next_influence(
    cell: Cell[Any, Any],
    p: PyTree,
    own: Slots | None,
    x: PyTree,
    state: PyTree,
    influence: Any,
) -> Influence:
    """Return the influence after a step of one sequence.

    Args:
      cell: the cell.
      p: the parameters as `to_parts(prepare(params))`.
      own: the result of `own_recurrence`.
      x: the input of the step, without batch axes.
      state: the state before the step, without batch axes.
      influence: the influence before the step, without batch axes.
    """
    units: Any = parameter_units(cell, from_parts(p))
    leaves, structure = jax.tree.flatten(p)
    tracked = [k for k, unit in enumerate(units) if unit is not None]

    def of_parameters(some: list[Array]) -> list[Array]:
        merged = list(leaves)
        for k, leaf in zip(tracked, some, strict=True):
            merged[k] = leaf
        return after_step(cell, jax.tree.unflatten(structure, merged), x, state)

    old, state_structure = jax.tree.flatten(to_parts(state))

    def of_units(arrays: list[Array]) -> list[Array]:
        before = from_parts(jax.tree.unflatten(state_structure, arrays))
        return after_step(cell, p, x, before, own)

    new, push = jax.linearize(of_units, old)
    d = [push(one_hot) for one_hot in _directions(old)]  # d[m][l] is D_t[l, m]
    _, pull = jax.vjp(of_parameters, [leaves[k] for k in tracked])
    found = []
    for l, one_hot in enumerate(_directions(new)):
        row: list[Any] = [None] * len(leaves)
        (immediate,) = pull(one_hot)
        for k, at_once in zip(tracked, immediate, strict=True):
            terms = [at_once] + [
                _by_parameter(d[m][l], units[k], at_once.ndim) * past[k]
                for m, past in enumerate(influence)
            ]
            row[k] = sum(term.astype(influence[l][k].dtype) for term in terms)
        found.append(tuple(row))
    return tuple(found)


def after_step(
    cell: Cell[Any, Any], p: PyTree, x: PyTree, state: PyTree, own: Slots | None = None
) -> list[Array]:
    """Return the real arrays of the state after a step. They are not rounded.

    If `own` is given, the values are the same, but in the derivative with respect to the state each
    unit depends only on the same unit, by the recurrent weights `own`.
    """
    p = from_parts(p)
    now = Now(cell.project(p, x))
    gates = None
    if own is not None:
        r: Any = cell.recurrent_input(cell.arrive(p, now.projected, widened(state)))
        q = cell.recur(p, lax.stop_gradient(r))
        moved = r - lax.stop_gradient(r)  # zero, with the derivative of r
        q = tuple(
            None if a is None or w is None else a + ops.scaled(w, moved)
            for a, w in zip(q, own, strict=True)
        )
        gates = joined(cell, now.projected, q)
    ran = advance(
        cell, p, now, state, output_dtype=compute_dtype(x), gates=gates, with_output=False
    )
    return list(jax.tree.leaves(to_parts(ran.reached)))


def through(d_state: Sequence[Array], influence: Influence, units: Sequence[Any]) -> list[Any]:
    """Return the gradient of each array of p, or None, for the gradient of the state.

    The gradient of the loss with respect to a parameter is Σ_l ∂loss/∂s[l, j] · M[l, θ], summed
    over the batch.

    Args:
      d_state: the gradient with respect to each array of the state, `[..., H]`.
      influence: the influence on each array of the state.
      units: the result of `parameter_units`.
    """
    total: list[Any] = [None] * len(units)
    for d, row in zip(d_state, influence, strict=True):
        for k, (unit, m) in enumerate(zip(units, row, strict=True)):
            if m is not None:
                lead = d.ndim - 1
                terms = _by_parameter(d, unit, m.ndim - lead).astype(m.dtype) * m
                term = terms.sum(axis=tuple(range(lead)))
                total[k] = term if total[k] is None else total[k] + term
    return total


def _by_parameter(values: Array, unit: np.ndarray, ndim: int) -> Array:
    """Pick the value of each parameter's unit from `values [..., H]`.

    The result has the batch axes and then `ndim` axes, which broadcast to those of the parameters.
    """
    picked = values[..., unit]
    return picked.reshape(*values.shape[:-1], *[1] * (ndim - unit.ndim), *unit.shape)


def _directions(arrays: Sequence[Array]) -> list[list[Array]]:
    """Return for each array a list of arrays, in which this array is ones and the others zeros."""
    return [
        [jnp.ones_like(a) if n == m else jnp.zeros_like(a) for n, a in enumerate(arrays)]
        for m in range(len(arrays))
    ]
