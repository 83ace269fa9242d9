"""The law about `diagonal` and `parameter_units`, which `seqjax.online` relies on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells._base import Cell, prepared
from seqjax.online._influence import (
    after_step,
    from_parts,
    own_recurrence,
    parameter_units,
    to_parts,
)
from seqjax.types import PyTree

__all__ = ["mixed_units"]


def mixed_units(cell: Cell[Any, Any], params: PyTree, x: PyTree, state: PyTree) -> str | None:
    """Describe how units mix although the cell says that they do not; None if they do not.

    Args:
      cell: the cell.
      params: the parameters of the cell.
      x: the input of a step, without batch axes.
      state: the state before the step, without batch axes.
    """

    def jacobians(params: PyTree, x: PyTree, state: PyTree) -> Any:
        p = prepared(cell, params, jnp.float32)
        units = parameter_units(cell, p)
        if not cell.diagonal and units is None:
            return None, [], []
        if not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(state)):
            raise TypeError(
                "Expected diagonal=False and no parameter_units, since the state has an array that "
                "is neither floating-point nor complex."
            )
        p = to_parts(p)
        own = jax.tree.map(jnp.zeros_like, own_recurrence(cell, p, jnp.float32))  # without `recur`
        parts, structure = jax.tree.flatten(to_parts(state))

        def of_state(parts: PyTree) -> PyTree:
            before = from_parts(jax.tree.unflatten(structure, parts))
            return after_step(cell, p, x, before, own)

        of_parameters = jax.jacrev(lambda p: after_step(cell, p, x, state))
        # `seqjax.online` refuses a cell without units of parameters.
        return units, jax.jacrev(of_state)(parts), [] if units is None else of_parameters(p)

    units, by_state, by_parameters = jax.device_get(jax.jit(jacobians)(params, x, state))
    for rows in by_state:
        for square in rows:
            if (np.where(np.eye(len(square)), 0, square) != 0).any():
                without = "" if cell.diagonal else " without `recur`"
                return f"A unit of the new state depends on other units of the old one{without}."
    for rows in by_parameters:
        for unit, jacobian in zip(units, jax.tree.leaves(rows), strict=True):
            own = -1 if unit is None else np.broadcast_to(unit, jacobian.shape[1:])
            rows_of = np.arange(jacobian.shape[0]).reshape(-1, *[1] * (jacobian.ndim - 1))
            if (np.where(rows_of == own, 0, jacobian) != 0).any():
                return f"A parameter of an array {jacobian.shape[1:]} changes another unit."
    return None
