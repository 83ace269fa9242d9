"""Padding of sequences of different lengths to one array."""

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks
from seqjax.data._fields import Field, stack

__all__ = ["Truncate", "pad"]

Truncate: TypeAlias = Literal["error", "right", "left"]
"""The treatment of a sequence that is too long: raise an error, or cut its right or left end."""


def pad(
    sequences: Iterable[ArrayLike],
    *,
    length: int | None = None,
    value: float = 0,
    truncate: Truncate = "error",
) -> tuple[np.ndarray, np.ndarray]:
    """Return one array of sequences, padded on the right, and the lengths of the sequences.

        array[b, t] = sequences[b][t] if t < lengths[b] else value

    Args:
      sequences: B arrays [t_b, ...] (frames) or [t_b] (tokens), t_b ≥ 0. An empty list is a
        sequence without steps, even if the steps of other sequences are arrays.
      length: T, the number of steps of the result; by default the length of the longest sequence.
      value: the value of padding.
      truncate: what to do with a sequence longer than `length`. "error" raises an error. "right"
        removes its last steps. "left" removes its first steps.

    Returns:
      array: [B, T, ...], of the common dtype of the sequences.
      lengths: int32 [B], after truncation.

    Raises:
      TypeError: a sequence does not consist of numbers, or `value` is not a number.
      ValueError: there are no sequences; their steps differ in shape; a sequence is longer than
        `length` and `truncate` is "error"; or the dtype of the sequences cannot hold `value`.

    Example:
      >>> array, lengths = pad([[1, 2, 3], [], [4]])
      >>> print(array)
      [[1 2 3]
       [0 0 0]
       [4 0 0]]
      >>> print(lengths)
      [3 0 1]
    """
    if truncate not in get_args(Truncate):
        raise ValueError(f"truncate: expected one of {get_args(Truncate)}, got {truncate!r}")
    field = Field("sequences", list(sequences) if isinstance(sequences, Iterator) else sequences)
    if not len(field):
        raise ValueError("sequences: expected at least one, got none")
    lengths, spec = field.lengths(), field.spec(over_time=True)
    longest = int(lengths.max())
    length = longest if length is None else checks.require_integer("length", length, least=0)
    if longest > length and truncate == "error":
        b = int((lengths > length).argmax())
        raise ValueError(
            f"sequences[{b}]: expected at most length={length} steps, got {lengths[b]}; "
            'pass truncate="right" or "left" to cut long sequences'
        )
    kept = np.minimum(lengths, length)
    starts = lengths - kept if truncate == "left" else np.zeros_like(kept)
    cut = [field[b][i : i + t] for b, (i, t) in enumerate(zip(starts, kept, strict=True))]
    return stack(cut, (len(cut), length), spec, value), kept
