"""Baselines that know nothing of order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import sequences

__all__ = ["BagOfWords", "nearest"]


def nearest(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Which of the known rows [N, F] is nearest to each row [M, F] that is asked for, int [M]."""
    return ((known**2).sum(axis=1) - 2 * asked @ known.T).argmin(axis=1)


class BagOfWords(nnx.Module):
    """Logistic regression: every word has a weight, their order none."""

    def __init__(self, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        self.weights = nnx.Embed(vocabulary, 1, embedding_init=nnx.initializers.zeros, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(()))

    def __call__(self, words: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits [B] of words [B, T]."""
        real = sequences.lengths_to_mask(lengths, words.shape[-1])
        return jnp.where(real, self.weights(words)[..., 0], 0.0).sum(axis=-1) + self.bias[...]
