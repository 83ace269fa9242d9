"""Baselines that ignore the order of steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import sequences

__all__ = ["BagOfWords", "nearest"]


def nearest(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the index of the nearest row of `known` [N, F] for each row of `asked` [M, F]."""
    return ((known**2).sum(axis=1) - 2 * asked @ known.T).argmin(axis=1)


class BagOfWords(nnx.Module):
    """Logistic regression with one weight for each word."""

    def __init__(self, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        self.weights = nnx.Embed(vocabulary, 1, embedding_init=nnx.initializers.zeros, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(()))

    def __call__(self, words: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return logits [B] for words [B, T]."""
        real = sequences.lengths_to_mask(lengths, words.shape[-1])
        return jnp.where(real, self.weights(words)[..., 0], 0.0).sum(axis=-1) + self.bias[...]
