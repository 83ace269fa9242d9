"""Sums and maxima of scores in log space, for recursions of many steps.

A score is a pair of arrays (hi, lo) with the value hi + lo, where lo is the rounding error of hi;
see `seqjax._compensated`. If hi is -inf, lo is 0. With such pairs, a recursion of 100,000 steps
keeps the accuracy of float32, and small differences of large scores are accurate.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax._compensated import Total, add
from seqjax.types import Array

__all__ = ["chosen", "difference", "exact", "largest", "log_normalized", "log_sum"]


def exact(scores: Array) -> Total:
    """Return scores as pairs with lo = 0."""
    return scores, jnp.zeros_like(scores)


def chosen(condition: Array, a: Total, b: Total) -> Total:
    """Return `jnp.where(condition, a, b)` of pairs."""
    return jnp.where(condition, a[0], b[0]), jnp.where(condition, a[1], b[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def log_sum(scores: Total, moves: Array, axis: int) -> Total:
    """Return log Σ exp(scores + moves) over an axis; -inf with gradient 0 if all terms are -inf.

        log Σ_i exp(x_i) = x_m + log1p(Σ_i≠m exp(x_i - x_m)),   m = argmax x,  x = scores + moves

    Even if one term is far above the other terms, the sum of the smaller terms is fully accurate.

    Args:
      scores: the pair (hi, lo) of the scores. Each of the two arrays broadcasts to the shape of
        `moves`.
      moves: `[..., n, ...]`, added to the scores before the sum.
      axis: the axis of n ≥ 1 terms.

    Returns:
      Pairs without that axis.

    Example:
      >>> x = jnp.log(jnp.array([1.0, 2.0, 3.0]))
      >>> hi, lo = log_sum(exact(x), jnp.zeros(3), 0)
      >>> round(float(jnp.exp(hi)), 4)
      6.0
    """
    return _log_sum(scores, moves, axis)[0]


@log_sum.defjvp
def _log_sum_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    (scores, moves), ((d_hi, d_lo), d_moves) = primals, tangents
    summed, weights = _log_sum(scores, moves, axis)
    d_sum = (weights * (d_hi + d_lo + d_moves)).sum(axis)
    return summed, (d_sum, jnp.zeros_like(d_sum))


def _log_sum(scores: Total, moves: Array, axis: int) -> tuple[Total, Array]:
    """Return the sum, and the share of each term in it."""
    hi, lo = add(jax.tree.map(lambda a: jnp.broadcast_to(a, moves.shape), scores), moves)
    (top, top_lo), index = largest((hi, lo), axis)
    possible = ~jnp.isneginf(top)  # also True for NaN, which reaches all shares
    shares = jnp.exp((hi - jnp.where(possible, top, 0.0)) + (lo - top_lo))
    is_top = lax.broadcasted_iota(jnp.int32, hi.shape, axis % hi.ndim) == index
    rest = jnp.where(is_top, 0.0, shares).sum(axis, keepdims=True)
    summed = add((top, top_lo), jnp.log1p(rest))
    weights = shares * jnp.where(possible, 1.0 / (1.0 + rest), 0.0)
    return jax.tree.map(lambda a: a.squeeze(axis), summed), weights


def largest(terms: Total, axis: int, number: int = 1) -> tuple[Total, Array]:
    """Return the largest terms along an axis in falling order, and their indices.

    If terms are equal, the one with the lowest index comes first.

    Args:
      terms: pairs `[..., n, ...]`.
      axis: the axis of n terms.
      number: the number of terms to return, at most n.

    Returns:
      Pairs `[..., number, ...]`, and int32 indices of that shape.

    Example:
      >>> (hi, _), index = largest(exact(jnp.array([1.0, 3.0, 3.0, 2.0])), 0, 3)
      >>> hi.tolist(), index.tolist()
      ([3.0, 3.0, 2.0], [1, 2, 3])
    """
    hi, lo = terms
    axis %= hi.ndim
    numbers = lax.broadcasted_iota(jnp.int32, hi.shape, axis)
    if number == 1:
        top = hi.max(axis, keepdims=True)
        top_lo = jnp.where(hi == top, lo, -jnp.inf).max(axis, keepdims=True)
        is_top = (hi == top) & (lo == top_lo)
        index = jnp.where(is_top, numbers, hi.shape[axis] - 1).min(axis, keepdims=True)
        return (top, top_lo), index
    # NaN must come first, as with `max`. A plain sort would place it after -inf.
    down = jnp.where(jnp.isnan(hi), -jnp.inf, -hi)
    ordered = lax.sort((down, -lo, numbers, hi, lo), dimension=axis, num_keys=3)
    first = functools.partial(lax.slice_in_dim, start_index=0, limit_index=number, axis=axis)
    index, hi, lo = (first(a) for a in ordered[2:])
    return (hi, lo), index


def difference(a: Total, b: Total) -> Array:
    """Return a - b as floats; -inf if a is -inf.

    Example:
      >>> float(difference((jnp.float32(2**24), jnp.float32(0.5)), exact(jnp.float32(2**24))))
      0.5
    """
    hi, lo = add((a[0], a[1] - b[1]), -jnp.where(jnp.isneginf(b[0]), 0.0, b[0]))
    return hi + lo


def log_normalized(logits: Array) -> Array:
    """Return log softmax over the last axis, accurate where a probability is close to 1.

        log p_v = (x_v - x_m) - log1p(Σ_i≠m exp(x_i - x_m)),   m = argmax x

    `jax.nn.log_softmax` returns 0 for a probability p if 1 - p is below 2⁻²⁴. Over many frames, the
    errors of `jax.nn.log_softmax` add up.

    Args:
      logits: float `[..., V]`; -inf stays -inf, even if all logits of a row are -inf. NaN or +inf
        makes all results of its row NaN.

    Example:
      >>> float(log_normalized(jnp.array([20.0, 0.0]))[0]) < 0
      True
    """
    hi, lo = log_sum(exact(logits), jnp.zeros_like(logits), -1)
    top = lax.stop_gradient(logits.max(-1, keepdims=True))
    possible = ~jnp.isneginf(top)
    top = jnp.where(possible, top, 0.0)
    less = jnp.where(possible, (hi[..., None] - top) + lo[..., None], 0.0)
    return (logits - top) - less
