"""Bucket boundaries: the lengths to which sequences are padded."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks
from seqjax.data._containers import entries, numbers

__all__ = ["bucket_boundaries"]


def bucket_boundaries(lengths: ArrayLike, num_buckets: int) -> tuple[Any, ...]:
    """Return the boundaries of buckets that contain about the same number of sequences each.

    Pass the result as `boundaries` to `batches`.

        boundary_k = the smallest L such that at least k N / num_buckets of the lengths are ≤ L

    Args:
      lengths: int [N], or [N, G] if each example has G groups of sequences.
      num_buckets: the intended number of buckets. If many sequences have the same length, the
        result can have fewer buckets.

    Returns:
      Increasing boundaries, each at least 1. For lengths [N, G], each boundary is a tuple of G
      lengths, and the boundaries are computed for each of the G columns separately. The last
      boundary is the greatest length.

    Raises:
      TypeError: `lengths` are not integers.
      ValueError: there are no lengths, a length is negative, or `num_buckets` is not positive.

    Example:
      >>> bucket_boundaries([3, 4, 4, 5, 9, 30], num_buckets=3)
      (4, 5, 30)
      >>> bucket_boundaries([[3, 1], [4, 1], [9, 2], [9, 5]], num_buckets=2)
      ((4, 1), (9, 5))
    """
    num_buckets = checks.require_integer("num_buckets", num_buckets, least=1)
    lengths = numbers("lengths", lengths)
    if lengths.ndim not in (1, 2) or not lengths.size:
        raise ValueError(
            f"lengths: expected shape [N] or [N, G] with N > 0, got shape {lengths.shape}"
        )
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if lengths.min() < 0:
        raise ValueError(f"lengths: expected at least 0, got {lengths.min()}")
    # ceil(k N / num_buckets) in integers, because a rank computed in floats can be one too high.
    size = len(lengths)
    ranks = np.array([-(-k * size // num_buckets) for k in range(1, num_buckets + 1)])
    found = np.maximum(1, np.sort(lengths, axis=0)[ranks - 1]).tolist()
    return tuple(sorted({n if lengths.ndim == 1 else tuple(n) for n in found}))


def checked_boundaries(boundaries: Any, groups: int) -> list[tuple[int, ...]]:
    """Return the padded length of each group of fields in each bucket, or raise an error."""
    if not groups:
        if boundaries is not None:
            raise ValueError(
                f"boundaries: expected None, since no field has a time axis, got {boundaries!r}"
            )
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
    """Return the index of the first bucket that is long enough for each example, int [N].

    Args:
      lengths: int [N, G].
      boundaries: a list with the G padded lengths of each bucket.
      first: the index of the first example, for error messages.
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
    """Return the boundary of a bucket as a tuple with one length for each group of fields."""
    given = tuple(boundary) if isinstance(boundary, list | tuple | np.ndarray) else (boundary,)
    if len(given) != groups:
        raise ValueError(
            f"boundaries: expected {groups} length{'s' * (groups > 1)} in each entry, got "
            f"{boundary!r}"
        )
    return tuple(checks.require_integer("boundaries", length, least=1) for length in given)


def _shown(boundary: tuple[int, ...]) -> Any:
    return boundary if len(boundary) > 1 else boundary[0]
