"""The types that all modules share, and the letters for the sizes of axes.

All docstrings of the package use these letters:

====  =====================================================
T     time steps
B     batch; `...` stands for any number of batch axes
I     input features (`input_size`)
H     hidden features (`hidden_size`)
G     gates of a cell (4 for LSTM, 3 for GRU, 1 for Elman)
S     source positions of attention
V     vocabulary size
====  =====================================================

A name that ends with `_t` is a value at step t. A name that ends with `_tm1` is a value at step
t - 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import chex
import jax

__all__ = ["Array", "Initializer", "PRNGKey", "PyTree", "Shape", "Slots", "Unrolled"]

Array: TypeAlias = jax.Array
"""A JAX array."""
PRNGKey: TypeAlias = chex.PRNGKey
"""A random key, as `jax.random.key` returns it."""
PyTree: TypeAlias = Any
"""A JAX pytree: arrays in tuples, lists, dicts and other registered containers."""
Shape: TypeAlias = tuple[int, ...]
"""The shape of an array: the sizes of its axes."""
Slots: TypeAlias = tuple[Array | None, ...]
"""The gates of a cell before activation, in the order of the cell. See `seqjax.cells.Cell`."""
Initializer: TypeAlias = Callable[[PRNGKey, Shape, Any], Array]
"""A function `(key, shape, dtype)` that draws an array, as in `jax.nn.initializers`."""


class Unrolled(NamedTuple):
    """The result of running a sequence: the outputs of all steps and the final state.

    Attributes:
      outputs: the outputs of all steps, `[..., T, O]` (time-major: `[T, ..., O]`), which are zero
        at masked steps.
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
