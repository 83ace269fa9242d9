"""Conversion of the fields of a batch to arrays. Fields may be containers of other libraries."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from seqjax import checks
from seqjax.data._containers import column, numbers
from seqjax.types import PyTree

__all__ = ["as_arrays", "require_batches"]


def as_arrays(batch: PyTree) -> PyTree:
    """Convert the fields of a batch to arrays that JAX can use without loss.

    Lists of numbers, columns of data frames and arrays of other libraries become NumPy arrays. JAX
    arrays and Python numbers are not changed.

    Raises:
      TypeError: a field does not consist of numbers.
      ValueError: a field has masked or missing entries; parts of a field differ in shape; or an
        integer does not fit into 32 bits, so JAX would truncate it.

    Example:
      >>> as_arrays({"x": np.ones(2), "lengths": [3, 4]})["lengths"]
      array([3, 4])
      >>> as_arrays({"ids": np.array([2**40])})
      Traceback (most recent call last):
      ValueError: batch['ids']: expected integers that int32 can hold, ...
    """
    if all(map(_is_ready, jax.tree.leaves(batch))):
        return batch
    return jax.tree.map_with_path(
        lambda path, leaf: _array(f"batch{jax.tree_util.keystr(path)}", leaf),
        batch,
        is_leaf=_is_list_of_numbers,
    )


def require_batches(name: str, batches: Any) -> Iterable[Any]:
    """Return `batches` if it can be an iterable of batches, or raise an error.

    Raises:
      TypeError: `batches` is one batch, or cannot be iterated over.

    Example:
      >>> require_batches("batches", {"x": np.ones(2)})
      Traceback (most recent call last):
      TypeError: batches: expected an iterable of batches, got one dict; put it in a list
    """
    if isinstance(batches, Mapping):
        kind = type(batches).__name__
        raise TypeError(
            f"{name}: expected an iterable of batches, got one {kind}; put it in a list"
        )
    readable = isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
    if not readable or isinstance(batches, str | bytes):
        raise TypeError(f"{name}: expected an iterable of batches, got {checks.brief(batches)}")
    return batches  # type: ignore[no-any-return]


def _is_ready(leaf: Any) -> bool:
    """Return whether JAX can use a leaf without conversion or loss.

    This function runs at every step, so it must be fast.
    """
    if isinstance(leaf, jax.Array):
        return True
    if type(leaf) is not np.ndarray or leaf.dtype.char not in "?bhilqBHILQefdFD":
        return False
    if leaf.dtype.itemsize < 8 or leaf.dtype.kind not in "iu":
        return True
    return checks.unfit(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype)) is None


def _array(name: str, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    array = numbers(name, leaf)
    if array.dtype.char in "gG":
        raise TypeError(f"{name}: expected a dtype that JAX supports, got {array.dtype}")
    column(name, np.atleast_1d(array))  # raises on integers that JAX would truncate
    return leaf if isinstance(leaf, bool | int | float | complex | np.generic) else array


def _is_list_of_numbers(node: Any) -> bool:
    """Return whether a node of a batch is a (nested) list of numbers, which is one field."""
    if type(node) not in (list, tuple) or not node:
        return False
    return all(
        isinstance(part, bool | int | float | complex | np.generic) or _is_list_of_numbers(part)
        for part in node
    )
