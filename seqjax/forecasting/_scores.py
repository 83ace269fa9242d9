"""Scores of probabilistic forecasts, as means over the observed values of real steps."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax import _elements, checks
from seqjax._elements import Mean
from seqjax._hints import LOSSES, hints
from seqjax.forecasting._quantiles import pinball, require_levels
from seqjax.forecasting._targets import observed_values
from seqjax.types import Array

__all__ = ["coverage", "crps", "quantile_loss"]


@hints(**LOSSES)
def crps(
    samples: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    fair: bool = False,
) -> Mean:
    """Return the continuous ranked probability score (CRPS) of samples; smaller is better.

    For S samples x_s of the forecast and a target y, the score is

        CRPS = (1/S) Σ_s |x_s - y| - 1/(2 S²) Σ_s Σ_r |x_s - x_r|

    This is the integral ∫ (F(x) - 1[x ≥ y])² dx for the empirical distribution F of the samples.
    Its unit is that of the targets. For one sample, it is the absolute error. The scores of the
    same distribution decrease with the number of samples. With `fair`, S² is replaced by S (S - 1),
    so that the expected score does not depend on S.

    Args:
      samples: float `[..., T, S]`, samples of each target.
      targets: float or int `[..., T]`, the true values. NaN marks a missing value.
      lengths: int `[...]`, the number of real steps of each series.
      mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.
      fair: whether the score is unbiased for the distribution that the samples come from. It needs
        at least two samples.

    Returns:
      The mean over the observed targets, as a `seqjax.metrics.Mean`.

    Raises:
      TypeError: samples are not float, or another argument has a wrong dtype.
      ValueError: shapes do not match, or there are too few samples.

    References:
      Gneiting, Raftery (2007), Strictly proper scoring rules, prediction, and estimation, eq. 21.
      Ferro (2014), Fair scores for ensemble forecasts.

    Example:
      >>> mean = crps(jnp.array([[[0.0, 2.0], [0.0, 2.0]]]), jnp.array([[1.0, jnp.nan]]))
      >>> float(mean.value()), int(mean.count)
      (0.5, 1)
    """
    found, values, observed = _pair("samples", "S", samples, targets, lengths, mask)
    number = found.shape[-1]
    if number < 1 + checks.require_bool("fair", fair):
        raise ValueError(f"samples: expected at least {1 + fair} samples, got {number}")
    errors = jnp.sort(found - values[..., None], axis=-1)
    # Σ_s Σ_r |x_s - x_r| = 2 Σ_s (2 s - S - 1) x_(s) for the sorted samples.
    weights = (2 * jnp.arange(number) - number + 1).astype(errors.dtype)
    pairs = number * (number - 1 if fair else number)
    spread = (errors * (weights / pairs)).sum(axis=-1)
    return Mean.of(jnp.abs(errors).mean(axis=-1) - spread, mask=observed)


@hints(**LOSSES)
def quantile_loss(
    quantiles: ArrayLike,
    targets: ArrayLike,
    levels: Sequence[float],
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Return the pinball loss of predicted quantiles, averaged over levels and targets.

    For a quantile q at the level τ and a target y, the loss is max(τ (y - q), (τ - 1) (y - q)). Two
    times the mean over many evenly spaced levels is approximately the CRPS. The quotient of two
    times the total of the loss and the total of |y| is the weighted quantile loss of other
    libraries.

    Args:
      quantiles: float `[..., T, Q]`, the predicted quantiles.
      targets: float or int `[..., T]`, the true values. NaN marks a missing value.
      levels: the Q levels of the quantiles, increasing numbers between 0 and 1.
      lengths: int `[...]`, the number of real steps of each series.
      mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.

    Returns:
      The mean as a `seqjax.metrics.Mean`, whose count is Q times the number of observed targets.

    Raises:
      TypeError: quantiles are not float, or another argument has a wrong dtype.
      ValueError: shapes do not match, or the levels are not increasing numbers between 0 and 1.

    Example:
      >>> mean = quantile_loss(jnp.array([[[0.0, 1.0]]]), jnp.array([[2.0]]), (0.5, 0.9))
      >>> print(f"{mean.value():.2f}")  # (0.5 · 2 + 0.9 · 1) / 2
      0.95
    """
    levels = require_levels(levels)
    found, values, observed = _pair("quantiles", "Q", quantiles, targets, lengths, mask)
    if found.shape[-1] != len(levels):
        raise ValueError(
            f"levels: expected one for each of {found.shape[-1]} quantiles, got {len(levels)}"
        )
    return Mean.of(pinball(found, values, levels), mask=observed)


@hints(**LOSSES)
def coverage(
    low: ArrayLike,
    high: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Return the share of targets in the interval [low, high].

    If `low` and `high` are the predicted quantiles at 0.1 and 0.9, the share should be 0.8.

    Args:
      low: float `[..., T]`, the lower end of each interval.
      high: float `[..., T]`, the upper end of each interval.
      targets: float or int `[..., T]`, the true values. NaN marks a missing value.
      lengths: int `[...]`, the number of real steps of each series.
      mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.

    Returns:
      The mean as a `seqjax.metrics.Mean`. At an interval with a NaN, it is NaN.

    Raises:
      TypeError: an end is not float, or another argument has a wrong dtype.
      ValueError: shapes do not match.

    Example:
      >>> low, high = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 1.0]])
      >>> float(coverage(low, high, jnp.array([[0.5, 2.0]])).value())
      0.5
    """
    values, observed, _ = observed_values("targets", targets, lengths, mask)
    ends = []
    for name, end in (("low", low), ("high", high)):
        end = _elements.floats(name, end)
        if end.shape != values.shape:
            raise ValueError(
                f"{name}: expected the shape of targets, {values.shape}, got {end.shape}"
            )
        ends.append(end)
    inside = (ends[0] <= values) & (values <= ends[1])
    known = ~jnp.isnan(ends[0]) & ~jnp.isnan(ends[1])
    return Mean.of(jnp.where(known, inside.astype(values.dtype), jnp.nan), mask=observed)


def _pair(
    name: str, size: str, values: ArrayLike, targets: ArrayLike, lengths: object, mask: object
) -> tuple[Array, Array, Array]:
    """Return samples or quantiles, the targets, and which targets are observed."""
    found = _elements.floats(name, values)
    wanted, observed, _ = observed_values("targets", targets, lengths, mask)
    if found.shape[:-1] != wanted.shape or not found.shape[-1:]:
        raise ValueError(
            f"{name}: expected [..., T, {size}] for targets {wanted.shape}, got {found.shape}"
        )
    found = found.astype(jnp.promote_types(found.dtype, wanted.dtype))
    # Without this, a NaN in padding would reach gradients.
    return _elements.hidden_by(found, observed), wanted, observed
