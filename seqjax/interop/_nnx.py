"""Conversion of the configuration of Flax NNX modules to options of our layers."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax.cells.ops import ACTIVATIONS
from seqjax.interop._layers import agreed
from seqjax.interop._trees import SIDES

__all__ = ["configuration"]

_CELLS = (nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell)
# Functions are not recognised by their names, since a user's function may have the name of a
# standard one.
_FUNCTIONS: tuple[tuple[Any, str], ...] = (
    *((function, name) for name, function in ACTIVATIONS.items()),
    *((function, "tanh") for function in (jax.nn.tanh, jax.lax.tanh)),
    (jax.lax.logistic, "sigmoid"),
    (jax.nn.identity, "identity"),
)
_MERGES: tuple[tuple[Any, str], ...] = (
    (nnx.Bidirectional.merge_fn, "concat"),
    *((function, "sum") for function in (operator.add, jnp.add)),
    *((function, "mul") for function in (operator.mul, jnp.multiply)),
)


def configuration(module: Any, *, backward: bool = False) -> dict[str, Any]:
    """Return the options with which our layer computes the same as an NNX module.

    The options include `time_major`.

    Args:
      module: a cell, an `RNN`, a `Bidirectional`, or a module whose parts have the same names as
        those of an `RNN` or `Bidirectional`.
      backward: whether the module is the backward direction of a pair of modules.

    Raises:
      ValueError: our layers cannot compute the same as the module.
    """
    sides = [getattr(module, side, None) for side in SIDES]
    if None not in sides:  # the directions need no check, since `Bidirectional` sets them
        return agreed([_cell_of(side) for side in sides]) | _both(module)
    if isinstance(module, nnx.RNN) and module.reverse and not (backward and module.keep_order):
        raise ValueError(
            "source: expected an RNN with reverse=False, or the backward RNN of a pair with "
            f"keep_order=True, got reverse=True, keep_order={module.keep_order}"
        )
    layout = {"time_major": module.time_major} if isinstance(module, nnx.RNN) else {}
    return _cell_of(module) | layout


def _cell_of(module: Any) -> dict[str, Any]:
    """Return the options that the cell of one direction specifies."""
    if isinstance(module, nnx.RNNCellBase):
        return _cell(module)
    cell = getattr(module, "cell", None)
    return {} if cell is None else _cell_of(cell)


def _both(module: Any) -> dict[str, Any]:
    """Return the options that a `Bidirectional` module specifies."""
    if not isinstance(module, nnx.Bidirectional):
        return {}
    modes = [mode for function, mode in _MERGES if module.merge_fn is function]
    if not modes:
        raise ValueError(
            "source: expected merge_fn to be the default, or an add or multiply of jax.numpy or "
            f"operator, got {module.merge_fn}; pass nnx.state(module) and the merge_mode= you need"
        )
    return {"merge_mode": modes[0], "time_major": module.time_major}


def _cell(cell: Any) -> dict[str, Any]:
    """Return the options that a cell specifies."""
    if type(cell) not in _CELLS:
        names = ", ".join(known.__name__ for known in _CELLS)
        raise ValueError(f"source: expected one of {names}, got {type(cell).__name__}")
    if getattr(cell, "carry_init", None) not in (None, nnx.initializers.zeros_init()):
        raise ValueError(f"source: expected carry_init to be zeros, got {cell.carry_init}")
    if isinstance(cell, nnx.SimpleCell):
        if cell.residual:
            raise ValueError("source: expected a SimpleCell without residual, got one with it")
        return {"activation": _name_of(cell.activation_fn) or cell.activation_fn}
    for attribute, name in (("gate_fn", "sigmoid"), ("activation_fn", "tanh")):
        function = getattr(cell, attribute, None)
        if function is not None and _name_of(function) != name:
            raise ValueError(f"source: expected {attribute} to be {name}, got {function}")
    return {}


def _name_of(function: Any) -> str | None:
    """Return the name of our activation that is this function, or None."""
    return next((name for known, name in _FUNCTIONS if function is known), None)
