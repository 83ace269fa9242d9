"""Checks of arrays: dtype, range, masked entries, and whether another dtype can hold the values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax._brief import brief, is_unmasked

__all__ = [
    "as_array",
    "is_traced",
    "require_array",
    "require_cast",
    "require_fit",
    "require_ids",
    "require_range",
    "require_unmasked",
    "unfit",
]


def as_array(value: Any) -> jax.Array:
    """Return `jnp.asarray(value)`, without compiling a program for a NumPy array.

    Outside of tracing, `jnp.asarray` compiles a program that copies the array, one for each shape,
    unless the dtype is given.

    Example:
      >>> as_array(np.ones(2, np.float32)).dtype
      dtype('float32')
    """
    plain = type(value) is np.ndarray and value.dtype.kind in "biufc"
    if plain and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    dtype = value.dtype if plain else None
    return jnp.asarray(value, dtype if _stays(dtype) else None)


def _stays(dtype: Any) -> bool:
    """Return True if JAX does not narrow the dtype."""
    return dtype is not None and jax.dtypes.canonicalize_dtype(dtype) == dtype


def require_array(name: str, value: Any, kind: Any, expected: str) -> jax.Array:
    """Return `value` as a JAX array, or raise if it is not an array or has a wrong dtype.

    Args:
      name: the name of the argument.
      value: an array, or a value that `jnp.asarray` converts to an array.
      kind: a scalar type such as `jnp.floating`.
      expected: a description of the kind for the error message.

    Raises:
      TypeError: `value` is not an array, or its dtype is of another kind.
      ValueError: an integer does not fit into the dtype that JAX uses for it.

    Example:
      >>> require_array("mask", [True, False], jnp.bool_, "bool").shape
      (2,)
    """
    try:
        array = value if isinstance(value, jax.Array) else as_array(value)
    except OverflowError:
        raise ValueError(
            f"{name}: expected {expected} that fit into 32 bits, got {brief(value)}"
        ) from None
    except (TypeError, ValueError):
        got = f"dtype {value.dtype}" if is_unmasked(value) else brief(value)
        raise TypeError(f"{name}: expected {expected}, got {got}") from None
    given = getattr(value, "dtype", array.dtype)  # before JAX narrowed it
    if not jnp.issubdtype(array.dtype, kind):
        raise TypeError(f"{name}: expected {expected}, got dtype {given}")
    if isinstance(value, (np.ndarray, np.generic)) or _has_numpy(value):
        values = np.asarray(value)
        if values.dtype.kind in "iu":
            require_fit(name, values, array.dtype, expected)
    return array


def require_ids(name: str, value: Any, expected: str) -> jax.Array:
    """Return ids, such as tokens or labels, as an array of int32 or wider.

    A narrower dtype might not be able to hold the number of classes: in uint8, 256 becomes 0.

    Args:
      name: the name of the argument.
      value: as for `require_array`.
      expected: a description of the integers for the error message.

    Raises:
      TypeError, ValueError: as `require_array`.

    Example:
      >>> require_ids("tokens", np.array([255], np.uint8), "integers [T]").dtype.name
      'int32'
    """
    array = require_array(name, value, jnp.integer, expected)
    return array.astype(jnp.int32) if array.dtype.itemsize < 4 else array


def require_unmasked(name: str, value: Any) -> None:
    """Raise an error if an array, or an array in a list, has masked entries (`numpy.ma`).

    Raises:
      ValueError: an array has masked entries.

    Example:
      >>> require_unmasked("lengths", np.ma.array([1, 2], mask=[False, True]))
      Traceback (most recent call last):
      ValueError: lengths: expected no masked entries; fill them with .filled(value)
    """
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(np.ma.is_masked(part) for part in jax.tree.leaves(parts)):
        raise ValueError(f"{name}: expected no masked entries; fill them with .filled(value)")


def _has_numpy(value: Any) -> bool:
    """Return whether a list contains NumPy arrays, whose integers JAX narrows without an error."""
    if not isinstance(value, (list, tuple)):
        return False
    return any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(value))


def unfit(values: np.ndarray, dtype: Any) -> Any:
    """Return the first number that another dtype cannot hold, or None if there is none.

    An integer does not fit if it would wrap around, and a finite number does not fit if it would
    become infinite. A number that is only rounded fits.

    Example:
      >>> unfit(np.array([1, 2**40]), np.int32), unfit(np.array([1e39, np.inf]), np.float32)
      (np.int64(1099511627776), np.float64(1e+39))
    """
    dtype = np.dtype(dtype)
    if values.dtype == dtype or not values.size or values.dtype.kind == "b":
        return None
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = limits.min, limits.max
        if low <= values.min() and values.max() <= high:
            return None
        wrong = (values < low) | (values > high)
    elif values.dtype.kind in "iu" and float(jnp.finfo(dtype).max) > np.iinfo(values.dtype).max:
        return None
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            wrong = ~np.isfinite(values.astype(dtype))  # NaN in dtypes without infinity
        if wrong.any():
            wrong &= np.isfinite(values)
    return values[wrong][0] if wrong.any() else None


def require_fit(name: str, values: np.ndarray, dtype: Any, expected: str) -> None:
    """Raise an error if another dtype cannot hold one of the numbers, as defined by `unfit`.

    Args:
      name: the name of the argument.
      values: an array of numbers of any shape.
      dtype: the dtype that must hold the values, of the same kind as their own dtype.
      expected: a description of the values for the error message.

    Raises:
      ValueError: a number does not fit into the dtype.

    Example:
      >>> require_fit("lengths", np.array([2**32 + 1]), np.int32, "integers")
      Traceback (most recent call last):
      ValueError: lengths: expected integers, got 4294967297, which does not fit into int32
    """
    wrong = unfit(values, dtype)
    if wrong is not None:
        raise ValueError(
            f"{name}: expected {expected}, got {wrong}, which does not fit into {np.dtype(dtype)}"
        )


def require_cast(name: str, values: np.ndarray, dtype: Any, expected: str) -> np.ndarray:
    """Return numbers in another dtype, or raise if its kind is wrong or it cannot hold a number.

    Integers may be converted to floats. Floats are not converted to integers, and numbers are not
    converted to bools.

    Args:
      name: the name of the argument.
      values: an array of any shape.
      dtype: the dtype of the result.
      expected: a description of the values for the error message.

    Raises:
      TypeError: the values are of a kind that is not converted.
      ValueError: a number does not fit into the dtype.

    Example:
      >>> require_cast("x_t", np.array([1, 2]), np.float32, "features")
      array([1., 2.], dtype=float32)
    """
    if values.dtype == dtype:
        return values
    if values.dtype.kind in "OSU":
        if np.dtype(dtype).kind in "iu" and all(type(value) is int for value in values.flat):
            require_fit(name, values, dtype, expected)  # integers beyond 64 bits
        raise TypeError(f"{name}: expected {expected}, got {brief(values.tolist())}")
    whole = values.dtype.kind in "biu" and np.dtype(dtype).kind in "iu"
    if not whole and not np.can_cast(values.dtype, dtype, "same_kind"):
        raise TypeError(f"{name}: expected {expected}, got {values.dtype}")
    require_fit(name, values, dtype, expected)
    return values.astype(dtype)


def require_range(name: str, values: Any, high: int, *, mask: Any = None) -> None:
    """Raise an error if a value at a real position is outside [0, high]. Skip traced values.

    Args:
      name: the name of the argument.
      values: numbers of any shape.
      high: the greatest allowed value.
      mask: True at real positions; None if all positions are real.

    Raises:
      ValueError: a value is out of range.

    Example:
      >>> require_range("tokens", np.array([0, 3]), 3)
      >>> require_range("tokens", np.array([0, 4]), 3)
      Traceback (most recent call last):
      ValueError: tokens: expected values in [0, 3] at real positions, got 4
    """
    if not (is_readable(values) and is_readable(mask)):
        return
    real = np.asarray(values) if mask is None else np.asarray(values)[np.asarray(mask)]
    wrong = ~((real >= 0) & (real <= high))  # also True for NaN
    if wrong.any():
        raise ValueError(
            f"{name}: expected values in [0, {high}] at real positions, got {real[wrong][0]}"
        )


def is_key(leaf: Any) -> bool:
    """Return whether an array or its specification has the dtype of typed random keys.

    Example:
      >>> is_key(jax.random.key(0)), is_key(np.ones(2)), is_key(None)
      (True, False, False)
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


def is_readable(array: Any) -> bool:
    """Return whether this process can read the values of an array.

    The result is False for a traced array, and for one that is divided among processes.

    Example:
      >>> is_readable(np.ones(3)), bool(jax.jit(lambda x: is_readable(x))(1.0))
      (True, False)
    """
    return not is_traced(array) and getattr(array, "is_fully_addressable", True)


def is_traced(*arrays: Any) -> bool:
    """Return whether any of the arrays is traced by a JAX transformation and has no value yet.

    Example:
      >>> is_traced(np.ones(3)), bool(jax.jit(lambda x: is_traced(x))(1.0))
      (False, True)
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays))
