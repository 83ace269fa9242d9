"""The contract of output distributions, and the distributions of real numbers."""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, erf, ndtr
from jax.typing import ArrayLike

from seqjax import _elements, checks
from seqjax.cells.ops import accumulator_dtype
from seqjax.forecasting._special import gamma_ratio_rest, ratio
from seqjax.types import Array, PRNGKey, PyTree

__all__ = ["Distribution", "Gaussian", "StudentT"]

SMALLEST = 1e-5
"""Least deviation in units of the scale, so that no density is infinite."""


@dataclasses.dataclass(frozen=True)
class Distribution(abc.ABC):
    """The contract of output distributions: equations without parameters, like a cell.

    A distribution is a frozen dataclass whose fields are its configuration. Its parameters are a
    pytree of arrays `[...]`, which `params` computes from the outputs of a network. All methods are
    pure functions that compute in float32 or wider, and may be used under `jax.jit`, `jax.grad` and
    `jax.vmap`.

    Attributes:
      size: the number of outputs that the network has for each step.
      shifts: whether the distribution has a location. Counts have none.
      support: a description of the possible values, for error messages.
      in_units: whether the loss is in the unit of the values, as the pinball loss is; -log p is
        not. Forecasters divide such a loss by the scale of the series.

    Example:
      >>> distribution = Gaussian()
      >>> params = distribution.params(jnp.array([[0.5, 0.0]]), scale=jnp.array([4.0]))
      >>> params["mean"].tolist()
      [2.0]
      >>> distribution.sample(params, jax.random.key(0)).shape
      (1,)
    """

    shifts: ClassVar[bool] = True
    support: ClassVar[str] = "finite numbers"
    in_units: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of outputs that the network has for each step."""

    @abc.abstractmethod
    def params(self, outputs: ArrayLike, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0) -> PyTree:
        """Return the parameters of the distribution of `loc + scale · z`.

        Args:
          outputs: float `[..., size]`, the outputs of the network, which describe the scaled value
            z.
          loc: float, the location of the series, which broadcasts to `[...]`.
          scale: float, the positive scale of the series, which broadcasts to `[...]`.

        Raises:
          TypeError: outputs are not float.
          ValueError: outputs have another number of features, or the distribution has no location
            and `loc` is given.
        """

    @abc.abstractmethod
    def losses(self, params: PyTree, values: ArrayLike) -> Array:
        """Return the loss of each value `[...]`: -log p(value), or a proper score in its place."""

    @abc.abstractmethod
    def sample(self, params: PyTree, key: PRNGKey) -> Array:
        """Draw a value for each of the parameters, `[...]`."""

    @abc.abstractmethod
    def mean(self, params: PyTree) -> Array:
        """Return the mean of the distribution, `[...]`."""

    def crps(self, params: PyTree, values: ArrayLike) -> Array:
        """Return the continuous ranked probability score (CRPS) of each value, `[...]`.

        For the cumulative distribution function F, the score of a value y is

            CRPS(F, y) = ∫ (F(x) - 1[x ≥ y])² dx

        Raises:
          TypeError: the distribution has no closed form of the score.
        """
        raise TypeError(
            f"{type(self).__name__}: expected a distribution with a closed form of the CRPS; use "
            "seqjax.forecasting.crps of samples"
        )

    def supports(self, values: Array) -> Array:
        """Return whether each value is possible, bool `[...]`."""
        return jnp.isfinite(values)


def require_distribution(distribution: object) -> None:
    """Raise an error if an argument is not a distribution."""
    if not isinstance(distribution, Distribution):
        raise TypeError(
            "distribution: expected a distribution such as seqjax.forecasting.Gaussian(), got "
            f"{checks.brief(distribution)}"
        )


def require_possible(name: str, distribution: Distribution, values: Array) -> Array:
    """Return whether each value is possible; outside tracing, raise if one is not."""
    possible = distribution.supports(values)
    if not checks.is_traced(values) and not bool(possible.all()):
        raise ValueError(
            f"{name}: expected {distribution.support}, or NaN for missing values, got "
            f"{np.asarray(values)[~np.asarray(possible)][0]}"
        )
    return possible


def raw_outputs(distribution: Distribution, outputs: ArrayLike) -> Array:
    """Return the outputs of a network as floats of at least 32 bits, or raise."""
    found = _elements.floats("outputs", outputs)
    if not found.ndim or found.shape[-1] != distribution.size:
        raise ValueError(
            f"outputs: expected [..., {distribution.size}] for {type(distribution).__name__}, got "
            f"{found.shape}"
        )
    return found.astype(accumulator_dtype(found.dtype))


def positive_scale(scale: ArrayLike, dtype: Any) -> Array:
    """Return a scale as an array; outside tracing, raise if a scale is not positive."""
    if not checks.is_traced(scale) and (np.asarray(scale) <= 0).any():
        raise ValueError(f"scale: expected positive numbers, got {np.min(np.asarray(scale))}")
    return jnp.asarray(scale, dtype)


def positive(outputs: Array) -> Array:
    """Return softplus of the outputs, at least `SMALLEST`."""
    return jax.nn.softplus(outputs) + SMALLEST


@dataclasses.dataclass(frozen=True)
class Gaussian(Distribution):
    """The normal distribution, with the parameters `mean` and `deviation`.

        mean      = loc + scale · o_1
        deviation = scale · (softplus(o_2) + 1e-5)

    References:
      Salinas, Flunkert, Gasthaus, Januschowski (2020), DeepAR: probabilistic forecasting with
      autoregressive recurrent networks (section 3.1). Gneiting, Raftery (2007), Strictly proper
      scoring rules, prediction, and estimation, eq. 21 (the CRPS).

    Example:
      >>> params = {"mean": jnp.array(1.0), "deviation": jnp.array(2.0)}
      >>> print(f"{Gaussian().losses(params, 1.0):.4f}")  # log(2 √(2π))
      1.6121
    """

    @property
    def size(self) -> int:
        """Two: the mean and the deviation."""
        return 2

    def params(
        self, outputs: ArrayLike, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0
    ) -> dict[str, Array]:
        outputs = raw_outputs(self, outputs)
        loc, scale = jnp.asarray(loc, outputs.dtype), positive_scale(scale, outputs.dtype)
        mean = loc + scale * outputs[..., 0]
        return {"mean": mean, "deviation": scale * positive(outputs[..., 1])}

    def losses(self, params: PyTree, values: ArrayLike) -> Array:
        z = ratio(values - params["mean"], params["deviation"])
        half: Array = 0.5 * z**2 + jnp.log(params["deviation"]) + 0.5 * jnp.log(2 * jnp.pi)
        return half

    def sample(self, params: PyTree, key: PRNGKey) -> Array:
        mean, deviation = params["mean"], params["deviation"]
        drawn: Array = mean + deviation * jax.random.normal(key, mean.shape, mean.dtype)
        return drawn

    def mean(self, params: PyTree) -> Array:
        mean: Array = params["mean"]
        return mean

    def crps(self, params: PyTree, values: ArrayLike) -> Array:
        z = ratio(values - params["mean"], params["deviation"])
        density = jnp.exp(-0.5 * z**2) / jnp.sqrt(2 * jnp.pi)
        score: Array = z * (2 * ndtr(z) - 1) + 2 * density - 1 / jnp.sqrt(jnp.pi)
        scaled: Array = params["deviation"] * score
        return scaled


@dataclasses.dataclass(frozen=True)
class StudentT(Distribution):
    """Student's t-distribution, whose tails are heavier than those of the normal distribution.

    The parameters are `df` (the degrees of freedom), `loc` and `scale`:

        df    = 2 + softplus(o_1) + 1e-5
        loc   = loc + scale · o_2
        scale = scale · (softplus(o_3) + 1e-5)

    References:
      Jordan, Krüger, Lerch (2019), Evaluating probabilistic forecasts with scoringRules (the CRPS
      of the t-distribution).

    Example:
      >>> params = {"df": jnp.array(3.0), "loc": jnp.array(0.0), "scale": jnp.array(1.0)}
      >>> print(f"{StudentT().losses(params, 0.0):.4f}")  # log(π √3 / 2)
      1.0009
    """

    @property
    def size(self) -> int:
        """Three: the degrees of freedom, the location and the scale."""
        return 3

    def params(
        self, outputs: ArrayLike, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0
    ) -> dict[str, Array]:
        outputs = raw_outputs(self, outputs)
        loc, scale = jnp.asarray(loc, outputs.dtype), positive_scale(scale, outputs.dtype)
        return {
            "df": 2 + positive(outputs[..., 0]),
            "loc": loc + scale * outputs[..., 1],
            "scale": scale * positive(outputs[..., 2]),
        }

    def losses(self, params: PyTree, values: ArrayLike) -> Array:
        df, half = params["df"], params["df"] / 2
        z = ratio(values - params["loc"], params["scale"])
        log_ratio = 0.5 * jnp.log(half) + gamma_ratio_rest(half)  # Γ(ν/2 + ½) / Γ(ν/2)
        tail = (half + 0.5) * jnp.log1p(z * ratio(z, df))
        loss: Array = tail + jnp.log(params["scale"]) + 0.5 * jnp.log(jnp.pi * df) - log_ratio
        return loss

    def sample(self, params: PyTree, key: PRNGKey) -> Array:
        loc, scale = params["loc"], params["scale"]
        drawn: Array = loc + scale * jax.random.t(key, params["df"], loc.shape, loc.dtype)
        return drawn

    def mean(self, params: PyTree) -> Array:
        mean: Array = jnp.where(params["df"] > 1, params["loc"], jnp.nan)
        return mean

    def crps(self, params: PyTree, values: ArrayLike) -> Array:
        df = params["df"]
        z = ratio(values - params["loc"], params["scale"])
        standard = {"df": df, "loc": jnp.zeros_like(df), "scale": jnp.ones_like(df)}
        density = jnp.exp(-self.losses(standard, z))
        # 2 √ν / (ν - 1) · B(½, ν - ½) / B(½, ν/2)², in which the main terms of the beta functions
        # are cancelled on paper.
        spread = jnp.exp(2 * gamma_ratio_rest(df / 2) - gamma_ratio_rest(df - 0.5))
        spread *= jnp.sqrt(df / (df - 0.5) / jnp.pi) * (df / (df - 1))
        score = z * _central(df, z) + 2 * density * ((df + z**2) / (df - 1)) - spread
        return jnp.where(df > 1, params["scale"] * score, jnp.inf)


MANY = 200.0
"""From this number of degrees of freedom on, the error of Hill's series is below 1e-9."""


def _central(df: Array, z: Array) -> Array:
    """Return 2 F(z) - 1 for Student's t-distribution, the probability of (-|z|, |z|) with a sign.

    References:
      Hill (1970), Algorithm 395: Student's t-distribution (the series for many degrees of freedom).
    """
    few, many = jnp.minimum(df, MANY), jnp.maximum(df, MANY)
    exact = jnp.sign(z) * betainc(0.5, few / 2, z**2 / (few + z**2))
    a = many - 0.5
    y = a * jnp.log1p(z**2 / many)
    b = 48 * jnp.minimum(a, 1e9) ** 2  # above, the series adds nothing
    series = (((-0.4 * y - 3.3) * y - 24) * y - 85.5) / (0.8 * y**2 + 100 + b)
    normal = jnp.sqrt(y) * (1 + (series + y + 3) / b)
    return jnp.where(df < MANY, exact, jnp.sign(z) * erf(normal / jnp.sqrt(2.0)))
