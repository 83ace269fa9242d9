"""CRF decoding: the taggings with the highest scores, by the Viterbi algorithm."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import checks
from seqjax._compensated import Total, add
from seqjax._compiled import compiled
from seqjax._log_space import chosen, exact, largest
from seqjax.crf._scores import Scores, checked
from seqjax.types import Array

__all__ = ["CRFDecoded", "decode"]


class CRFDecoded(NamedTuple):
    """The best taggings of each sequence. `tags` and `scores` have an axis n only with `n_best`.

    Attributes:
      tags: int32 `[..., T]` or `[..., n, T]`, 0 in padding.
      scores: float32 or wider `[...]` or `[..., n]`, the score s of each tagging. The
        log-probability of a tagging is s minus `log_partition`. A score of -inf marks a tagging
        that does not exist.
    """

    tags: Array
    scores: Array


def decode(
    emissions: Any,
    transitions: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    start: Any = None,
    end: Any = None,
    n_best: int | None = None,
) -> CRFDecoded:
    """Return the tags with the highest score, by the Viterbi algorithm.

        y = argmax_y' s(y')

    Among taggings with equal scores, lower tags are preferred.

    Args:
      emissions: float `[..., T, C]`.
      transitions: float `[C, C]`.
      lengths: see `log_likelihood`.
      mask: see `log_likelihood`.
      start: see `log_likelihood`.
      end: see `log_likelihood`.
      n_best: n, the number of different taggings to return, best first. If None, the best tagging
        is returned without the axis n. If a sequence has fewer than n taggings, the remaining
        scores are -inf.

    Returns:
      `CRFDecoded(tags, scores)`.

    Raises:
      TypeError, ValueError: see `log_likelihood`; also if `n_best` is not a positive integer.

    References:
      Viterbi 1967, Error Bounds for Convolutional Codes and an Asymptotically Optimum Decoding
      Algorithm.
      Seshadri, Sundberg 1994, List Viterbi Decoding Algorithms with Applications, section III.

    Example:
      >>> emissions = jnp.array([[[2.0, 0.0], [0.0, 1.0], [jnp.nan, jnp.nan]]])
      >>> stay = jnp.array([[0.0, -3.0], [-3.0, 0.0]])  # a change of tag costs 3
      >>> tags, scores = decode(emissions, stay, lengths=jnp.array([2]))
      >>> tags.tolist(), scores.tolist()
      ([[0, 0, 0]], [2.0])
      >>> tags, scores = decode(emissions, stay, lengths=jnp.array([2]), n_best=2)
      >>> tags.tolist(), scores.tolist()
      ([[[0, 0, 0], [1, 1, 0]]], [[2.0, 1.0]])
    """
    scores = checked(emissions, transitions, lengths, mask, start, end)
    number = 1 if n_best is None else checks.require_integer("n_best", n_best)
    found = _best(scores, number)
    return found if n_best is not None else CRFDecoded(found.tags[..., 0, :], found.scores[..., 0])


@compiled("number")
def _best(scores: Scores, number: int) -> CRFDecoded:
    """Return the `number` best taggings."""
    *batch_shape, _, classes = scores.emissions.shape
    batch = tuple(batch_shape)
    # A way is a tag and a rank among the n best taggings that end with this tag: `tag * n + rank`.
    width = classes * number
    leaving = jnp.repeat(scores.transitions, number, axis=0)
    square = (*batch, width, classes)
    leaving = jnp.broadcast_to(leaving, square)
    stay = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (*batch, width))
    start, end = (jnp.repeat(a, number) for a in (scores.start, scores.end))
    is_best = jnp.arange(width, dtype=jnp.int32) % number == 0
    start = jnp.broadcast_to(jnp.where(is_best, start, -jnp.inf), (*batch, width))
    end = jnp.broadcast_to(end, (*batch, width))

    def flat(ranked: Array) -> Array:
        return jnp.swapaxes(ranked, -1, -2).reshape(*batch, width)  # from [n, C]

    def forward(best: Total, xs: tuple[Array, Array, Array]) -> tuple[Total, Array]:
        emission, real, first = xs
        moved = add(
            jax.tree.map(lambda a: jnp.broadcast_to(a[..., :, None], square), best), leaving
        )
        found, origin = largest(moved, -2, number)
        new = chosen(first, exact(start), jax.tree.map(flat, found))
        new = chosen(real, add(new, jnp.repeat(emission, number, axis=-1)), best)
        return new, jnp.where(real & ~first, flat(origin), stay)

    def backward(way: Array, origin: Array) -> tuple[Array, Array]:
        return jnp.take_along_axis(origin, way, axis=-1), way

    # A sequence without real steps has one tagging, the empty one.
    empty = jnp.where(jnp.arange(number) == 0, 0.0, -jnp.inf).astype(start.dtype)
    zeros = jnp.zeros((*batch, width), start.dtype)
    best, origins = lax.scan(forward, exact(zeros), scores.steps())
    (hi, lo), last = largest(add(best, end), -1, number)
    _, path = lax.scan(backward, last, origins, reverse=True)
    tags = jnp.where(scores.mask[..., None, :], jnp.moveaxis(path, 0, -1) // number, 0)
    totals = jnp.where(scores.is_empty[..., None], jnp.broadcast_to(empty, hi.shape), hi + lo)
    return CRFDecoded(tags, totals)
