"""The scaled values of series, and their last steps, from which forecasts start."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from seqjax import checks
from seqjax.forecasting._distributions import Distribution, require_possible
from seqjax.forecasting._scaling import Scale, absolute_scale, standard_scale
from seqjax.forecasting._targets import observed_values
from seqjax.types import Array

__all__ = ["History", "Scaling", "read_history", "require_scaling"]

Scaling = Literal["absolute", "standard", "none"]
"""The scaling of series: by `absolute_scale`, by `standard_scale`, or none."""


class History(NamedTuple):
    """Scaled values of series.

    Attributes:
      scaled: float `[..., T]`, with 0 where no value is observed.
      observed: bool `[..., T]`.
      real: bool `[..., T]`, or None if all steps are real.
      scale: the `Scale` of each series, with arrays `[...]`.
    """

    scaled: Array
    observed: Array
    real: Array | None
    scale: Scale

    def filled(self) -> "History":
        """Return the history with missing values replaced by the last observed value before them.

        A value before the first observed value becomes 0. All others are then marked as observed.
        """
        index = jnp.where(self.observed, jnp.arange(self.observed.shape[-1]), 0)
        last = jax.lax.cummax(index, axis=index.ndim - 1)
        return self._replace(
            scaled=jnp.take_along_axis(self.scaled, last, axis=-1),
            observed=jnp.take_along_axis(self.observed, last, axis=-1),
        )

    def before(self, offsets: Any) -> tuple[Array, Array]:
        """Return the values at offsets before the end of each series, and whether each is observed.

        The end of a series comes after its last real step, so offset 1 is the last real step.

        Args:
          offsets: positive integers of any shape.

        Returns:
          Scaled values and bool `[..., *offsets.shape]`, 0 and False before the first step.
        """
        offsets = np.asarray(offsets)
        steps = self.scaled.shape[-1]
        batch_shape = self.scaled.shape[:-1]
        if not steps:
            empty = jnp.zeros((*batch_shape, *offsets.shape), self.scaled.dtype)
            return empty, empty.astype(bool)
        end = jnp.full(batch_shape, steps)
        if self.real is not None:
            last = steps - jnp.argmax(self.real[..., ::-1], axis=-1)
            end = jnp.where(self.real.any(axis=-1), last, 0)
        index = end[..., None] - offsets.ravel()
        inside, index = index >= 0, jnp.maximum(index, 0)
        values = jnp.where(inside, jnp.take_along_axis(self.scaled, index, axis=-1), 0.0)
        observed = inside & jnp.take_along_axis(self.observed, index, axis=-1)
        shape = (*batch_shape, *offsets.shape)
        return values.reshape(shape), observed.reshape(shape)


def require_scaling(scaling: Any, distribution: Distribution) -> Scaling:
    """Return the name of a scaling, or raise if it is unknown or does not fit the distribution."""
    checks.require_name("scaling", scaling, get_args(Scaling))
    if scaling == "standard" and not distribution.shifts:
        raise ValueError(
            f'scaling: expected "absolute" or "none" for {type(distribution).__name__}, whose '
            'values have no location, got "standard"'
        )
    found: Scaling = scaling
    return found


def read_history(
    values: ArrayLike,
    lengths: Any,
    mask: Any,
    scaling: Scaling,
    context: int | None = None,
    *,
    distribution: Distribution,
) -> History:
    """Return scaled values; the scale is that of the first `context` steps, or of all steps.

    If a value is not possible for the distribution, an error is raised outside tracing. Under
    tracing, the scale of the series is NaN, and so is all that is computed from it.
    """
    found, observed, real = observed_values("values", values, lengths, mask)
    possible = require_possible("values", distribution, found)
    if context is not None and checks.require_integer("context", context) > found.shape[-1]:
        raise ValueError(f"context: expected at most {found.shape[-1]} steps, got {context}")
    known = observed if context is None else observed & (jnp.arange(found.shape[-1]) < context)
    if scaling == "none":
        size = jnp.ones(found.shape[:-1], found.dtype)
        scale = Scale(jnp.zeros_like(size), size)
    else:
        scale = (absolute_scale if scaling == "absolute" else standard_scale)(found, mask=known)
    if checks.is_traced(possible):
        valid = possible.all(axis=-1)
        scale = Scale(*(jnp.where(valid, one, jnp.nan) for one in scale))
    scaled = (found - scale.loc[..., None]) / scale.scale[..., None]
    return History(jnp.where(observed, scaled, 0.0), observed, real, scale)
