"""Checks at public boundaries: one home for how a user's mistake is reported.

Every check raises `ValueError` or `TypeError` with a message that names the argument, what was
expected and what came: `hidden_size: expected a positive integer, got 0`.
"""

import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.types import Shape

__all__ = [
    "is_traced",
    "require_dtype",
    "require_integer",
    "require_key",
    "require_name",
    "require_rate",
]


def require_integer(name: str, value: Any, *, least: int = 1) -> int:
    """Returns `value` as an int, or raises if it is not an integer of at least `least`.

    Raises:
      TypeError: not an integer.
      ValueError: below `least`.

    Example:
      >>> require_integer("hidden_size", np.int64(4))
      4
    """
    expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    try:
        integer = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        integer = None
    if integer is None:
        raise TypeError(f"{name}: expected {expected}, got {value!r} ({type(value).__name__})")
    if integer < least:
        raise ValueError(f"{name}: expected {expected}, got {integer}")
    return integer


def require_rate(name: str, value: Any) -> float:
    """Returns a dropout-like rate as a float, or raises if it is not in [0, 1).

    Raises:
      TypeError: not a real number.
      ValueError: outside [0, 1).

    Example:
      >>> require_rate("dropout", 0.5)
      0.5
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name}: expected a number in [0, 1), got {value!r}")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name}: expected a number in [0, 1), got {value}")
    return float(value)


def require_name(name: str, value: Any, known: Iterable[str]) -> str:
    """Returns `value` if it is one of the known names, or raises with the list of them.

    Raises:
      ValueError: not a known name.

    Example:
      >>> require_name("merge_mode", "sum", ["concat", "sum"])
      'sum'
    """
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}; got {value!r}")
    return value


def require_key(name: str, key: Any) -> jax.Array:
    """Returns `key` if it is a JAX random key, typed or raw, or raises.

    Raises:
      TypeError: something else, with how to make a key.

    Example:
      >>> require_key("key", jax.random.key(0)).shape
      ()
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == np.uint32 and getattr(key, "shape", ())[-1:] in ((2,), (4,))
    if not (typed or raw):
        raise TypeError(f"{name}: expected a random key such as jax.random.key(0), got {key!r}")
    return key


def require_dtype(name: str, array: Any, kind: Any, expected: str) -> None:
    """Raises unless the array's dtype is a subtype of `kind`.

    Raises:
      TypeError: another dtype, or not an array.

    Example:
      >>> require_dtype("mask", np.ones(3, bool), np.bool_, "bool")
    """
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        raise TypeError(f"{name}: expected an array of {expected}, got {type(array).__name__}")
    if not jnp.issubdtype(dtype, kind):
        raise TypeError(f"{name}: expected {expected}, got dtype {dtype}")


def is_traced(*arrays: Any) -> bool:
    """Whether any of the arrays has no value yet, being traced by a JAX transformation.

    Example:
      >>> is_traced(np.ones(3)), bool(jax.jit(lambda x: is_traced(x))(1.0))
      (False, True)
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays))


def shape_text(shape: Shape, *, lead: str = "...") -> str:
    """A shape as it stands in messages, e.g. `[..., 3]`."""
    return "[" + ", ".join([lead, *map(str, shape)] if lead else map(str, shape)) + "]"
