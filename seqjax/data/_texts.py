"""Checks of texts and tokens."""

from collections.abc import Iterable
from typing import Any

from seqjax import checks
from seqjax.data._containers import entries

__all__ = ["require_text", "require_tokens", "tokens_of"]


def require_text(name: str, value: Any) -> str:
    """Return the value if it is a string, or raise an error."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, got {checks.brief(value)}{_hint(value)}")
    return value


def tokens_of(name: str, sequence: Any) -> Iterable[Any]:
    """Return the tokens of a sequence: the characters of a string, or the entries of a list.

    The caller must check that the tokens are strings. A token that occurs several times needs only
    one check.
    """
    if isinstance(sequence, str):
        return sequence
    if isinstance(sequence, bytes | bytearray) or not isinstance(sequence, Iterable):
        raise TypeError(
            f"{name}: expected a string or a list of words, got {checks.brief(sequence)}"
            f"{_hint(sequence)}"
        )
    return entries(name, sequence)


def require_tokens(name: str, tokens: Iterable[Any]) -> None:
    """Raise if one of the tokens is not a string."""
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(
                f"{name}: expected strings as tokens, got {checks.brief(token)}{_hint(token)}"
            )


def _hint(value: Any) -> str:
    """Return a hint to decode bytes, which tensorflow-datasets returns instead of strings."""
    return '; decode it first: text.decode("utf-8")' if isinstance(value, bytes | bytearray) else ""
