"""Short descriptions of values for error messages, and a check for unmasked NumPy arrays."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

__all__ = ["brief", "is_unmasked"]


def brief(value: Any) -> str:
    """Return a short text that describes a value in messages, such as the shape of an array."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, nnx.Module):
        return type(value).__name__  # a module has too many arrays to list them
    leaves = [] if isinstance(value, Iterator) else jax.tree.leaves(value, is_leaf=_is_module)
    if leaves and all(_is_numeric(leaf) for leaf in leaves):
        if leaves[0] is value and value.shape == ():
            return f"an array of shape () and dtype {value.dtype}"
        text = repr(jax.tree.map(np.shape, value))
        return text if len(text) <= 400 else text[:397] + "..."
    if isinstance(value, np.ma.MaskedArray):
        return f"a masked array of shape {value.shape}; fill its gaps: values.filled(0)"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} ({type(value).__name__})"


def is_unmasked(value: Any) -> bool:
    """Return whether a value is a NumPy array without a mask."""
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)


def _is_numeric(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) or (is_unmasked(leaf) and leaf.dtype != object)


def _is_module(value: Any) -> bool:
    return isinstance(value, nnx.Module)
