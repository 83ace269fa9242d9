"""Shared types and the shape legend.

The legend holds in every docstring of the package:

====  =====================================================
T     time steps
B     batch; `...` stands for any number of batch axes
I     input features (`input_size`)
H     hidden features (`hidden_size`)
G     gates of a cell (4 for LSTM, 3 for GRU, 1 for Elman)
S     source positions of attention
V     vocabulary size
====  =====================================================

A name with `_t` is a value at step t, with `_tm1` at step t - 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import chex
import jax

__all__ = ["Array", "Initializer", "PRNGKey", "PyTree", "Shape", "Slots", "Unrolled"]

Array: TypeAlias = jax.Array
"""An array of JAX's."""
PRNGKey: TypeAlias = chex.PRNGKey
"""A random key, as from `jax.random.key`."""
PyTree: TypeAlias = Any
"""Arrays in tuples, lists, dicts and whatever else JAX knows as a tree."""
Shape: TypeAlias = tuple[int, ...]
"""Sizes of axes."""
Slots: TypeAlias = tuple[Array | None, ...]
"""The gates of a cell before they are activated, in its own order; see `seqjax.cells.Cell`."""
Initializer: TypeAlias = Callable[[PRNGKey, Shape, Any], Array]
"""Draws an array: `initializer(key, shape, dtype)`, as those of `jax.nn.initializers`."""


class Unrolled(NamedTuple):
    """The result of running a sequence: every output and the final state.

    Attributes:
      outputs: the outputs of all steps, `[..., T, O]` (`[T, ..., O]` when time-major), zero at
        masked steps.
      state: the state after the last processed step.

    Example:
      >>> import jax, jax.numpy as jnp, seqjax
      >>> cell = seqjax.cells.GRU(3, 5)
      >>> params = cell.init(jax.random.key(0))
      >>> outputs, state = seqjax.unroll(cell, params, jnp.ones([2, 7, 3]))
      >>> outputs.shape, state.shape
      ((2, 7, 5), (2, 5))
    """

    outputs: PyTree
    state: PyTree
