"""A forecaster that predicts all steps of the horizon at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from seqjax import cells, checks
from seqjax.forecasting._distributions import Distribution
from seqjax.forecasting._forecaster import Forecaster, Inputs
from seqjax.forecasting._history import Scaling
from seqjax.forecasting._quantiles import Quantiles
from seqjax.nn import Recurrent
from seqjax.nn._noise import streams
from seqjax.types import Array, PRNGKey, PyTree

__all__ = ["DirectForecaster"]


class DirectForecaster(Forecaster):
    """Two recurrent networks, over the past and the future, that predict all steps at once.

        e_t = RNN([z_t; known covariates of step t; features of the series], e_(t-1))    t = 1 … T
        b_h = [the values at the same time of the seasons before step T+h; the last value]
        d_h = RNN'([b_h; known covariates of step T+h; features of the series], d_(h-1)),  d_0 = e_T
        p(y_(T+h) | y_1 … y_T) = distribution(W d_h + b, loc + scale · w_h · b_h, scale)

    The learned weights w_h begin as those of a mean, so that an untrained model repeats the mean of
    the seasons and of the last value. For counts, which have no location, this term is left out.
    The steps are predicted independently of each other given the past: samples of one step are
    valid, but sums over steps need an `AutoregressiveForecaster`. A forecast has at most `horizon`
    steps.

    A missing value (NaN) is replaced by the last observed value of its series. If a season begins
    before the first observed value, the values after it in b_h take its place: those of the next
    season or, if there is none, the last value. Features of the series are the static features and
    the embedded categories.

    Args:
      hidden_size: the number of units of each recurrent layer.
      horizon: H, the number of steps to forecast.
      distribution: the distribution of a value. By default, it is `Quantiles((0.1, 0.5, 0.9))`.
      season: the number of steps of a season, such as 24 for hours.
      seasons: the number of earlier seasons that the network reads for each step; 0 for none.
      cell: the cell of the recurrent layers: a name in `seqjax.CELLS`, a class, or a cell.
      num_layers: the number of layers of each of the two networks.
      dropout: the dropout rate between the layers and before the distribution.
      known, static, categories: as for `AutoregressiveForecaster`.
      scaling: as for `AutoregressiveForecaster`. By default, it is "standard", and "absolute" for
        counts.
      dtype, param_dtype, rngs: as for `AutoregressiveForecaster`.

    Raises:
      TypeError, ValueError: an argument is of a wrong type or out of range, or the distribution
        does not support the scaling.

    References:
      Wen, Torkkola, Narayanaswamy, Madeka (2017), A multi-horizon quantile recurrent forecaster.

    Example:
      >>> model = DirectForecaster(8, 3, known=["price"], rngs=nnx.Rngs(0))
      >>> quantiles = model(
      ...     jnp.ones((2, 5)), known=jnp.zeros((2, 5, 1)), future_known=jnp.zeros((2, 3, 1))
      ... )
      >>> quantiles.shape
      (2, 3, 3)
    """

    def __init__(
        self,
        hidden_size: int,
        horizon: int,
        distribution: Distribution | None = None,
        *,
        season: int = 1,
        seasons: int = 0,
        cell: Any = "gru",
        num_layers: int = 1,
        dropout: float = 0.0,
        known: Sequence[str] = (),
        static: Sequence[str] = (),
        categories: Mapping[str, int] | None = None,
        scaling: Scaling | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs | jax.Array,
    ) -> None:
        distribution = Quantiles() if distribution is None else distribution
        if scaling is None:
            scaling = "standard" if getattr(distribution, "shifts", True) else "absolute"
        rngs = streams(rngs, "params")
        super().__init__(
            distribution, scaling, known, static, categories, param_dtype=param_dtype, rngs=rngs
        )
        self.horizon = checks.require_integer("horizon", horizon)
        self.season = checks.require_integer("season", season)
        self.seasons = checks.require_integer("seasons", seasons, least=0)
        options: Any = {
            "num_layers": num_layers, "dropout": dropout, "dtype": dtype,
            "param_dtype": param_dtype, "rngs": rngs,
        }  # fmt: skip
        size, before = self.covariates.size, self.seasons + 1
        self.reader = Recurrent(cells.make_cell(cell, 1 + size, hidden_size), **options)
        self.writer = Recurrent(cells.make_cell(cell, before + size, hidden_size), **options)
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(
            self.writer.output_size, self.distribution.size, param_dtype=param_dtype, rngs=rngs
        )
        if self.distribution.shifts:
            self.weights = nnx.Param(jnp.full((self.horizon, before), 1 / before, param_dtype))

    def __call__(
        self,
        values: ArrayLike,
        *,
        known: ArrayLike | None = None,
        future_known: ArrayLike | None = None,
        static: ArrayLike | None = None,
        categories: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> PyTree:
        """Return the parameters of the distributions of the steps after the values.

        The arguments up to `mask` are those of `AutoregressiveForecaster.sample`, where H is the
        `horizon` of this forecaster. `deterministic` and `rngs` are those of `Recurrent`: True
        for evaluation or False for training with dropout, and random numbers for dropout.

        Returns:
          The parameters, arrays `[..., H]`, or quantiles `[..., H, Q]`; see `Distribution.params`.

        Raises:
          TypeError, ValueError: an array has a wrong dtype or shape; covariates are missing; or
            (outside tracing) a covariate is not finite or a category is out of range.
        """
        inputs = self._inputs(
            values, known, static, categories, lengths, mask, future_known=future_known,
            horizon=self.horizon,
        )  # fmt: skip
        return self._predicted(inputs, deterministic, rngs)

    def _predicted(self, inputs: Inputs, deterministic: bool | None, rngs: Any) -> PyTree:
        """Return the parameters of the distributions of the steps after checked values."""
        history, past, future, series = inputs
        history, series = history.filled(), series[..., None, :]
        batch_shape, steps = history.observed.shape[:-1], history.observed.shape[-1]

        def joined(values: Array, features: Array, steps: int) -> Array:
            repeated = jnp.broadcast_to(series, (*batch_shape, steps, series.shape[-1]))
            return jnp.concatenate([values, features, repeated], axis=-1)

        # One source for all draws: from a random key, each part would draw the same numbers.
        rngs = None if rngs is None else streams(rngs, "dropout")
        options: Any = {"deterministic": deterministic, "rngs": rngs}
        xs = joined(history.scaled[..., None], past, steps)
        state = self.reader(xs, mask=history.real, return_sequences=False, **options).state
        before = _present(*history.before(self._offsets()))  # [..., H, seasons + 1]
        xs = joined(before, future, self.horizon)
        outputs = self.writer(xs, initial_state=state, **options).outputs
        outputs = self.head(self.dropout(outputs, **options))
        loc, scale = (one[..., None] for one in history.scale)
        if not self.distribution.shifts:
            return self.distribution.params(outputs, scale=scale)
        loc = loc + scale * (self.weights[...] * before).sum(axis=-1)
        return self.distribution.params(outputs, loc=loc, scale=scale)

    def _offsets(self) -> np.ndarray:
        """Return the numbers of steps from the values that a step reads to the end of the past."""
        place = np.arange(self.horizon) % self.season
        ago = [n * self.season - place for n in range(self.seasons, 0, -1)]
        return np.stack([*ago, np.ones_like(place)], axis=-1)

    def loss(
        self,
        values: ArrayLike,
        targets: ArrayLike,
        *,
        known: ArrayLike | None = None,
        future_known: ArrayLike | None = None,
        static: ArrayLike | None = None,
        categories: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        target_mask: ArrayLike | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> Array:
        """Return the loss of the forecast of targets `[..., H]`, in which NaN is missing.

        It is the mean of -log p(y) over the observed targets y. For `Quantiles`, it is the mean of
        pinball(y) / scale, where the scale is that of the past of each series (1 for the scaling
        "none"), so that small and large series count alike.

        `target_mask` is bool `[..., H]`, True at real steps of the targets. In a batch of
        `training_windows`, it is `batch["mask"][:, context:]`; without it, the filler rows of the
        last batch count as targets of 0. The other arguments and the errors are those of a call and
        of `seqjax.forecasting.loss`, which returns the loss of `Quantiles` in the unit of the data.
        """
        inputs = self._inputs(
            values, known, static, categories, lengths, mask, future_known=future_known,
            horizon=self.horizon,
        )  # fmt: skip
        params = self._predicted(inputs, deterministic, rngs)
        return self._mean_loss(inputs.history, params, targets, None, target_mask)

    def sample(
        self,
        values: ArrayLike,
        key: PRNGKey,
        *,
        num_samples: int = 100,
        known: ArrayLike | None = None,
        future_known: ArrayLike | None = None,
        static: ArrayLike | None = None,
        categories: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Array:
        """Draw samples `[..., H, S]` of the steps after the values, independently for each step.

        The arguments and errors are those of a call. `key` is a random key, and `num_samples` is S.
        """
        key = checks.require_key("key", key)
        num_samples = checks.require_integer("num_samples", num_samples)
        params = self(
            values, known=known, future_known=future_known, static=static, categories=categories,
            lengths=lengths, mask=mask, deterministic=True,
        )  # fmt: skip
        draw = jax.vmap(self.distribution.sample, in_axes=(None, 0), out_axes=-1)
        samples: Array = draw(params, jax.random.split(key, num_samples))
        return samples


def _present(before: Array, observed: Array) -> Array:
    """Return values `[..., seasons + 1]`, each replaced by the next one if it does not exist."""
    columns = [before[..., -1]]
    for n in reversed(range(before.shape[-1] - 1)):
        columns.append(jnp.where(observed[..., n], before[..., n], columns[-1]))
    return jnp.stack(columns[::-1], axis=-1)
