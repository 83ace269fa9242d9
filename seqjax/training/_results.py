"""Checks on what a user's loss or metric function returned; they run while it is traced."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def kind(value: Any) -> str:
    """Return the kind of a value, for messages: `float32[3]`, `(float32[], list)`, `NoneType`."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(kind, value)) + ")"
    return str(jax.typeof(value)) if isinstance(value, jax.Array) else type(value).__name__


def require_scalars(function: str, metrics: Mapping[str, Any]) -> None:
    """Raises unless each metric is a scalar or a `Mean` of scalars."""
    for name, value in metrics.items():
        for leaf in jax.tree.leaves(value):
            if jnp.shape(leaf) != ():
                raise ValueError(
                    f"{function}: expected a scalar for {name!r}, got shape {jnp.shape(leaf)}"
                )
