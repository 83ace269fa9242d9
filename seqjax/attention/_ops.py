"""The few numerical operations that all mechanisms share.

Scores, softmax and weights are float32 or wider; products take their operands in the dtype of the
memory and accumulate in float32 or wider.
"""

import jax.numpy as jnp
from jax import lax

from seqjax.cells import ops
from seqjax.types import Array

__all__ = ["additive_scores", "dot_scores", "masked_softmax", "normed", "weighted_sum"]


def masked_softmax(scores: Array, mask: Array) -> Array:
    """The softmax over the real positions of the last axis; weights elsewhere are exactly 0.

        a_s = exp(e_s) / Σ_{s' real} exp(e_s')

    A row without real positions has weights 0 and gradients 0.

    Args:
      scores: float `[..., S]`; what stands at masked positions is ignored.
      mask: bool, of a shape that broadcasts to that of `scores`; True is real.

    Returns:
      `[..., S]` in the dtype of `scores`.

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
    # The highest score moves no weight, so it needs no gradient either.
    highest = lax.stop_gradient(kept.max(axis=-1, keepdims=True, initial=-jnp.inf))
    highest = jnp.where(jnp.isneginf(highest), 0.0, highest)  # a row without real positions
    powers = jnp.exp(kept - highest)
    total = powers.sum(axis=-1, keepdims=True)  # at least 1 where anything is real
    return powers / jnp.where(total > 0, total, 1.0)


def dot_scores(query: Array, keys: Array) -> Array:
    """Scores by products: e_s = q · k_s.

    Args:
      query: `[..., K]`; cast to the dtype of the keys.
      keys: `[..., S, K]`.

    Returns:
      `[..., S]` in float32 or wider.

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
    """Scores by a hidden layer: e_s = v · tanh(k_s + Σ terms).

    A sum of products rather than a matrix product, so that XLA need not store the tanh.

    Args:
      v: `[U]`.
      keys: `[..., S, U]`.
      *terms: float32 or wider, of shapes that broadcast to that of the keys.

    Returns:
      `[..., S]` in float32 or wider.

    Example:
      >>> additive_scores(jnp.ones([4]), jnp.zeros([2, 3, 4]), jnp.zeros([2, 1, 4])).shape
      (2, 3)
    """
    hidden = keys.astype(ops.accumulator_dtype(keys.dtype))
    for term in terms:
        hidden = hidden + term
    return ops.scaled(v, jnp.tanh(hidden)).sum(axis=-1)


def normed(v: Array, g: Array) -> Array:
    """A vector whose length is a parameter of its own: g v / ‖v‖; 0 for v = 0.

    Args:
      v: `[U]`.
      g: a scalar.

    Returns:
      `[U]` in float32 or wider.

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
    """The context: c = Σ_s a_s v_s.

    Args:
      weights: `[..., S]`; cast to the dtype of the values.
      values: `[..., S, V]`.

    Returns:
      `[..., V]` in float32 or wider.

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
