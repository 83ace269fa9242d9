"""Checks on the host of the sources, targets and tokens that users pass.

Under tracing the values of tokens are not known, so no error can be raised. There a token outside
the vocabulary has an embedding of NaN. A negative token, which plain indexing would count from the
end, has it, too. All results that depend on such a token are NaN.
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
      TypeError: text, bytes, a mapping, a set, a whole table, or nothing to iterate over.

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
      name: of the argument.
      values: integers `[s]`; an empty list is allowed.
      high: the greatest id; None if it is not known.

    Raises:
      TypeError: not integers.
      ValueError: not one axis; an id below 0 or above `high`.

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
        what = f"token ids in [0, {limit}]" if known else "int32 tokens from 0 on"
        raise ValueError(f"{name}: expected {what}, got {array[wrong][0]}")
    return array.astype(np.int32)


def frames(name: str, values: Any, features: int) -> np.ndarray:
    """Return finite floats `[s, features]`.

    Raises:
      TypeError: not floating-point numbers.
      ValueError: another shape; NaN, infinite numbers, or some beyond the dtype that JAX has for
        them.

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
    """Return an array of any numbers in the dtype that JAX has for them.

    Raises:
      TypeError: not numbers.
      ValueError: a number that the dtype cannot hold.

    Example:
      >>> numbers("sources[0]", [3, 6]).dtype
      dtype('int32')
    """
    array = _array(name, values, "an array of numbers")
    if array.size == 0 and array.ndim == 1:
        return array.astype(np.int32)  # NumPy makes floats of an empty list
    return _narrowed(name, array, "an array of numbers")


def _narrowed(name: str, array: np.ndarray, expected: str) -> np.ndarray:
    """Return an array in the dtype that JAX has for it, or raise if a number does not fit."""
    return checks.require_cast(name, array, jax.dtypes.canonicalize_dtype(array.dtype), expected)


def require_token(name: str, value: Any, vocabulary: int | None) -> int:
    """Return one token of a vocabulary as an int.

    Raises:
      TypeError: not an integer.
      ValueError: outside the vocabulary, whose size is not known if it is None.

    Example:
      >>> require_token("begin", np.int64(2), 9)
      2
    """
    token = checks.require_integer(name, value, least=0)
    if vocabulary is not None and token >= vocabulary:
        raise ValueError(f"{name}: expected a token from 0 to {vocabulary - 1}, got {token}")
    return token


def look_up(embedding: nnx.Embed, tokens: Array) -> Array:
    """Return the embeddings of tokens of at least 32 bits, NaN for those outside the vocabulary.

    Example:
      >>> embedding = nnx.Embed(3, 2, rngs=nnx.Rngs(0))
      >>> jnp.isnan(look_up(embedding, jnp.array([-1, 2, 3]))).any(-1).tolist()
      [True, False, True]
    """
    return embedding(jnp.where(tokens < 0, embedding.num_embeddings, tokens))


def without_padding(name: str, tokens: Array) -> Array:
    """Return tokens `[B, T]` with negative numbers at the end of rows replaced by 0.

    Raises:
      ValueError: outside tracing, a negative number before a token.

    Example:
      >>> without_padding("tokens", jnp.array([[2, 5, -1], [2, -1, -1]])).tolist()
      [[2, 5, 0], [2, 0, 0]]
    """
    padding = lax.cummin((tokens < 0).astype(jnp.int32), axis=1, reverse=True) > 0
    misplaced = (tokens < 0) & ~padding
    if not checks.is_traced(misplaced) and bool(misplaced.any()):
        raise ValueError(
            f"{name}: expected negative numbers only as padding behind the tokens, "
            f"got {int(tokens[misplaced][0])} before a token"
        )
    return jnp.where(padding, 0, tokens)


def _array(name: str, values: Any, expected: str) -> np.ndarray:
    """Return an array of numbers."""
    checks.require_unmasked(name, values)
    try:
        array = np.asarray(values)
        if array.dtype == object:  # such as a table's column of numbers
            array = np.asarray(array.tolist())
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: expected {expected}, got {checks.brief(values)}") from None
    if array.dtype.kind in "OSUMmV" and not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; list(…) makes numbers of bytes" if isinstance(values, bytes) else ""
        raise TypeError(f"{name}: expected {expected}, got {checks.brief(values)}{hint}")
    return array
