"""The parts that all forecasters share: distribution, scaling, covariates, and checked inputs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx
from jax.typing import ArrayLike

from seqjax import _elements
from seqjax.forecasting._covariates import Covariates
from seqjax.forecasting._distributions import Distribution, require_distribution
from seqjax.forecasting._history import History, Scaling, read_history, require_scaling
from seqjax.forecasting._likelihood import losses
from seqjax.types import Array, PyTree

__all__ = ["Forecaster", "Inputs"]


class Inputs(NamedTuple):
    """The checked inputs of a forecaster.

    Attributes:
      history: the scaled values.
      past: float `[..., T, K]`, the known covariates of the values.
      future: float `[..., H, K]`, the known covariates of the forecast; H is 0 without a horizon.
      series: float `[..., S]`, the static features and the embedded categories.
    """

    history: History
    past: Array
    future: Array
    series: Array


class Forecaster(nnx.Module):
    """A distribution, a scaling and covariates; a subclass adds the networks.

    The arguments are those of `AutoregressiveForecaster`.
    """

    def __init__(
        self,
        distribution: Distribution,
        scaling: Scaling,
        known: Sequence[str],
        static: Sequence[str],
        categories: Mapping[str, int] | None,
        *,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        require_distribution(distribution)
        self.distribution = distribution
        self.scaling = require_scaling(scaling, distribution)
        self.covariates = Covariates(
            known, static, categories or {}, param_dtype=param_dtype, rngs=rngs
        )

    def _inputs(
        self,
        values: ArrayLike,
        known: ArrayLike | None,
        static: ArrayLike | None,
        categories: ArrayLike | None,
        lengths: ArrayLike | None,
        mask: ArrayLike | None,
        *,
        future_known: ArrayLike | None = None,
        horizon: int | None = None,
        context: int | None = None,
    ) -> Inputs:
        """Return the checked inputs of a forecast, or without a horizon those of the values."""
        history = read_history(
            values, lengths, mask, self.scaling, context, distribution=self.distribution
        )
        batch_shape = history.observed.shape[:-1]
        past = self.covariates.of_values(known, history.observed.shape, history.real)
        if horizon is None:
            future = past[..., :0, :]
        else:
            future = self.covariates.of_future(future_known, (*batch_shape, horizon))
        series = self.covariates.of_series(static, categories, batch_shape)
        return Inputs(history, past, future, series)

    def _mean_loss(
        self, history: History, params: PyTree, targets: ArrayLike, lengths: Any, mask: Any
    ) -> Array:
        """Return the loss of targets `[..., T]`, in units of the scales if it has a unit."""
        found, observed = losses(self.distribution, params, targets, lengths, mask)
        if self.distribution.in_units:
            found = found / history.scale.scale[..., None]
        return _elements.averaged(found, observed, False)
