"""The scores by which beam search ranks outputs."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax._compensated import Total, add, divide
from seqjax.types import Array

__all__ = ["Penalties"]


class Penalties(NamedTuple):
    """The penalties in the score of an output Y for a source X, by Wu et al. 2016, eq. 14.

        s(Y, X) = log p(Y | X) / lp(Y) + cp(X; Y)
        lp(Y)   = ((5 + |Y|) / 6)^α
        cp(X; Y) = β Σ_i log min(Σ_j p_ij, 1),   i over the source, j over the output

    Attributes:
      alpha: α, at least 0.
      beta: β, at least 0.
      source_mask: bool `[B, S]`, True at source positions that are not padding; required if β > 0.
    """

    alpha: float
    beta: float
    source_mask: Array | None

    def score(
        self, log_probs: Total, length: Array, max_length: int, alignments: Array | None
    ) -> Total:
        """Return the scores `[B, K]` of outputs with |Y| = `length` tokens."""
        scores = self._by_length(log_probs, length, max_length)
        if self.beta == 0 or self.source_mask is None or alignments is None:
            return scores
        coverage = alignments.astype(scores[0].dtype).sum(axis=2)
        # Without the lower limit, a position without attention would have an infinite penalty.
        least = float(jnp.finfo(jnp.float32).tiny)
        logs = jnp.log(jnp.clip(coverage, least, 1.0))
        paid = self.beta * jnp.where(self.source_mask[:, None], logs, 0.0).sum(axis=-1)
        return add(scores, paid)

    def bound(self, log_probs: Total, length: Array, max_length: int, gain: Any) -> Total:
        """Return the highest scores that unfinished outputs with `log_probs` can still reach.

        Log-probabilities only decrease and the coverage penalty cp is at most 0, so the bound is
        log p / lp(L), where lp(L) is the largest length penalty. If a token can add up to `gain` to
        the sum, each of the remaining tokens may do so, and a positive sum is divided by the
        smallest length penalty, that of the next token.
        """
        if not checks.is_traced(gain) and gain <= 0:
            return self._by_length(log_probs, max_length, max_length)
        gain = jnp.maximum(gain, 0.0).astype(log_probs[0].dtype)
        highest = add(log_probs, gain * (max_length - length).astype(log_probs[0].dtype))
        late = self._by_length(highest, max_length, max_length)
        soon = self._by_length(highest, jnp.minimum(length + 1, max_length), max_length)
        negative = highest[0] < 0
        return jnp.where(negative, late[0], soon[0]), jnp.where(negative, late[1], soon[1])

    def _by_length(self, log_probs: Total, length: Array | int, max_length: int) -> Total:
        """Return log p / lp. A table contains lp for the lengths 0 to L, with twice the precision.

        Scores and bounds use the same table, so rounding cannot make a score exceed its bound.
        """
        if self.alpha == 0:
            return log_probs
        dtype = log_probs[0].dtype
        table = ((5 + np.arange(max_length + 1, dtype=np.float64)) / 6) ** self.alpha
        hi = table.astype(dtype)
        lo = (table - hi.astype(np.float64)).astype(dtype)
        return divide(log_probs, (jnp.asarray(hi)[length], jnp.asarray(lo)[length]))
