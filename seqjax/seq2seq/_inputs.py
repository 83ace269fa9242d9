"""Checks, which run on the host, of the sources, targets and tokens that users pass.

Under tracing the values of tokens are unknown, so no error can be raised. A token outside the
vocabulary then has an embedding of NaN, and all results that depend on this embedding are NaN.
Negative tokens, which plain indexing would count from the end, are also outside the vocabulary.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from seqjax import checks
from seqjax.types import Array

__all__ = [
    "frames",
    "listed",
    "look_up",
    "numbers",
    "require_token",
    "token_ids",
    "without_padding",
]


def listed(name: str, values: Any, kind: str = "arrays") -> list[Any]:
    """Return the entries of a list, an array or a column of a table, in their order.

    Raises:
      TypeError: if `values` is text, bytes, a mapping, a set or a table, or is not iterable.

    Example:
      >>> listed("sources", np.array([[1, 2], [3, 4]]))
      [array([1, 2]), array([3, 4])]
    """
    unordered = isinstance(values, (str, bytes, Mapping, set, frozenset))
    table = hasattr(values, "columns")
    if unordered or table or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        hint = "; pass one of its columns" if table else ""
        came = type(values).__name__ if table else checks.brief(values)
        raise TypeError(f"{name}: expected a list of {kind}, got {came}{hint}")
    return list(values)


def token_ids(name: str, values: Any, high: int | None = None) -> np.ndarray:
    """Return token ids as int32 `[s]`.

    Args:
      name: the name of the argument, for error messages.
      values: integers `[s]`; an empty list is allowed.
      high: the greatest allowed id; None if the size of the vocabulary is unknown.

    Raises:
      TypeError: if the values are not integers.
      ValueError: if the values do not have one axis, or an id is below 0 or above `high`.

    Example:
      >>> token_ids("sources[0]", [3, 6], 8)
      array([3, 6], dtype=int32)
    """
    array = _array(name, values, "integers [s]")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers [s], got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name}: expected integers [s], got shape {array.shape}")
    known = high is not None
    limit = high if high is not None else np.iinfo(np.int32).max
    wrong = (array < 0) | (array > limit)
    if array.size and wrong.any():
        what = f"token ids in [0, {limit}]" if known else "non-negative int32 token ids"
        raise ValueError(f"{name}: expected {what}, got {array[wrong][0]}")
    return array.astype(np.int32)


def frames(name: str, values: Any, features: int) -> np.ndarray:
    """Return finite floats `[s, features]`.

    Raises:
      TypeError: if the values are not floating-point numbers.
      ValueError: if the values do not have the shape `[s, features]`, contain NaN or infinity, or
        do not fit into the dtype to which JAX converts them.

    Example:
      >>> frames("sources[0]", [[0.5, 1.0]], 2).shape
      (1, 2)
    """
    array = _array(name, values, f"floats [s, {features}]")
    if array.size == 0 and array.ndim == 1:
        array = np.zeros((0, features), np.float32)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: expected floats [s, {features}], got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != features:
        raise ValueError(f"{name}: expected floats [s, {features}], got shape {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        raise ValueError(f"{name}: expected finite numbers, got {array[~finite][0]}")
    return _narrowed(name, array, f"floats [s, {features}]")


def numbers(name: str, values: Any) -> np.ndarray:
    """Return an array of numbers in the dtype to which JAX converts them.

    Raises:
      TypeError: if the values are not numbers.
      ValueError: if a number does not fit into the dtype to which JAX converts it.

    Example:
      >>> numbers("sources[0]", [3, 6]).dtype
      dtype('int32')
    """
    array = _array(name, values, "an array of numbers")
    if array.size == 0 and array.ndim == 1:
        return array.astype(np.int32)  # NumPy converts an empty list to floats
    return _narrowed(name, array, "an array of numbers")


def _narrowed(name: str, array: np.ndarray, expected: str) -> np.ndarray:
    """Return an array in the dtype to which JAX converts it, or raise if a number does not fit."""
    return checks.require_cast(name, array, jax.dtypes.canonicalize_dtype(array.dtype), expected)


def require_token(name: str, value: Any, vocabulary: int | None) -> int:
    """Return a token as an int. `vocabulary` is the number of tokens, or None if it is unknown.

    Raises:
      TypeError: if the value is not an integer.
      ValueError: if the token is outside the vocabulary.

    Example:
      >>> require_token("begin", np.int64(2), 9)
      2
    """
    token = checks.require_integer(name, value, least=0)
    if vocabulary is not None and token >= vocabulary:
        raise ValueError(f"{name}: expected a token from 0 to {vocabulary - 1}, got {token}")
    return token


def look_up(embedding: nnx.Embed, tokens: Array) -> Array:
    """Return the embeddings of tokens (int32 or wider), NaN for tokens outside the vocabulary.

    Example:
      >>> embedding = nnx.Embed(3, 2, rngs=nnx.Rngs(0))
      >>> jnp.isnan(look_up(embedding, jnp.array([-1, 2, 3]))).any(-1).tolist()
      [True, False, True]
    """
    return embedding(jnp.where(tokens < 0, embedding.num_embeddings, tokens))


def without_padding(name: str, tokens: Array) -> Array:
    """Return tokens `[B, T]` with the negative numbers at the end of each row replaced by 0.

    Raises:
      ValueError: if a negative number precedes a token (not checked under tracing).

    Example:
      >>> without_padding("tokens", jnp.array([[2, 5, -1], [2, -1, -1]])).tolist()
      [[2, 5, 0], [2, 0, 0]]
    """
    padding = lax.cummin((tokens < 0).astype(jnp.int32), axis=1, reverse=True) > 0
    misplaced = (tokens < 0) & ~padding
    if not checks.is_traced(misplaced) and bool(misplaced.any()):
        raise ValueError(
            f"{name}: expected negative numbers only as padding after the tokens, "
            f"got {int(tokens[misplaced][0])} before a token"
        )
    return jnp.where(padding, 0, tokens)


def _array(name: str, values: Any, expected: str) -> np.ndarray:
    """Return an array of numbers."""
    checks.require_unmasked(name, values)
    try:
        array = np.asarray(values)
        if array.dtype == object:  # such as a column of numbers in a table
            array = np.asarray(array.tolist())
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: expected {expected}, got {checks.brief(values)}") from None
    if array.dtype.kind in "OSUMmV" and not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; convert bytes to numbers with list(…)" if isinstance(values, bytes) else ""
        raise TypeError(f"{name}: expected {expected}, got {checks.brief(values)}{hint}")
    return array
