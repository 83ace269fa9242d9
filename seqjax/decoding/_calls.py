"""Checks of the calls of step functions: their arguments, and what they return."""

from typing import Any

import jax

from seqjax import checks
from seqjax.types import Array, PyTree

__all__ = ["checked_call", "require_pair", "require_same_state"]


def require_pair(name: str, first: str, result: Any) -> None:
    """Raise unless the function `name` returned a tuple (`first`, state).

    Raises:
      TypeError: `result` is not a tuple of two.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"{name}: expected it to return ({first}, state), got {checks.brief(result)}"
        )


def require_same_state(name: str, old: PyTree, new: PyTree) -> None:
    """Raise unless the function `name` returned a state with the structure of the given one.

    Args:
      name: the name of the function.
      old: the state that it was given, a pytree of arrays.
      new: the state that it returned, a pytree of arrays.

    Raises:
      ValueError: the structure, a shape or a dtype differs.
    """
    structures: list[Any] = [jax.tree.structure(s) for s in (old, new)]
    same = structures[0] == structures[1]
    kinds = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), s) for s in (old, new)]
    if not same or kinds[0] != kinds[1]:
        texts = [jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}", s) for s in (old, new)]
        raise ValueError(
            f"{name}: expected it to return a state like the given one, {texts[0]}, got {texts[1]}"
        )


def checked_call(tokens: Any, state: PyTree) -> tuple[Array, PyTree]:
    """Return the arguments of a language model's step as integer arrays `[N]`, or raise.

    Args:
      tokens: the previous tokens, int `[N]`.
      state: a pytree of integer arrays `[N]`.

    Raises:
      TypeError: an argument is not an integer array.
      ValueError: an argument does not have the shape `[N]`.

    Example:
      >>> checked_call(jax.numpy.array([2]), jax.numpy.array([0, 0]))
      Traceback (most recent call last):
      ValueError: state: expected integers [N] with N=1 as in tokens, got (2,)
    """
    tokens = checks.require_ids("tokens", tokens, "integers [N]")
    if tokens.ndim != 1:
        raise ValueError(f"tokens: expected integers [N], got {tokens.shape}")
    rows = tokens.shape[0]

    def checked(leaf: Any) -> Array:
        found: Array = checks.require_ids("state", leaf, "integers [N]")
        if found.shape != (rows,):
            raise ValueError(
                f"state: expected integers [N] with N={rows} as in tokens, got {found.shape}"
            )
        return found

    return tokens, jax.tree.map(checked, state)
