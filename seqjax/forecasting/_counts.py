"""The distribution of counts."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax import checks
from seqjax.forecasting._distributions import (
    Distribution,
    positive,
    positive_scale,
    raw_outputs,
)
from seqjax.forecasting._special import ratio, stirling_rest
from seqjax.types import Array, PRNGKey, PyTree

__all__ = ["NegativeBinomial"]

LARGEST_RATE = 1e9
"""Rates above are counts themselves: their Poisson noise is less than float32 can represent."""


@dataclasses.dataclass(frozen=True)
class NegativeBinomial(Distribution):
    """The negative binomial distribution of the counts 0, 1, 2 and so on.

    The parameters are the mean μ, `mean`, and the dispersion α, `dispersion`. The variance is
    μ + α μ².

        mean       = scale · (softplus(o_1) + 1e-5)
        dispersion = (softplus(o_2) + 1e-5) / √scale

        p(y) = Γ(y + 1/α) / (Γ(y + 1) Γ(1/α)) · (1 / (1 + αμ))^(1/α) · (αμ / (1 + αμ))^y

    References:
      Salinas, Flunkert, Gasthaus, Januschowski (2020), DeepAR: probabilistic forecasting with
      autoregressive recurrent networks (sections 3.1 and 3.3).

    Example:
      >>> params = {"mean": jnp.array(1.0), "dispersion": jnp.array(1.0)}
      >>> jnp.exp(-NegativeBinomial().losses(params, jnp.arange(3.0))).round(4).tolist()
      [0.5, 0.25, 0.125]
    """

    shifts: ClassVar[bool] = False
    support: ClassVar[str] = "counts (0, 1, 2, …)"

    @property
    def size(self) -> int:
        """Two: the mean and the dispersion."""
        return 2

    def params(
        self, outputs: ArrayLike, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0
    ) -> dict[str, Array]:
        if not isinstance(loc, (int, float)) or loc != 0:
            raise ValueError(
                f"loc: expected 0 for NegativeBinomial, since counts have no location, got "
                f"{checks.brief(loc)}"
            )
        outputs = raw_outputs(self, outputs)
        scale = positive_scale(scale, outputs.dtype)
        mean = scale * positive(outputs[..., 0])
        return {"mean": mean, "dispersion": positive(outputs[..., 1]) / jnp.sqrt(scale)}

    def losses(self, params: PyTree, values: ArrayLike) -> Array:
        mean, r = params["mean"], _number(params)
        values = jnp.asarray(values, mean.dtype)
        none = -r * jnp.log1p(ratio(mean, r))
        # At y = 0, numbers without effect take the place of the others: their gradient is finite.
        y, mean = jnp.maximum(values, 1.0), jnp.where(values < 1, 1.0, mean)
        # The terms of the three log-gammas that cancel are left out; see `stirling_rest`. What is
        # left is (y + r) log((y + r) / (μ + r)) - y log(y / μ), in which y log(y + r) cancels, too.
        some = r * _log_ratio(y + r, mean + r, y - mean)
        some += y * _log_ratio(mean * (y + r), y * (mean + r), r * (mean - y))
        some += stirling_rest(y + r) - stirling_rest(r) - stirling_rest(y)
        some -= 0.5 * (jnp.log1p(ratio(y, r)) + jnp.log(2 * jnp.pi * y))
        return -jnp.where(values < 1, none, some)

    def sample(self, params: PyTree, key: PRNGKey) -> Array:
        mean, r = params["mean"], _number(params)
        key_rate, key_count = jax.random.split(key)
        # A mixture of Poisson distributions whose rates have a gamma distribution. The logarithm
        # of the gamma variable does not underflow if r is small.
        log_gamma = jax.random.loggamma(key_rate, r, mean.shape, mean.dtype)
        rate = jnp.exp(log_gamma + jnp.log(mean / r))
        small = jnp.minimum(rate, LARGEST_RATE)
        counts = jax.random.poisson(key_count, small, mean.shape).astype(mean.dtype)
        return jnp.where(rate < LARGEST_RATE, counts, jnp.round(rate))

    def mean(self, params: PyTree) -> Array:
        mean: Array = params["mean"]
        return mean

    def supports(self, values: Array) -> Array:
        return jnp.isfinite(values) & (values >= 0) & (values == jnp.floor(values))


def _log_ratio(a: Array, b: Array, difference: Array) -> Array:
    """Return log(a / b), accurately if a is near b, from a, b > 0 and a - b."""
    return jnp.sign(difference) * jnp.log1p(ratio(jnp.abs(difference), jnp.minimum(a, b)))


def _number(params: PyTree) -> Array:
    """Return r = 1 / α."""
    dispersion = params["dispersion"]
    return ratio(jnp.ones_like(dispersion), dispersion)
