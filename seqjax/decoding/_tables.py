"""The tables of language models as arrays that any program can read."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.types import Array

__all__ = ["table"]


def table(values: Any, dtype: Any = None) -> Array:
    """Return an array with values, also in a function that JAX traces.

    There, `jnp.asarray` would return a tracer, which no other program can read.

    Example:
      >>> @jax.jit
      ... def traced():
      ...     return len(set(table([1, 2, 1], jnp.int32).tolist()))
      >>> traced().item()
      2
    """
    with jax.ensure_compile_time_eval():
        return jnp.asarray(values, dtype)
