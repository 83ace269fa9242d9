"""NNX modules as functions of their parameters, which a call then handles as plain arrays."""

from collections.abc import Callable
from typing import Any

from flax import nnx

__all__ = ["rebuilder"]


def rebuilder(module: nnx.Module) -> Callable[[Any], Any]:
    """A function from a pure dictionary of parameters to the module that has them.

    Everything else in the module, such as NNX's counters of random keys, becomes new variables in
    each call, since NNX does not let a trace change variables from outside.
    """
    graph, *states = nnx.split(module, nnx.Param, ...)
    constants = nnx.to_pure_dict(states[1])
    return lambda params: nnx.merge(graph, params, constants)
