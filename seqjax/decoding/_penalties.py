"""What beam search ranks finished outputs by, beside their log-probability."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax.types import Array


class Penalties(NamedTuple):
    """The scores of Wu et al. 2016, eq. 14, of outputs X → Y of B sentences.

        s(Y, X) = log p(Y | X) / lp(Y) + cp(X; Y)
        lp(Y)   = ((5 + |Y|) / 6)^α
        cp(X; Y) = β Σ_i log min(Σ_j p_ij, 1),   i over the source, j over the output

    Attributes:
      alpha: α, at least 0.
      beta: β, at least 0.
      source_mask: bool `[B, S]`, True at real source positions; needed where β > 0.
    """

    alpha: float
    beta: float
    source_mask: Array | None

    def score(
        self, log_probs: Array, length: Array, max_length: int, alignments: Array | None
    ) -> Array:
        """The scores `[B, K]` of outputs of |Y| = length tokens with alignments `[B, K, L, S]`."""
        scores = log_probs / self._length_penalties(max_length, log_probs.dtype)[length]
        if self.beta == 0 or self.source_mask is None or alignments is None:
            return scores
        coverage = alignments.astype(log_probs.dtype).sum(axis=2)
        # A position never looked at would cost infinity, and hide every other difference.
        least = float(jnp.finfo(jnp.float32).tiny)
        logs = jnp.log(jnp.clip(coverage, least, 1.0))
        return scores + self.beta * jnp.where(self.source_mask[:, None], logs, 0.0).sum(axis=-1)

    def bound(self, log_probs: Array, max_length: int) -> Array:
        """The most that an unfinished output of these log-probabilities can come to score.

        They only fall, so that the largest lp is the most favourable one, and cp is at most 0.
        """
        return log_probs / self._length_penalties(max_length, log_probs.dtype)[max_length]

    def _length_penalties(self, max_length: int, dtype: jnp.dtype) -> Array:
        """What lp is at each length, 0 to L.

        One table for scores and bounds, so that rounding cannot put a score above its bound.
        """
        lengths = np.arange(max_length + 1, dtype=np.float64)
        return jnp.asarray(((5 + lengths) / 6) ** self.alpha, dtype)
