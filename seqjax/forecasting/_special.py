"""Differences of log-gamma functions that stay accurate in float32."""

import jax.numpy as jnp
from jax.scipy.special import gammaln

from seqjax.types import Array

__all__ = ["stirling_rest"]

LEAST = 8.0
"""From here on, three terms of Stirling's series have an error below 1e-10."""


def stirling_rest(x: Array) -> Array:
    """Return the rest of Stirling's formula, log Γ(x) - ((x - ½) log x - x + ½ log 2π), for x > 0.

    The rest is small if x is large. A formula with log-gammas that almost cancel is accurate if the
    main terms are cancelled on paper and only the rests are computed.
    """
    large = jnp.maximum(x, LEAST)
    inverse = 1 / large
    series = inverse * (1 / 12 - inverse**2 * (1 / 360 - inverse**2 / 1260))
    small = jnp.minimum(x, LEAST)
    direct = gammaln(small) - ((small - 0.5) * jnp.log(small) - small + 0.5 * jnp.log(2 * jnp.pi))
    return jnp.where(x < LEAST, direct, series)
