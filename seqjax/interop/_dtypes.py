"""Functions for the dtypes of weights: the widest dtype, and casts that must not overflow."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks

__all__ = ["overflowing", "require_fitting", "widened", "widest"]


def widest(arrays: Iterable[Any]) -> Any:
    """Return the JAX dtype to which all float arrays are promoted; None if no array is float."""
    dtypes = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)]
    if not dtypes:
        return None
    return jax.dtypes.canonicalize_dtype(functools.reduce(jnp.promote_types, dtypes))


def widened(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays with float arrays converted to float64, so that sums do not overflow.

    If the arrays are traced, float arrays are instead converted to their widest dtype.
    """
    traced = checks.is_traced(dict(arrays))
    dtype = widest(arrays.values()) if traced else np.float64
    xp: Any = jnp if traced else np
    return {
        key: xp.asarray(array, dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
        for key, array in arrays.items()
    }


def overflowing(array: Any, dtype: Any) -> Any:
    """Return the first finite number of an array that does not fit into a dtype, or None."""
    return None if checks.is_traced(array) else checks.unfit(np.asarray(array), dtype)


def require_fitting(name: str, array: Any, dtype: Any) -> None:
    """Raise if a finite number of the array would become infinite in the dtype."""
    found = overflowing(array, dtype)
    if found is not None:
        raise ValueError(f"{name}: expected numbers that fit into {jnp.dtype(dtype)}, got {found}")
