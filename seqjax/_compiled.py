"""A typed `jax.jit` for the parts of functions that run after the checks of their arguments."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

__all__ = ["compiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(*static: str) -> Callable[[Function], Function]:
    """Return a decorator that makes one program of a function, and keeps the type of the function.

    Outside of `jax.jit`, JAX compiles and starts each operation by itself. A function whose
    arguments are checked first, with their values, passes arrays to a function with this decorator,
    so that a call starts a single program.

    Args:
      static: the names of arguments that are no arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> @compiled("axis")
      ... def halved(x, axis):
      ...     return x.mean(axis) / 2
      >>> halved(jnp.array([1.0, 3.0]), axis=0).item()
      1.0
    """

    def decorate(function: Function) -> Function:
        return cast(Function, jax.jit(function, static_argnames=static))

    return decorate
