"""The dtypes of weights: the widest of a source's, and casts that must not overflow."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks


def widest(arrays: Iterable[Any]) -> Any:
    """The dtype that holds the numbers of all arrays, as JAX has it; None without floats."""
    dtypes = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)]
    if not dtypes:
        return None
    return jax.dtypes.canonicalize_dtype(functools.reduce(jnp.promote_types, dtypes))


def widened(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays in float64, in which sums of biases do not overflow; traced ones in one dtype."""
    traced = checks.is_traced(dict(arrays))
    dtype = widest(arrays.values()) if traced else np.float64
    xp: Any = jnp if traced else np
    return {
        key: xp.asarray(array, dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
        for key, array in arrays.items()
    }


def overflowing(array: Any, dtype: Any) -> Any:
    """The first finite number of an array that a dtype does not hold; None if there is none."""
    if checks.is_traced(array):
        return None
    array = np.asarray(array)
    with np.errstate(over="ignore"):
        wrong = np.isfinite(array) & ~np.isfinite(array.astype(dtype))
    return array[wrong][0] if wrong.any() else None


def require_fitting(name: str, array: Any, dtype: Any) -> None:
    """Raises on a finite number that would become infinite in a dtype."""
    found = overflowing(array, dtype)
    if found is not None:
        raise ValueError(f"{name}: expected numbers that fit into {jnp.dtype(dtype)}, got {found}")
