"""The scores by which beam search ranks finished outputs."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax._compensated import Total, add, divide
from seqjax.types import Array

__all__ = ["Penalties"]


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
        self, log_probs: Total, length: Array, max_length: int, alignments: Array | None
    ) -> Total:
        """Return the scores `[B, K]` of outputs of |Y| = length tokens."""
        scores = self._by_length(log_probs, length, max_length)
        if self.beta == 0 or self.source_mask is None or alignments is None:
            return scores
        coverage = alignments.astype(scores[0].dtype).sum(axis=2)
        # A position without attention would have an infinite penalty and hide all differences.
        least = float(jnp.finfo(jnp.float32).tiny)
        logs = jnp.log(jnp.clip(coverage, least, 1.0))
        paid = self.beta * jnp.where(self.source_mask[:, None], logs, 0.0).sum(axis=-1)
        return add(scores, paid)

    def bound(self, log_probs: Total, max_length: int) -> Total:
        """Return the highest score that an unfinished output of these log-probabilities can reach.

        Log-probabilities only fall, so the largest lp gives the highest score; cp is at most 0.
        """
        return self._by_length(log_probs, max_length, max_length)

    def _by_length(self, log_probs: Total, length: Array | int, max_length: int) -> Total:
        """Return log p / lp, from a table of lp at each length, 0 to L, in twice the precision.

        Scores and bounds use one table, so rounding cannot make a score larger than its bound.
        """
        if self.alpha == 0:
            return log_probs
        dtype = log_probs[0].dtype
        table = ((5 + np.arange(max_length + 1, dtype=np.float64)) / 6) ** self.alpha
        hi = table.astype(dtype)
        lo = (table - hi.astype(np.float64)).astype(dtype)
        return divide(log_probs, (jnp.asarray(hi)[length], jnp.asarray(lo)[length]))
