"""The location and the scale of each series, computed from its observed values."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax.forecasting._distributions import SMALLEST
from seqjax.forecasting._targets import observed_values
from seqjax.types import Array

__all__ = ["Scale", "absolute_scale", "standard_scale"]

FLATNESS = 1e-3
"""Least deviation of a series in units of its mean absolute value."""


class Scale(NamedTuple):
    """The location and the scale of each series, by which its values are scaled: (y - loc) / scale.

    Attributes:
      loc: float `[...]`, the value that becomes 0.
      scale: float `[...]`, positive.
    """

    loc: Array
    scale: Array


def absolute_scale(
    values: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Scale:
    """Return the mean absolute value of each series as its scale; the location is 0.

        scale = (1/N) Σ_n |y_n|      over the N observed values

    If all observed values are 0, or there are none, or the scale is below 1.2e-30 (float32), the
    scale is 1: deviations, which may be 1e-5 of a scale, would become 0.

    Args:
      values: float or int `[..., T]`, the values of the series. NaN marks a missing value.
      lengths: int `[...]`, the number of real steps of each series.
      mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.

    Returns:
      A `Scale` of arrays `[...]` in float32 or wider.

    Raises:
      TypeError, ValueError: an array has a wrong dtype or shape.

    References:
      Salinas, Flunkert, Gasthaus, Januschowski (2020), DeepAR: probabilistic forecasting with
      autoregressive recurrent networks (section 3.3; there, 1 is added to the scale).

    Example:
      >>> values = jnp.array([[2.0, jnp.nan, -4.0, 99.0], [0.0, 0.0, 0.0, 0.0]])
      >>> absolute_scale(values, lengths=jnp.array([3, 4])).scale.tolist()
      [3.0, 1.0]
    """
    found, observed, _ = observed_values("values", values, lengths, mask)
    size = _mean(jnp.abs(found), observed)
    return Scale(jnp.zeros_like(size), _usable(size)[0])


def standard_scale(
    values: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Scale:
    """Return the mean and the standard deviation of each series as its location and scale.

        loc   = (1/N) Σ_n y_n      over the N observed values
        scale = √((1/N) Σ_n (y_n - loc)² + (1/1000 · (1/N) Σ_n |y_n|)²)

    The second term of the scale has an effect only on series whose deviation is about 0.1 % of
    their mean absolute value, or less. If all observed values are 0, or there are none, or their
    mean absolute value is below 1.2e-30 (float32), the scale is 1. The arguments, the result and
    the errors are those of `absolute_scale`.

    Example:
      >>> loc, scale = standard_scale(jnp.array([[1.0, 3.0, jnp.nan]]))
      >>> loc.tolist(), scale.round(4).tolist()
      ([2.0], [1.0])
    """
    found, observed, _ = observed_values("values", values, lengths, mask)
    size, usable = _usable(_mean(jnp.abs(found), observed))
    # In units of the size, squares neither overflow nor underflow.
    scaled = found / size[..., None]
    loc = _mean(scaled, observed)
    variance = _mean(jnp.where(observed, scaled - loc[..., None], 0.0) ** 2, observed)
    scale = size * jnp.sqrt(variance + FLATNESS**2)
    return Scale(loc * size, jnp.where(usable, scale, 1.0))


def _mean(values: Array, observed: Array) -> Array:
    """Return means over observed values; the values are divided first so that no sum overflows."""
    count = jnp.maximum(observed.sum(axis=-1, keepdims=True), 1).astype(values.dtype)
    return (values / count).sum(axis=-1)


def _usable(size: Array) -> tuple[Array, Array]:
    """Return the size, or 1 if its least deviation would not be a normal number, and whether not.

    A deviation is at least `SMALLEST` of a scale, which is at least `FLATNESS` of the size.
    """
    usable = size > jnp.finfo(size.dtype).tiny / (SMALLEST * FLATNESS)
    return jnp.where(usable, size, 1.0), usable
