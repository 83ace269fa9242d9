"""A finite score that stands for -inf, so that gradients are numbers where all is ruled out."""

import jax.numpy as jnp
from jax import lax

from seqjax.types import Array

__all__ = ["without_minus_infinity"]

LEAST = 1e5


def without_minus_infinity(steps: int, *scores: Array) -> tuple[Array, ...]:
    """Replace -inf by a score that no tagging or alignment without it can lose as much as.

        -(1e5 + 2 T Σ max |finite scores|)

    So what -inf rules out is never better than what it leaves, however large scores are and however
    many steps there are. Finite scores stay as they are.

    Args:
      steps: T, how often scores are added up.
      scores: floating-point arrays of one dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> (found,) = without_minus_infinity(3, jnp.array([2.0, -jnp.inf]))
      >>> found.tolist()
      [2.0, -100012.0]
    """
    largest = [
        jnp.max(jnp.where(jnp.isfinite(a), jnp.abs(a), jnp.zeros_like(a)), initial=0.0)
        for a in scores
    ]
    worse = lax.stop_gradient(-(LEAST + 2 * steps * jnp.stack(largest).sum()))
    return tuple(jnp.where(jnp.isneginf(a), worse.astype(a.dtype), a) for a in scores)
