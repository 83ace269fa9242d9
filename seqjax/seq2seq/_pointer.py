"""The pointer-generator distribution: generate the next token, or copy it from the source."""

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.types import Array

__all__ = ["with_copies"]


def with_copies(
    logits: Array, copy: Array | None, weights: Array | None, source_ids: Array | None
) -> Array:
    """Return the log-probabilities of all tokens of the vocabulary and of the source, `[..., V+S]`.

        p(w) = g softmax(logits)_w + (1 - g) Σ_{s: source_s = w} a_s     g = σ(copy)

    Args:
      logits: the logits of the vocabulary, float32 `[..., V]`.
      copy: the logit of the probability that the next token is generated, `[...]`.
      weights: the attention weights `[..., S]`.
      source_ids: the ids of the source tokens, as for `Decoder.logits`.

    Raises:
      ValueError: `copy`, `weights` or `source_ids` is None.

    References:
      See, Liu, Manning (2017), Get to the point: summarization with pointer-generator networks, eq.
      8-9.
    """
    if copy is None or weights is None:
        raise ValueError("features: expected copy and weights with copy=True, got None")
    if source_ids is None:
        raise ValueError("source_ids: expected the source's tokens to copy from, got None")
    source_ids = checks.require_ids("source_ids", source_ids, "integers [..., S]")
    vocabulary, positions = logits.shape[-1], source_ids.shape[-1]
    # If a source has no real positions, no token can be copied, so the probability of generating
    # is 1.
    writes = jax.nn.log_sigmoid(copy)
    writes = jnp.where(weights.sum(-1) > 0, writes, 0.0)
    generate = jax.nn.log_softmax(logits) + writes[..., None]
    one_hot = jax.nn.one_hot(source_ids, vocabulary + positions, dtype=jnp.float32)
    known = (source_ids >= 0) & (source_ids < vocabulary + positions)
    unknown = (weights > 0) & ~known
    weights = jnp.where(unknown, jnp.nan, weights)
    share = jnp.einsum("...s,...sv->...v", weights, one_hot)
    copied = _log(share) + jax.nn.log_sigmoid(-copy)[..., None]
    both = _log_add(generate, copied[..., :vocabulary])
    return jnp.concatenate([both, copied[..., vocabulary:]], axis=-1)


def _log(x: Array) -> Array:
    """Return log x for x ≥ 0. At x = 0 the result is -inf and the gradient is 0."""
    none = x == 0
    return jnp.where(none, -jnp.inf, jnp.log(jnp.where(none, 1.0, x)))


def _log_add(a: Array, b: Array) -> Array:
    """Return log(exp a + exp b). If a and b are -inf, the result is -inf, with gradient 0."""
    none = jnp.isneginf(a) & jnp.isneginf(b)
    return jnp.where(none, -jnp.inf, jnp.logaddexp(jnp.where(none, 0.0, a), b))
