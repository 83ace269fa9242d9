"""The state of online learning: the state of a network, and the influence of its parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax._arguments import check_cell, param_specs, same_structure
from seqjax.cells._base import Cell, prepared
from seqjax.online._influence import Influence, parameter_units, zeros
from seqjax.types import PyTree, Shape

__all__ = ["OnlineState", "checked_state", "initial_state", "shapes_of"]

METHODS = ("exact", "snap1")


class OnlineState(NamedTuple):
    """The state that `seqjax.online` carries from step to step.

    Attributes:
      state: the state of the cell.
      influence: for each array of the state, the influence of each array of parameters, `[..., I,
        G*H]` for example. A complex array counts as two real arrays. The parameters are those that
        `cell.prepare` returns. For parameters that only the output reads, the entry is None.
    """

    state: PyTree
    influence: Influence


def initial_state(
    cell: Cell[Any, Any],
    batch_shape: int | Shape = (),
    dtype: Any = jnp.float32,
    *,
    method: str = "exact",
) -> OnlineState:
    """Return the state before the first step: the initial state of the cell, and no influence.

    The influence has as many numbers as the parameters of the recurrence, times the number of
    arrays in the state (2 for an LSTM, whose state is h and c), times the size of the batch.

    Args:
      cell: the cell.
      batch_shape: the sizes of the batch axes.
      dtype: the dtype of the inputs. The influence is float32 or wider.
      method: "exact" or "snap1". "exact" is real-time recurrent learning. It needs a diagonal cell,
        in which each unit depends on its own previous state only. "snap1" also runs cells whose
        units read each other's states. The gradient is then an approximation, which ignores that
        a parameter of one unit changes the other units at later steps. For diagonal cells, the two
        methods are the same.

    Raises:
      TypeError: `cell` is not a cell, or `dtype` is not floating-point.
      ValueError: `method` is not known or is "exact" for a cell that is not diagonal, or the cell
        does not say which units its parameters change (see `Cell.parameter_units`).

    References:
      Williams, Zipser (1989), A learning algorithm for continually running fully recurrent neural
      networks; Mozer (1989), A focused backpropagation algorithm for temporal pattern recognition
      (diagonal networks); Menick, Elsen, Evci, Osindero, Simonyan, Graves (2021), A practical
      sparse approximation for real time recurrent learning, section 3.

    Example:
      >>> import seqjax
      >>> state = initial_state(seqjax.cells.MinGRU(3, 5), (2,))
      >>> state.state.shape, [m.shape for m in state.influence[0]]
      ((2, 5), [(2, 3, 10), (2, 10)])
      >>> initial_state(seqjax.cells.GRU(3, 5))
      Traceback (most recent call last):
      ValueError: method: expected 'snap1' for GRU, whose units read the states of other units, ...
    """
    check_cell(cell)
    checks.require_name("method", method, METHODS)
    dtype = checks.require_floating_dtype("dtype", dtype)
    p = jax.eval_shape(lambda params: prepared(cell, params, dtype), param_specs(cell))
    if parameter_units(cell, p) is None:
        raise ValueError(
            f"cell: expected a cell whose parameters change one unit of the state each, got "
            f"{cell}; use backpropagation through time, seqjax.unroll"
        )
    if method == "exact" and not cell.diagonal:
        raise ValueError(
            f"method: expected 'snap1' for {type(cell).__name__}, whose units read the states of "
            f"other units, got 'exact'; 'snap1' is an approximation, and exact online gradients "
            "need a diagonal cell such as MinGRU or LRU"
        )
    state = cell.initial_state(checks.require_shape("batch_shape", batch_shape), dtype)
    return OnlineState(state, zeros(cell, p, state))


def shapes_of(cell: Cell[Any, Any], batch_shape: Shape, dtype: Any) -> OnlineState:
    """Return the shapes and dtypes of `initial_state`."""
    shapes: OnlineState = jax.eval_shape(
        lambda: initial_state(cell, batch_shape, dtype, method="snap1")
    )
    return shapes


def checked_state(cell: Cell[Any, Any], state: Any, batch_shape: Shape, dtype: Any) -> OnlineState:
    """Return the state of a call, or raise if it does not fit the cell and the batch shape."""
    expected = shapes_of(cell, batch_shape, dtype)
    if not isinstance(state, OnlineState) or not same_structure(state, expected):
        raise TypeError(
            f"state: expected the result of seqjax.online.initial_state for {type(cell).__name__}, "
            f"got {checks.brief(state)}"
        )
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if leaf.shape != spec.shape:
            raise ValueError(
                f"state: expected an array of {spec.shape} for the batch shape {batch_shape}, got "
                f"{leaf.shape}"
            )
    return state
