"""End tokens, each of which ends an output."""

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from seqjax import checks
from seqjax.types import Array

__all__ = ["end_tokens", "is_end"]


def end_tokens(end: Any, vocabulary: int | None = None) -> tuple[int, ...]:
    """Return the end tokens without duplicates, in the given order or, for a set, ascending.

    Args:
      end: an integer, or a sequence, set or array of integers.
      vocabulary: number of tokens, or None if the number is unknown.

    Raises:
      TypeError: if a token is not an integer.
      ValueError: if there is no end token, or an end token is outside the vocabulary.

    Example:
      >>> end_tokens(3), end_tokens({5, 3}), end_tokens([5, 3, 5])
      ((3,), (3, 5), (5, 3))
    """
    single = isinstance(end, (str, bytes, Mapping)) or not isinstance(end, Iterable)
    values = [end] if single or getattr(end, "ndim", 1) == 0 else list(end)
    tokens = [checks.require_integer("end", value, least=0) for value in values]
    if not tokens:
        raise ValueError(f"end: expected at least one token, got {checks.brief(end)}")
    if isinstance(end, (set, frozenset)):
        tokens.sort()
    for token in tokens:
        if vocabulary is not None and token >= vocabulary:
            raise ValueError(
                f"end: expected a token from 0 to {vocabulary - 1} for a vocabulary of "
                f"{vocabulary} tokens, got {token}"
            )
    return tuple(dict.fromkeys(tokens))


def is_end(tokens: Array, ends: tuple[int, ...]) -> Array:
    """Return, for tokens of any shape, whether each is an end token."""
    return functools.reduce(operator.or_, [tokens == end for end in ends])
