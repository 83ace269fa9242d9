"""Probabilistic forecasts of time series: distributions, scaling, models, samples and scores.

Arrays of values are `[..., T]`, samples are `[..., T, S]`, and quantiles are `[..., T, Q]`. In all
functions, NaN in values and targets marks a missing value, which affects neither a result nor a
gradient. Each part can be used alone: distributions and losses with any network, scores with
forecasts of any model.
"""

from seqjax.forecasting._autoregressive import AutoregressiveForecaster
from seqjax.forecasting._calendar import calendar_features
from seqjax.forecasting._counts import NegativeBinomial
from seqjax.forecasting._direct import DirectForecaster
from seqjax.forecasting._distributions import Distribution, Gaussian, StudentT
from seqjax.forecasting._frames import read_frame
from seqjax.forecasting._likelihood import loss, score
from seqjax.forecasting._quantiles import Quantiles
from seqjax.forecasting._rolling import (
    Backtest,
    backtest,
    rolling_origins,
    training_windows,
)
from seqjax.forecasting._scaling import Scale, absolute_scale, standard_scale
from seqjax.forecasting._scores import coverage, crps, quantile_loss
from seqjax.forecasting._series_table import SeriesTable

__all__ = [
    "AutoregressiveForecaster",
    "Backtest",
    "DirectForecaster",
    "Distribution",
    "Gaussian",
    "NegativeBinomial",
    "Quantiles",
    "Scale",
    "SeriesTable",
    "StudentT",
    "absolute_scale",
    "backtest",
    "calendar_features",
    "coverage",
    "crps",
    "loss",
    "quantile_loss",
    "read_frame",
    "rolling_origins",
    "score",
    "standard_scale",
    "training_windows",
]
