"""Checks of a user's loss or metric function, and of its results while it is traced."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks

__all__ = ["kind", "require_call", "require_scalars"]


def kind(value: Any) -> str:
    """Return the kind of a value, for messages: `float32[3]`, `(float32[], list)`, `NoneType`."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(kind, value)) + ")"
    return str(jax.typeof(value)) if isinstance(value, jax.Array) else type(value).__name__


def require_scalars(function: str, metrics: Mapping[str, Any]) -> None:
    """Raise if a metric is neither a scalar nor a `Mean` of scalars."""
    for name, value in metrics.items():
        for leaf in jax.tree.leaves(value):
            expected = f"a scalar for {name!r}"
            shape = checks.require_array(function, leaf, jnp.generic, expected).shape
            if shape != ():
                raise ValueError(f"{function}: expected {expected}, got shape {shape}")


def require_call(name: str, function: Any, *arguments: str) -> None:
    """Raise if the value is not a function that can be called with these arguments."""
    expected = f"a function of ({', '.join(arguments)})"
    if not callable(function):
        raise TypeError(f"{name}: expected {expected}, got {checks.brief(function)}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function in C has no signature
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{name}: expected {expected}, got one of {signature}: {error}") from None
