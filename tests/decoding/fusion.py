"""A second model for searches that fuse scores, and a comparison with outputs that are listed."""

import jax.numpy as jnp
import numpy as np

V, BLANK = 3, 1


def second(seed=4):
    """A model that counts its tokens: scores `[count, previous, next]`."""
    scores = np.random.default_rng(seed).normal(size=(8, V, V))
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    wide = jnp.asarray(scores, jnp.float32)
    return scores, lambda tokens, count: (wide[jnp.minimum(count, 7), tokens], count + 1)


def total(scores, labels, end, bonus):
    """The score 0.7 Σ log p + bonus |Y| of the second model."""
    read = [BLANK, *labels]
    following = [*labels] if end is None else [*labels, end]
    return sum(
        0.7 * scores[min(n, 7), before, after] + bonus
        for n, (before, after) in enumerate(zip(read, following, strict=False))
    )


def assert_best(found, b, every, n):
    """The n best outputs of sequence b; `every` has log p and the second score of all labels."""
    best = sorted(every.items(), key=lambda item: -sum(item[1]))[:n]
    for k, (labels, (log_p, second_score)) in enumerate(best):
        assert tuple(found.tokens[b, k, : found.lengths[b, k]]) == labels
        np.testing.assert_allclose(found.log_probs[b, k], log_p, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.scores[b, k], log_p + second_score, rtol=1e-4, atol=1e-5)
