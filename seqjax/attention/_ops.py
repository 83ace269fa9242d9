"""Numerical operations that all attention mechanisms share.

Scores and weights are float32 or wider. The operands of products have the dtype of the memory. The
products accumulate in float32 or wider.
"""

import jax.numpy as jnp
from jax import lax

from seqjax.cells import ops
from seqjax.types import Array

__all__ = ["additive_scores", "dot_scores", "masked_softmax", "normed", "weighted_sum"]


def masked_softmax(scores: Array, mask: Array) -> Array:
    """Return the softmax over the real positions of the last axis, exactly 0 at masked positions.

        a_s = exp(e_s) / Σ_{s' real} exp(e_s')

    If a row of `scores` has no real positions, its softmax and gradients are 0.

    Args:
      scores: float `[..., S]`. Values at masked positions are ignored.
      mask: bool, True at real positions. The mask must broadcast to the shape of `scores`.

    Returns:
      The weights `[..., S]` in the dtype of `scores`.

    References:
      Bahdanau, Cho, Bengio (2015), Neural machine translation by jointly learning to align and
      translate, eq. 6.

    Example:
      >>> scores, mask = jnp.zeros([2, 3]), jnp.array([[True, False, True], [False] * 3])
      >>> masked_softmax(scores, mask).tolist()
      [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
    """
    mask = jnp.broadcast_to(mask, scores.shape)
    kept = jnp.where(mask, scores, -jnp.inf)
    # Subtracting the highest score does not change the weights, so it needs no gradient.
    highest = lax.stop_gradient(kept.max(axis=-1, keepdims=True, initial=-jnp.inf))
    highest = jnp.where(jnp.isneginf(highest), 0.0, highest)  # a row without real positions
    powers = jnp.exp(kept - highest)
    total = powers.sum(axis=-1, keepdims=True)  # at least 1 if a position is real
    return powers / jnp.where(total > 0, total, 1.0)


def dot_scores(query: Array, keys: Array) -> Array:
    """Return the dot scores e_s = q · k_s.

    Args:
      query: the query `[..., K]`, which is cast to the dtype of the keys.
      keys: the keys `[..., S, K]`, one per position.

    Returns:
      The scores `[..., S]` in float32 or wider.

    Example:
      >>> dot_scores(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
      [1.0, 2.0]
    """
    return jnp.einsum(
        "...k,...sk->...s",
        query.astype(keys.dtype),
        keys,
        preferred_element_type=ops.accumulator_dtype(keys.dtype),
    )


def additive_scores(v: Array, keys: Array, *terms: Array) -> Array:
    """Return the scores of a hidden layer, e_s = v · tanh(k_s + Σ terms).

    The scores are computed as a sum of products instead of a matrix product, so that XLA need not
    store the values of tanh.

    Args:
      v: `[U]`.
      keys: the keys `[..., S, U]`, one per position.
      *terms: arrays to add to the keys, in float32 or wider, which must broadcast to the shape of
        the keys.

    Returns:
      The scores `[..., S]` in float32 or wider.

    Example:
      >>> additive_scores(jnp.ones([4]), jnp.zeros([2, 3, 4]), jnp.zeros([2, 1, 4])).shape
      (2, 3)
    """
    hidden = keys.astype(ops.accumulator_dtype(keys.dtype))
    for term in terms:
        hidden = hidden + term
    return ops.scaled(v, jnp.tanh(hidden)).sum(axis=-1)


def normed(v: Array, g: Array) -> Array:
    """Return the vector g v / ‖v‖, whose length is g. If v is 0, the result is 0.

    Args:
      v: `[U]`.
      g: a scalar, the length of the result.

    Returns:
      The vector `[U]` in float32 or wider.

    References:
      Salimans, Kingma (2016), Weight normalization, eq. 2.

    Example:
      >>> [round(x, 6) for x in normed(jnp.array([3.0, 4.0]), jnp.float32(10.0)).tolist()]
      [6.0, 8.0]
    """
    v, g = (a.astype(ops.accumulator_dtype(a.dtype)) for a in (v, g))
    square = (v * v).sum()
    return v * (g / jnp.sqrt(jnp.where(square > 0, square, 1.0)))


def weighted_sum(weights: Array, values: Array) -> Array:
    """Return the context c = Σ_s a_s v_s.

    Args:
      weights: the attention weights `[..., S]`, which are cast to the dtype of the values.
      values: the values `[..., S, V]`, one per position.

    Returns:
      The context `[..., V]` in float32 or wider.

    Example:
      >>> weighted_sum(jnp.array([0.5, 0.5]), jnp.array([[1.0], [3.0]])).tolist()
      [2.0]
    """
    return jnp.einsum(
        "...s,...sv->...v",
        weights.astype(values.dtype),
        values,
        preferred_element_type=ops.accumulator_dtype(values.dtype),
    )
