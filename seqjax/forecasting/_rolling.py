"""Windows for training, and the evaluation of forecasts from successive origins."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks
from seqjax.data._containers import numbers
from seqjax.types import PRNGKey

__all__ = ["Backtest", "backtest", "rolling_origins", "training_windows"]


class Backtest(NamedTuple):
    """Forecasts of N series from R origins.

    Attributes:
      forecasts: float `[N, R, H, ...]`, such as samples `[N, R, H, S]`.
      targets: float32 `[N, R, H]`, the true values; NaN is missing.
      origins: int `[R]`, the number of steps before each forecast.
    """

    forecasts: np.ndarray
    targets: np.ndarray
    origins: np.ndarray


def rolling_origins(
    steps: int, horizon: int, *, first: int, stride: int | None = None
) -> np.ndarray:
    """Return the origins of successive forecasts: first, first + stride, and so on.

    An origin o is the number of steps before a forecast, which predicts the steps o … o + H - 1.
    All steps of each forecast are among the `steps` steps.

    Args:
      steps: the number of steps, T.
      horizon: H, the number of steps of a forecast.
      first: the first origin, such as the number of steps of the training part.
      stride: the number of steps between origins. By default, it is `horizon`, so that each step
        is predicted once.

    Raises:
      TypeError, ValueError: an argument is not a positive integer, or there is no such forecast.

    Example:
      >>> rolling_origins(10, 3, first=4).tolist()
      [4, 7]
      >>> rolling_origins(10, 3, first=4, stride=1).tolist()
      [4, 5, 6, 7]
    """
    steps, horizon = (
        checks.require_integer("steps", steps),
        checks.require_integer("horizon", horizon),
    )
    first = checks.require_integer("first", first)
    stride = horizon if stride is None else checks.require_integer("stride", stride)
    if first + horizon > steps:
        raise ValueError(
            f"first, horizon: expected a sum of at most {steps}, the number of steps, got {first} "
            f"and {horizon}"
        )
    return np.arange(first, steps - horizon + 1, stride)


def training_windows(
    values: ArrayLike,
    *,
    context: int,
    horizon: int,
    stride: int = 1,
    known: ArrayLike | None = None,
    static: ArrayLike | None = None,
    categories: ArrayLike | None = None,
) -> dict[str, np.ndarray]:
    """Cut series into windows of `context` steps and the `horizon` steps after them.

    The origins of a series are context, context + stride, and so on; the last one is at most
    `horizon` steps before the end of the last observed value. If a series is shorter than a window,
    its only window has padding at the start, which `mask` marks. A series of at most `horizon`
    steps has no window. Windows without an observed value among their first `context` steps, from
    which a model computes the scale, or among their last `horizon` steps are left out.

    Pass only the steps of the training part: `values[:, :first]`. The result is a dict of arrays
    for `seqjax.data.batches(windows, sequence_keys=(), ...)`.

    Args:
      values: float or int `[N, T]`, the values of N series. NaN marks a missing value.
      context: the number of steps of the past.
      horizon: H, the number of steps to predict.
      stride: the number of steps between the windows of a series.
      known: float `[N, T, K]`, or `[T, K]` for all series, the known covariates.
      static: float `[N, S]`, the static features.
      categories: int `[N, C]`, the categories.

    Returns:
      A dict of arrays of M windows, W = context + horizon steps each: `values` float32 `[M, W]`,
      `mask` bool `[M, W]`, `series` int `[M]` (the index of the series), `origin` int `[M]` (the
      number of steps of the series before the horizon) and, if they are given, `known`
      `[M, W, K]`, `static` `[M, S]` and `categories` `[M, C]`.

    Raises:
      TypeError, ValueError: an array has a wrong dtype or shape, a size is not positive, or there
        is no window with an observed value to predict.

    Example:
      >>> windows = training_windows(np.arange(6.0)[None], context=3, horizon=2)
      >>> windows["values"].tolist(), windows["origin"].tolist()
      ([[0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0]], [3, 4])
    """
    found = _series(values)
    features = _known(known, found.shape)
    context, horizon = (
        checks.require_integer("context", context),
        checks.require_integer("horizon", horizon),
    )
    stride = checks.require_integer("stride", stride)
    pairs = []
    for index, row in enumerate(found):
        seen = ~np.isnan(row)
        observed = np.flatnonzero(seen)
        last = observed[-1] + 1 - horizon if len(observed) else 0
        origins = np.arange(context, last + 1, stride) if last >= context else np.array([last])
        pairs += [
            (index, origin)
            for origin in origins
            if origin >= 1
            and seen[max(origin - context, 0) : origin].any()
            and seen[origin : origin + horizon].any()
        ]
    if not pairs:
        raise ValueError(
            f"values: expected a series with observed values in {context} steps and in the "
            f"horizon={horizon} steps after them, got none in {len(found)} series of "
            f"{found.shape[1]} steps, [N, T]"
        )
    series, origin = np.array(pairs).T
    steps = origin[:, None] + np.arange(-context, horizon)
    mask, steps = steps >= 0, np.maximum(steps, 0)
    windows = {
        "values": np.where(mask, found[series[:, None], steps], 0).astype(np.float32),
        "mask": mask, "series": series, "origin": origin,
    }  # fmt: skip
    if features is not None:
        known_steps = np.where(mask[..., None], features[series[:, None], steps], 0)
        _require_finite("known", known_steps)
        windows["known"] = known_steps
    for name, given in (("static", static), ("categories", categories)):
        if given is not None:
            windows[name] = _of_series(name, given, len(found))[series]
    return windows


def backtest(
    forecast: Callable[..., Any],
    values: ArrayLike,
    key: PRNGKey,
    *,
    context: int,
    horizon: int,
    first: int,
    stride: int | None = None,
    known: ArrayLike | None = None,
    static: ArrayLike | None = None,
    categories: ArrayLike | None = None,
) -> Backtest:
    """Forecast series from successive origins, each from the steps before its origin.

    The function `forecast` gets copies of the `context` values before an origin and of the
    covariates, but no later value, so that no forecast can depend on the values that it predicts.
    To measure a model on steps that it has not learned, train it with `values[:, :first]`.

    Args:
      forecast: `forecast(values, key, **covariates)`, which returns an array `[N, H, ...]` for
        values `[N, context]`. The covariates are `known` `[N, context, K]`, `future_known`
        `[N, H, K]`, `static` and `categories`, of which only those that are given are passed. An
        example is `functools.partial(model.sample, horizon=24)`.
      values: float or int `[N, T]`, the values of N series. NaN marks a missing value.
      key: a random key, from which each origin gets its own.
      context: the number of values that a forecast reads, at most `first`.
      horizon: H, the number of steps of a forecast.
      first: the first origin; see `rolling_origins`.
      stride: the number of steps between origins; by default, `horizon`.
      known: float `[N, T, K]`, or `[T, K]` for all series, the known covariates.
      static: float `[N, S]`, the static features.
      categories: int `[N, C]`, the categories.

    Returns:
      A `Backtest`, whose forecasts and targets fit `crps`, `quantile_loss` and `coverage`.

    Raises:
      TypeError, ValueError: an array has a wrong dtype or shape, `context` is larger than `first`,
        the origins are not valid, or a forecast has another shape.

    Example:
      >>> def persistence(values, key):
      ...     return np.repeat(values[:, -1:], 2, axis=1)[..., None]  # one sample
      >>> result = backtest(
      ...     persistence, np.arange(8.0)[None], jax.random.key(0), context=2, horizon=2, first=4
      ... )
      >>> result.forecasts[0, :, :, 0].tolist(), result.targets[0].tolist()
      ([[3.0, 3.0], [5.0, 5.0]], [[4.0, 5.0], [6.0, 7.0]])
    """
    if not callable(forecast):
        raise TypeError(f"forecast: expected a function, got {checks.brief(forecast)}")
    key = checks.require_key("key", key)
    found = _series(values)
    features = _known(known, found.shape)
    context = checks.require_integer("context", context)
    origins = rolling_origins(found.shape[1], horizon, first=first, stride=stride)
    if context > first:
        raise ValueError(f"context: expected at most first={first}, got {context}")
    fixed = {
        name: _of_series(name, given, len(found))
        for name, given in (("static", static), ("categories", categories))
        if given is not None
    }
    if features is not None:
        _require_finite("known", features[:, first - context : origins[-1] + horizon])
    forecasts: list[np.ndarray] = []
    for number, origin in enumerate(origins):
        covariates = {name: array.copy() for name, array in fixed.items()}
        if features is not None:
            covariates["known"] = features[:, origin - context : origin].copy()
            covariates["future_known"] = features[:, origin : origin + horizon].copy()
        past = found[:, origin - context : origin].copy()
        predicted = np.asarray(forecast(past, jax.random.fold_in(key, number), **covariates))
        if predicted.shape[:2] != (len(found), horizon):
            raise ValueError(
                f"forecast: expected a result [{len(found)}, {horizon}, ...], the series and the "
                f"horizon, got shape {predicted.shape}"
            )
        if forecasts and predicted.shape != forecasts[0].shape:
            raise ValueError(
                f"forecast: expected results of one shape, {forecasts[0].shape} as at the origin "
                f"{origins[0]}, got {predicted.shape} at the origin {origin}"
            )
        forecasts.append(predicted)
    targets = np.stack([found[:, origin : origin + horizon] for origin in origins], axis=1)
    return Backtest(np.stack(forecasts, axis=1), targets, origins)


def _series(values: Any) -> np.ndarray:
    checks.require_unmasked("values", values)
    found = numbers("values", values)
    if found.ndim != 2 or not found.size:
        raise ValueError(f"values: expected a non-empty [N, T], got shape {found.shape}")
    if found.dtype.kind not in "fiu":
        raise TypeError(f"values: expected real numbers, got {found.dtype}")
    if np.isinf(found).any():
        raise ValueError("values: expected finite numbers, or NaN for missing values, got inf")
    checks.require_fit("values", found, np.float32, "numbers")
    return found.astype(np.float32)


def _known(known: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if known is None:
        return None
    found = numbers("known", known)
    if found.ndim not in (2, 3) or found.shape[:-1] not in (shape, shape[-1:]):
        raise ValueError(
            f"known: expected [N, T, K] or [T, K] for values of shape {shape}, got {found.shape}"
        )
    if found.dtype.kind not in "fiub":
        raise TypeError(f"known: expected real numbers, got {found.dtype}")
    checks.require_fit("known", found.astype(np.float64), np.float32, "numbers")
    return np.broadcast_to(found, (*shape, found.shape[-1])).astype(np.float32)


def _require_finite(name: str, features: np.ndarray) -> None:
    """Raise an error that names the first feature, the last axis, with NaN or inf."""
    wrong = np.argwhere(~np.isfinite(features))
    if len(wrong):
        raise ValueError(
            f"{name}: expected finite numbers, got {features[tuple(wrong[0])]} in the feature "
            f"{wrong[0][-1]} of {features.shape[-1]}"
        )


def _of_series(name: str, given: Any, count: int) -> np.ndarray:
    found: np.ndarray = numbers(name, given)
    if found.ndim != 2 or len(found) != count:
        raise ValueError(f"{name}: expected one row for each of {count} series, got {found.shape}")
    kinds, expected = ("iu", "integers") if name == "categories" else ("fiub", "real numbers")
    if found.dtype.kind not in kinds:
        raise TypeError(f"{name}: expected {expected}, got {found.dtype}")
    if name == "static":
        _require_finite(name, found)
        checks.require_fit(name, found.astype(np.float64), np.float32, "numbers")
    return found
