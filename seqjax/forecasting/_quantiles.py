"""A distribution given by its quantiles."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from seqjax import checks
from seqjax.forecasting._distributions import Distribution, positive_scale, raw_outputs
from seqjax.types import Array, PRNGKey

__all__ = ["Quantiles", "require_levels"]


def require_levels(levels: Any) -> tuple[float, ...]:
    """Return levels of quantiles as a tuple, or raise unless they increase within (0, 1)."""
    if isinstance(levels, (str, bytes)) or not isinstance(levels, (Sequence, np.ndarray, Array)):
        raise TypeError(
            f"levels: expected a sequence of numbers such as (0.1, 0.5, 0.9), got "
            f"{checks.brief(levels)}"
        )
    found = tuple(checks.require_number("levels", one) for one in np.asarray(levels).tolist())
    if not found or not all(a < b for a, b in zip((0.0, *found), (*found, 1.0), strict=True)):
        raise ValueError(f"levels: expected increasing numbers between 0 and 1, got {found}")
    return found


def pinball(quantiles: Array, values: Array, levels: tuple[float, ...]) -> Array:
    """Return max(τ (y - q), (τ - 1) (y - q)) for quantiles [..., Q] and values [...]."""
    tau = jnp.asarray(levels, quantiles.dtype)
    error = values[..., None] - quantiles
    return jnp.maximum(tau * error, (tau - 1) * error)


@dataclasses.dataclass(frozen=True)
class Quantiles(Distribution):
    """A distribution of which a network predicts some quantiles. The loss is the pinball loss.

    The parameters are the quantiles, float `[..., Q]`, at Q levels τ. The network predicts the
    middle quantile, m = ⌊Q/2⌋, and the distances between quantiles, so quantiles never cross:

        q_m = loc + scale · o_m
        q_k = q_(k+1) - scale · softplus(o_k)      for k < m
        q_k = q_(k-1) + scale · softplus(o_k)      for k > m

    The loss of a value y is the mean over the levels of max(τ (y - q), (τ - 1) (y - q)). `crps`
    returns two times this mean, which is an approximation of the CRPS: the CRPS is two times the
    integral of the pinball loss over all levels. `sample` and `mean` interpolate linearly between
    the quantiles, and return no values outside of them. To draw an interval, predict its ends.

    Args:
      levels: the levels τ, increasing numbers between 0 and 1.

    Raises:
      TypeError, ValueError: the levels are not increasing numbers between 0 and 1.

    References:
      Koenker, Bassett (1978), Regression quantiles. Wen, Torkkola, Narayanaswamy, Madeka (2017), A
      multi-horizon quantile recurrent forecaster.

    Example:
      >>> distribution = Quantiles((0.1, 0.5, 0.9))
      >>> params = jnp.array([[-1.0, 0.0, 2.0]])
      >>> print(f"{distribution.losses(params, jnp.array([1.0]))[0]:.3f}")  # (0.2 + 0.5 + 0.1) / 3
      0.267
    """

    in_units: ClassVar[bool] = True
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", require_levels(self.levels))

    @property
    def size(self) -> int:
        """The number of levels, Q."""
        return len(self.levels)

    def params(self, outputs: ArrayLike, *, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0) -> Array:
        outputs = raw_outputs(self, outputs)
        middle = self.size // 2
        steps = jax.nn.softplus(outputs)
        below = jnp.cumsum(steps[..., :middle][..., ::-1], axis=-1)[..., ::-1]
        above = jnp.cumsum(steps[..., middle + 1 :], axis=-1)
        centre = outputs[..., middle : middle + 1]
        scaled = jnp.concatenate([centre - below, centre, centre + above], axis=-1)
        loc, scale = jnp.asarray(loc, outputs.dtype), positive_scale(scale, outputs.dtype)
        return loc[..., None] + scale[..., None] * scaled

    def losses(self, params: Array, values: ArrayLike) -> Array:
        params = self._checked(params)
        values = jnp.asarray(values, params.dtype)
        return pinball(params, values, self.levels).mean(axis=-1)

    def _checked(self, params: Any) -> Array:
        """Return quantiles as an array, or raise if there is not one for each level."""
        if np.shape(params)[-1:] != (self.size,):
            raise ValueError(
                f"params: expected quantiles [..., {self.size}], one for each level, got "
                f"{checks.brief(params) if isinstance(params, Mapping) else np.shape(params)}"
            )
        return jnp.asarray(params)

    def sample(self, params: Array, key: PRNGKey) -> Array:
        params = self._checked(params)
        levels = jnp.asarray(self.levels, params.dtype)
        u = jax.random.uniform(key, params.shape[:-1], params.dtype)
        if self.size == 1:
            return params[..., 0]
        left = jnp.clip(jnp.searchsorted(levels, u) - 1, 0, self.size - 2)
        share = jnp.clip((u - levels[left]) / (levels[left + 1] - levels[left]), 0.0, 1.0)
        low, high = (
            jnp.take_along_axis(params, (left + n)[..., None], axis=-1)[..., 0] for n in (0, 1)
        )
        return low + share * (high - low)

    def mean(self, params: Array) -> Array:
        params = self._checked(params)
        edges = np.concatenate([[0.0], self.levels, [1.0]])
        widths = np.diff(edges)
        weights = (widths[:-1] + widths[1:]) / 2
        weights[0] += widths[0] / 2
        weights[-1] += widths[-1] / 2
        return params @ jnp.asarray(weights, params.dtype)

    def crps(self, params: Array, values: ArrayLike) -> Array:
        return 2 * self.losses(params, values)
