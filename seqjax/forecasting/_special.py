"""Functions that stay accurate in float32, also for very large or small arguments."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from seqjax.types import Array

__all__ = ["gamma_ratio_rest", "ratio", "stirling_rest"]

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


def gamma_ratio_rest(x: Array) -> Array:
    """Return log(Γ(x + ½) / Γ(x)) - ½ log x for x > 0, which is near 0 if x is large."""
    main = x * jnp.log1p(ratio(0.5, x)) - 0.5
    return main + stirling_rest(x + 0.5) - stirling_rest(x)


@jax.custom_jvp
def ratio(a: Any, b: Any) -> Array:
    """Return a / b with the derivative (da - (a / b) db) / b.

    The derivative of JAX contains b**-2, which in float32 is 0 or inf if b is above 1e19 or below
    1e-19.
    """
    return jnp.asarray(a / b)


@ratio.defjvp
def _ratio_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    found = ratio(a, b)
    # A product: XLA would compute a quotient of `found`, (a / b) / b, as a / (b * b).
    return found, (da - found * db) * (1 / b)
