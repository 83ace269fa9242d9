"""A forecaster that predicts one step at a time, from its own samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from seqjax import cells, checks
from seqjax.forecasting._ancestral import params_of, read, sampled
from seqjax.forecasting._distributions import Distribution, StudentT
from seqjax.forecasting._forecaster import Forecaster, Inputs
from seqjax.forecasting._history import Scaling
from seqjax.nn import Recurrent
from seqjax.nn._noise import streams
from seqjax.types import Array, PRNGKey, PyTree

__all__ = ["AutoregressiveForecaster"]


class AutoregressiveForecaster(Forecaster):
    """A recurrent network that predicts the distribution of the next value (DeepAR).

        x_t = [z_(t-l) and whether it is observed, for lags l;  known covariates of step t;
               static features;  embedded categories;  log scale]
        h_t = RNN(x_t, h_(t-1))
        z_t = (y_t - loc) / scale
        p(y_t | y_1 … y_(t-1)) = distribution(W h_t + b, loc, scale)

    Training predicts all steps of a window in one pass. To forecast, `sample` draws a value from
    the distribution of the next step, which is the input of the step after it. A forecast may be
    longer than the windows of the training. One model serves many series.

    Missing values are NaN: the network reads 0 and a feature that says that nothing was observed,
    and the loss leaves the step out. Series of different lengths have padding, marked by `lengths`
    or `mask`.

    Args:
      hidden_size: the number of units of each recurrent layer, H.
      distribution: the distribution of a value. `Quantiles` have samples, too, but their loss
        does not train the tails. By default, it is `StudentT()`.
      cell: the cell of the recurrent layers: a name in `seqjax.CELLS`, a class, or a cell.
      num_layers: the number of recurrent layers.
      dropout: the dropout rate between the layers.
      lags: the numbers of steps l ≥ 1 from an earlier value that the network reads to the step that
        it predicts. Add the length of the season, such as 24 and 168 for hours.
      known: names of the covariates of each step that are known in advance, such as those of
        `calendar_features`.
      static: names of the features of each series.
      categories: for each name of a category of a series, its number of values, such as {"shop":
        10}.
      scaling: the scaling of each series: "absolute" (by `absolute_scale`), "standard" (by
        `standard_scale`) or "none".
      dtype: the dtype in which the recurrent layers compute, such as `jnp.bfloat16`. The
        distributions stay in float32.
      param_dtype: the dtype of the parameters.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Raises:
      TypeError, ValueError: an argument is of a wrong type or out of range, or the distribution
        does not support the scaling.

    References:
      Salinas, Flunkert, Gasthaus, Januschowski (2020), DeepAR: probabilistic forecasting with
      autoregressive recurrent networks.

    Example:
      >>> from seqjax import forecasting
      >>> model = forecasting.AutoregressiveForecaster(
      ...     8, forecasting.NegativeBinomial(), known=["promotion"], rngs=nnx.Rngs(0)
      ... )
      >>> counts, known = jnp.array([[3.0, jnp.nan, 4.0, 2.0]]), jnp.zeros((1, 4, 1))
      >>> loss = model.loss(counts, known=known)
      >>> samples = model.sample(
      ...     counts,
      ...     jax.random.key(0),
      ...     horizon=6,
      ...     num_samples=5,
      ...     known=known,
      ...     future_known=jnp.ones((1, 6, 1)),
      ... )
      >>> samples.shape
      (1, 6, 5)
    """

    def __init__(
        self,
        hidden_size: int,
        distribution: Distribution | None = None,
        *,
        cell: Any = "lstm",
        num_layers: int = 1,
        dropout: float = 0.0,
        lags: Sequence[int] = (1,),
        known: Sequence[str] = (),
        static: Sequence[str] = (),
        categories: Mapping[str, int] | None = None,
        scaling: Scaling = "absolute",
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs | jax.Array,
    ) -> None:
        rngs = streams(rngs, "params")
        super().__init__(
            StudentT() if distribution is None else distribution, scaling, known, static,
            categories, param_dtype=param_dtype, rngs=rngs,
        )  # fmt: skip
        self.lags = checks.require_shape("lags", lags, least=1)
        if not self.lags or len(set(self.lags)) < len(self.lags):
            raise ValueError(f"lags: expected at least one lag and none twice, got {self.lags}")
        made = cells.make_cell(cell, 2 * len(self.lags) + self.covariates.size + 1, hidden_size)
        self.layer = Recurrent(
            made, num_layers=num_layers, dropout=dropout, dtype=dtype, param_dtype=param_dtype,
            rngs=rngs,
        )  # fmt: skip
        self.head = nnx.Linear(
            self.layer.output_size, self.distribution.size, param_dtype=param_dtype, rngs=rngs
        )

    def __call__(
        self,
        values: ArrayLike,
        *,
        known: ArrayLike | None = None,
        static: ArrayLike | None = None,
        categories: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        context: int | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> PyTree:
        """Return the parameters of the distribution of each step, given the values before it.

        Args:
          values: float or int `[..., T]`, the values of the series. NaN marks a missing value.
          known: float `[..., T, K]`, or `[T, K]` for all series, the known covariates of the steps.
          static: float `[..., S]`, the static features of the series.
          categories: int `[..., C]`, the categories of the series.
          lengths: int `[...]`, the number of real steps of each series.
          mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.
          context: the number of first steps, at most T, from which the scale is computed. In
            training, pass the number of steps before the forecast, as the scale then never depends
            on the values that are predicted. If `context` is None, the scale is computed from all
            steps.
          deterministic: True for evaluation, False for training with dropout; see `Recurrent`.
          rngs: random numbers for dropout; see `Recurrent`.

        Returns:
          The parameters, arrays `[..., T]`, see `Distribution.params`.

        Raises:
          TypeError, ValueError: an array has a wrong dtype or shape; covariates are missing; or
            (outside tracing) a covariate is not finite or a category is out of range.
        """
        inputs = self._inputs(values, known, static, categories, lengths, mask, context=context)
        return self._predicted(inputs, deterministic, rngs)

    def _predicted(self, inputs: Inputs, deterministic: bool | None, rngs: Any) -> PyTree:
        """Return the parameters of the distribution of each step of checked values."""
        history, past, _, series = inputs
        outputs = read(self, history, past, series, deterministic, rngs).outputs
        return params_of(self, outputs, history.scale)

    def loss(
        self,
        values: ArrayLike,
        *,
        known: ArrayLike | None = None,
        static: ArrayLike | None = None,
        categories: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        context: int | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> Array:
        """Return the loss of predicting each observed value from the values before it.

        It is the mean of -log p(y) over the observed values y. For `Quantiles`, it is the mean of
        pinball(y) / scale, where the scale is that of each series (1 for the scaling "none"), so
        that small and large series count alike.

        The arguments and errors are those of a call and of `seqjax.forecasting.loss`. The number of
        steps must be larger than each lag, since the network cannot learn to read a value that is
        never there.
        """
        steps, largest = np.shape(values)[-1:], max(self.lags)
        if steps and steps[0] <= largest:
            raise ValueError(
                f"values: expected more than {largest} steps, the largest of the lags, got "
                f"{steps[0]}"
            )
        inputs = self._inputs(values, known, static, categories, lengths, mask, context=context)
        params = self._predicted(inputs, deterministic, rngs)
        return self._mean_loss(inputs.history, params, values, lengths, mask)

    def sample(
        self,
        values: ArrayLike,
        key: PRNGKey,
        *,
        horizon: int,
        num_samples: int = 100,
        known: ArrayLike | None = None,
        future_known: ArrayLike | None = None,
        static: ArrayLike | None = None,
        categories: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Array:
        """Draw samples of the steps that follow the last real step of each series.

        One compiled program reads the values once and draws all samples. A program is compiled for
        each pair of shapes and horizon. The first steps of a longer forecast with the same key are
        those of a shorter one. The samples of a series do not depend on the values of the other
        series, but on its place among them. Where a lag goes back before the first step, the
        network reads a missing value.

        Args:
          values: float or int `[..., T]`, the values so far. NaN marks a missing value.
          key: a random key.
          horizon: H, the number of steps to forecast. It may be longer than in training.
          num_samples: S, the number of samples.
          known: float `[..., T, K]`, or `[T, K]` for all series, the covariates of the values.
          future_known: float `[..., H, K]`, or `[H, K]` for all series, the covariates of the
            forecast, which begins right after the last real step of each series.
          static: float `[..., S]`, the static features of the series.
          categories: int `[..., C]`, the categories of the series.
          lengths: int `[...]`, the number of real steps of each series. A series without real steps
            is forecast from its covariates alone, at the scale 1.
          mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.

        Returns:
          The samples `[..., H, S]`, in float32 or wider.

        Raises:
          TypeError, ValueError: as for a call. Missing covariates of the forecast are named.
        """
        key = checks.require_key("key", key)
        horizon = checks.require_integer("horizon", horizon)
        num_samples = checks.require_integer("num_samples", num_samples)
        inputs = self._inputs(
            values, known, static, categories, lengths, mask, future_known=future_known,
            horizon=horizon,
        )  # fmt: skip
        drawn: Array = sampled(self, *inputs, key, num_samples=num_samples)
        return drawn
