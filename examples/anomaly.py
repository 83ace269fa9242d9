"""Anomaly detection: where does a series surprise a network that learned how it usually goes on?

A recurrent network learns on the beginning of each series, which is taken to be normal, to give a
distribution of the next value from the past and, where there are times, their place in the day and
week. How far off it is, in units of the scale that it expected, is averaged over a few steps and
compared with the history: a detection is where a Gaussian makes so high a mean less likely than
--tail. Persistence, which expects the last value again, is scored the same way. No threshold is
chosen by labels.

    python examples/anomaly.py              # a blood pressure with one anomaly, in the package aeon
    python examples/anomaly.py --data NAB   # its folder, with data/ and labels/

A window is found if a detection is in it. A detection begins an alarm, of which further detections
within 1 % of the series are part; one that begins outside all windows is a false alarm. What NAB's
score adds, a reward for being early, is not in precision and recall.

References: Malhotra et al. (2015), Long short term memory networks for anomaly detection in time
series; Lavin, Ahmad (2015), Evaluating real-time anomaly detection algorithms: the Numenta anomaly
benchmark; Wu, Keogh (2021), Current time series anomaly detection benchmarks are flawed (whose
archive has the series in aeon and judges with a tolerance of 100 steps).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure
from scipy.stats import norm

from seqjax import cells, metrics, nn, training
from seqjax.data import batches, installed_files, read_csv

DEFAULT = "datasets/data/KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_TEST.csv"
SLACK = 100  # steps around its anomaly where a detection counts


class Series(NamedTuple):
    """A series of T steps, and where in it validation and judgement begin."""

    name: str
    values: np.ndarray  # [T]
    inputs: np.ndarray  # [T, 5], standardised values, sines and cosines of day and week
    windows: np.ndarray  # [N, 2], the first and last step of each
    valid: int
    learned: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains one forecaster for all series, detects in each, and judges the detections."""

    data: Path | None = None
    """A folder with data/ and labels/combined_windows.json as NAB has."""
    probation: float = 0.15
    """Share of each series that is learned and not judged; as in NAB never more than 750 steps. Its
    last quarter is not trained on, but chooses the epoch."""
    cell: str = "gru"
    """gru, lstm, or any other cell of seqjax.CELLS that reads vectors."""
    hidden_size: int = 48
    """Units."""
    dropout: float = 0.1
    """Rate on their outputs."""
    window: int = 100
    """Steps of a stretch in training."""
    recent: int = 10
    """Over how many steps errors are averaged."""
    tail: float = 1e-5
    """Tail probability of a detection, that of Lavin and Ahmad."""
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 5e-3
    out: Path = Path("out/anomaly")
    shares: ClassVar[tuple[str, ...]] = ("probation", "dropout", "tail")


class Forecaster(nnx.Module):
    """A recurrent layer that gives a Laplace distribution of each next value."""

    def __init__(self, config: Config, series: int, *, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(series, 8, rngs=rngs)
        with training.blaming("cell"):
            cell = cells.make_cell(config.cell, 2 + 4 + 8, config.hidden_size)
        self.recurrent = nn.Recurrent(cell, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.head = nnx.Linear(config.hidden_size, 2, rngs=rngs)

    def __call__(self, batch: Any, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        """Medians and scales [B, T - 1] of the steps after the first, each from those before."""
        values, phases = batch["inputs"][..., 0], batch["inputs"][:, 1:, 1:]
        last = values[:, :-1]
        changes = jnp.diff(last, axis=1, prepend=last[:, :1])
        which = jnp.broadcast_to(self.embed(batch["series"])[:, None], (*last.shape, 8))
        inputs = jnp.concatenate([last[..., None], changes[..., None], phases, which], axis=-1)
        outputs = self.recurrent(inputs, rngs=rngs).outputs
        found = self.head(self.dropout(outputs, rngs=rngs))
        return last + found[..., 0], nnx.softplus(found[..., 1]) + 0.01


def load(config: Config) -> list[Series]:
    """The series of the folder, or the default one, with their windows."""
    with training.blaming("data"):
        if config.data is None:
            [path] = installed_files("aeon", DEFAULT)
            table = read_csv(path, ["value", "is_anomaly"])
            edges = np.flatnonzero(np.diff(table["is_anomaly"], prepend=0, append=0))
            windows = edges.reshape(-1, 2) + [-SLACK, SLACK - 1]
            return [prepared(config, path.stem, table["value"], None, windows)]
        labels = json.loads((config.data / "labels/combined_windows.json").read_text())
        some = []
        for path in sorted((config.data / "data").rglob("*.csv")):
            name = path.relative_to(config.data / "data").as_posix()
            if name not in labels:
                raise ValueError(f"expected {name} in combined_windows.json, got no such key")
            table = read_csv(path, ["timestamp", "value"])
            times = table["timestamp"].astype("datetime64[us]")
            ends = np.array(labels[name], "datetime64[us]").reshape(-1, 2)
            steps = [np.flatnonzero((a <= times) & (times <= b)) for a, b in ends]
            if not all(map(len, steps)):
                raise ValueError(f"expected windows in the time of {name}, got {labels[name]}")
            windows = np.array([[inside[0], inside[-1]] for inside in steps], int).reshape(-1, 2)
            some.append(prepared(config, name, table["value"], times, windows))
        if not some:
            raise ValueError(f"expected .csv files in {config.data / 'data'}, got none")
    return some


def prepared(config: Config, name: str, values: Any, times: Any, windows: Any) -> Series:
    """A series with its inputs; windows that end within what is learned are left out."""
    if values.dtype.kind != "f":
        raise ValueError(f"expected numbers as values of {name}, got text")
    learned = int(min(len(values) * config.probation, 750))
    valid, least = learned * 3 // 4, max(config.window + 1, 9 * config.recent)
    if valid < least:
        raise ValueError(
            f"expected --probation of {name} to hold {least * 4 // 3 + 1} steps for --window "
            f"{config.window}, --recent {config.recent}, got {learned} of {len(values)}"
        )
    inputs = np.zeros((len(values), 5), np.float32)
    mean, deviation = values[:learned].mean(), values[:learned].std()
    inputs[:, 0] = np.clip((values - mean) / (deviation or 1.0), -20, 20)
    if times is not None:
        seconds = (times - np.datetime64("1970-01-05")) / np.timedelta64(1, "s")  # from a Monday
        for column, period in ((1, 86_400), (3, 7 * 86_400)):
            if seconds[learned] - seconds[0] >= 2 * period:  # what was seen once is no cycle
                turns = 2 * np.pi * seconds / period
                inputs[:, column : column + 2] = np.stack([np.sin(turns), np.cos(turns)], axis=1)
    return Series(name, values, inputs, windows[windows[:, 1] >= learned], valid, learned)


def stretches(some: list[Series], window: int, rng: Any = None) -> dict[str, Any]:
    """Stretches that cover the validation steps or, given a random generator, some before them."""
    inputs, series, judged = [], [], []
    for index, one in enumerate(some):
        ends = np.arange(one.learned, one.valid, -window)
        if rng is not None:
            ends = rng.integers(window + 1, one.valid, max(16, 512 // len(some)), endpoint=True)
        for end in ends:
            inputs.append(one.inputs[end - window - 1 : end])
            series.append(index)
            judged.append(np.arange(end - window, end) >= (0 if rng is not None else one.valid))
    return {"inputs": np.array(inputs), "series": np.array(series), "judged": np.array(judged)}


def deviations(one: Series, errors: np.ndarray, recent: int) -> np.ndarray:
    """How many standard deviations the mean of recent errors [T] is above those before, [T].

    Errors are in units of those in training; the logarithm keeps one spike from ruling the history.
    """
    usual = np.maximum(errors[1 : one.valid].mean(), 0.01)
    sums = np.cumsum(np.append(0.0, np.log1p(errors[one.valid :] / usual)))
    means = (sums[recent:] - sums[:-recent]) / recent
    count = np.arange(1, len(means) + 1)
    average = np.cumsum(means) / count
    spread = np.sqrt(np.maximum(np.cumsum(means**2) / count - average**2, 0.05**2))
    scores = np.zeros(len(errors))
    above = (means[recent:] - average[:-recent]) / spread[:-recent]
    scores[one.valid + 2 * recent - 1 :] = above
    scores[: one.learned] = 0.0
    return scores


def judge(some: list[Series], detections: Any, shifts: Any = 0.0) -> dict[str, float]:
    """Precision, recall and F1 of all series together, and the number of false alarms.

    Detections are first moved by shares of what is judged, round its end to its beginning.
    """
    found = windows = false = 0
    for one, steps, shift in zip(some, detections, np.broadcast_to(shifts, len(some)), strict=True):
        judged = len(one.values) - one.learned
        steps = np.sort((steps - one.learned + int(shift * judged)) % judged) + one.learned
        inside: Any = (one.windows[:, :1] <= steps) & (
            steps <= one.windows[:, 1:]
        )  # [windows, steps]
        begin = -np.inf
        for step, right in zip(steps, inside.any(axis=0), strict=True):
            if step >= begin + len(one.values) / 100:
                begin, false = step, false + int(not right)
        found += int(inside.any(axis=1).sum())
        windows += len(one.windows)
    precision, recall = found / max(found + false, 1), found / max(windows, 1)
    f1 = 2 * found / max(found + false + windows, 1)
    return {"precision": precision, "recall": recall, "f1": f1, "false_alarms": float(false)}


def plot(some: list[Series], scores: list[np.ndarray], limit: float) -> Figure:
    """Of up to four series the values, windows and scores, with detections as dots."""
    shown = sorted(range(len(some)), key=lambda index: -len(some[index].windows))[:4]
    figure = Figure(figsize=(10, 3.5 * len(shown)), layout="constrained")
    panels = figure.subplots(2 * len(shown), 1, height_ratios=[2, 1] * len(shown))
    for row, index in enumerate(shown):
        one, (above, below) = some[index], panels[2 * row : 2 * row + 2]
        steps = np.flatnonzero(scores[index] > limit)
        above.plot(one.values, color="#0072B2", linewidth=0.6)
        above.plot(steps, one.values[steps], ".", color="#D55E00")
        above.set_title(f"{one.name} (grey: learned, orange: windows, dots: detections)")
        below.plot(scores[index], color="black", linewidth=0.6)
        below.axhline(limit, color="#D55E00", linewidth=0.8, linestyle="--")
        below.set_ylabel("score")
        for axes in (above, below):
            axes.axvspan(0, one.learned, color="#DDDDDD")
            for first, last in one.windows:
                axes.axvspan(first, last, color="#E69F00", alpha=0.3)
    return figure


def main(config: Config) -> dict[str, float]:
    """Trains, detects, plots; returns figures of the network, of persistence, and of chance."""
    config.prepare()
    some = load(config)
    windows = sum(len(one.windows) for one in some)
    print(f"{len(some)} series, {sum(len(s.values) for s in some):,} steps, {windows} windows")
    model = Forecaster(config, len(some), rngs=nnx.Rngs(config.seed))

    def loss_fn(
        model: Forecaster, batch: Any, rngs: Any = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        median, scale = model(batch, rngs)
        surprise = jnp.abs(batch["inputs"][:, 1:, 0] - median) / scale + jnp.log(2 * scale)
        mean = metrics.Mean.of(surprise, batch["judged"])
        return mean.value(), {"nats": mean}

    def source(epoch: int) -> Any:
        found = stretches(some, config.window, np.random.default_rng([config.seed, epoch]))
        return batches(found, batch_size=config.batch_size, sequence_keys=())

    last = batches(stretches(some, config.window), batch_size=256, sequence_keys=())
    result = config.fit(model, loss_fn, source, eval_batches=last, monitor="eval_nats",
                        metric_fn=lambda model, batch: loss_fn(model, batch)[1])  # fmt: skip
    longest = max(len(one.values) for one in some)
    inputs = np.stack([np.pad(s.inputs, ((0, longest - len(s.inputs)), (0, 0))) for s in some])
    medians, scales = result.model({"inputs": inputs, "series": np.arange(len(some))})
    errors = np.pad(np.abs(inputs[:, 1:, 0] - medians) / scales, ((0, 0), (1, 0)))
    changes = np.abs(np.diff(inputs[..., 0], axis=1, prepend=inputs[:, :1, 0]))
    limit = float(norm.isf(config.tail))

    def detect(errors: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        pairs = zip(some, errors, strict=True)
        scores = [deviations(s, x[: len(s.values)], config.recent) for s, x in pairs]
        return scores, [np.flatnonzero(score > limit) for score in scores]

    scores, detections = detect(errors)
    plot(some, scores, limit).savefig(config.out / "detections.png", dpi=110)
    figures, naive = judge(some, detections), judge(some, detect(changes)[1])
    figures |= {f"persistence_{name}": value for name, value in naive.items()}
    draws = np.random.default_rng(config.seed).random((100, len(some)))
    chance = [judge(some, detections, shifts)["f1"] for shifts in draws]
    figures["chance_f1"] = float(np.mean(chance))  # of as many detections at other places
    return config.report(result, **figures)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
