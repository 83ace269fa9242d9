"""Conversion of NNX modules to functions of a pytree of parameters."""

from collections.abc import Callable
from typing import Any

from flax import nnx

__all__ = ["rebuilder"]


def rebuilder(module: nnx.Module) -> Callable[[Any], Any]:
    """Return a function from a pure dictionary of parameters to the module that has them.

    Each call creates new variables for all other state of the module, such as NNX's counters of
    random keys, because a traced function must not change variables that exist outside of it.
    """
    graph, *states = nnx.split(module, nnx.Param, ...)
    constants = nnx.to_pure_dict(states[1])
    return lambda params: nnx.merge(graph, params, constants)
