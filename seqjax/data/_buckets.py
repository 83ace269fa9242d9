"""Buckets: a few lengths to which sequences of many lengths are padded."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks
from seqjax.data._containers import entries, numbers

__all__ = ["bucket_boundaries"]


def bucket_boundaries(lengths: ArrayLike, num_buckets: int) -> tuple[Any, ...]:
    """Return upper lengths of buckets that hold about equally many sequences, for `batches`.

        boundary_k = the smallest length that at least k / num_buckets of the lengths do not exceed

    Args:
      lengths: int [N], or [N, G] for examples with sequences of G lengths.
      num_buckets: the intended number of buckets. Repeated lengths may lead to fewer, never to
        more.

    Returns:
      Increasing boundaries, each at least 1; for [N, G] tuples of G, one column at a time. The last
      is the greatest length.

    Raises:
      TypeError: lengths are not integers.
      ValueError: there are no lengths, one is negative, or num_buckets is not positive.

    Example:
      >>> bucket_boundaries([3, 4, 4, 5, 9, 30], num_buckets=3)
      (4, 5, 30)
      >>> bucket_boundaries([[3, 1], [4, 1], [9, 2], [9, 5]], num_buckets=2)
      ((4, 1), (9, 5))
    """
    num_buckets = checks.require_integer("num_buckets", num_buckets, least=1)
    lengths = numbers("lengths", lengths)
    if lengths.ndim not in (1, 2) or not lengths.size:
        raise ValueError(f"lengths: expected shape [N] or [N, G] with N > 0, got {lengths.shape}")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if lengths.min() < 0:
        raise ValueError(f"lengths: expected at least 0, got {lengths.min()}")
    # In whole numbers, ceil(k N / num_buckets): a rank computed in floats can be one too high.
    size = len(lengths)
    ranks = np.array([-(-k * size // num_buckets) for k in range(1, num_buckets + 1)])
    found = np.maximum(1, np.sort(lengths, axis=0)[ranks - 1]).tolist()
    return tuple(sorted({n if lengths.ndim == 1 else tuple(n) for n in found}))


def checked_boundaries(boundaries: Any, groups: int) -> list[tuple[int, ...]]:
    """Return for each bucket the length of each group of fields that run over time."""
    if not groups:
        if boundaries is not None:
            raise ValueError("boundaries: expected None when no field runs over time")
        return [()]
    checked = [_boundary(boundary, groups) for boundary in entries("boundaries", boundaries)]
    increasing = all(
        a != b and all(x <= y for x, y in zip(a, b, strict=True))
        for a, b in itertools.pairwise(checked)
    )
    if not checked or not increasing:
        shown = tuple(map(_shown, checked))
        raise ValueError(f"boundaries: expected increasing lengths, got {shown}")
    return checked


def assigned(lengths: np.ndarray, boundaries: list[tuple[int, ...]], first: int = 0) -> np.ndarray:
    """Return the bucket of each example from lengths [N, G]: the first one that has room, int [N].

    `first` is the number of the first example, for the error that names one that is too long.
    """
    fits: np.ndarray = np.all(lengths[:, None] <= np.array(boundaries), axis=-1)
    if not fits[:, -1].all():
        n = int((lengths - boundaries[-1]).max(axis=-1).argmax())
        raise ValueError(
            f"boundaries: expected the last to be at least {_shown(tuple(lengths[n].tolist()))}, "
            f"the length of example {first + n}, got {_shown(boundaries[-1])}"
        )
    buckets: np.ndarray = fits.argmax(axis=1)
    return buckets


def _boundary(boundary: Any, groups: int) -> tuple[int, ...]:
    """Return a bucket's length for each group."""
    given = tuple(boundary) if isinstance(boundary, list | tuple | np.ndarray) else (boundary,)
    if len(given) != groups:
        raise ValueError(
            f"boundaries: expected {groups} length{'s' * (groups > 1)} an entry, got {boundary!r}"
        )
    return tuple(checks.require_integer("boundaries", length, least=1) for length in given)


def _shown(boundary: tuple[int, ...]) -> Any:
    return boundary if len(boundary) > 1 else boundary[0]
