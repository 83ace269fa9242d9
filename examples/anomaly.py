"""Anomaly detection: find the steps of a series that a forecaster does not expect.

To detect anomalies in series of your own, copy `Forecaster`, `stretches`, `tail_probabilities` and
`surprises`, and `loss_fn` and `detect` in `main`.

A recurrent network is trained on the beginning of each series, which is assumed to be normal. The
network predicts a distribution of the next value from the past and, if there are time stamps, from
the time of day and the day of the week. The error of a step is the distance of its value from the
predicted median. Two errors are judged at each step: that of the step, and the mean over a few
recent steps. A step is detected as an anomaly if, judging by the largest earlier errors, an error
of this size has a probability below --tail. The baseline "persistence", which predicts the last
value again, is scored in the same way. Labels are not used to choose a threshold.

    python -m examples.anomaly              # a blood pressure with one anomaly, in the package aeon
    python -m examples.anomaly --data NAB   # its folder, with data/ and labels/

The labels are windows of steps. A window counts as found if a detected step lies in it. A detection
begins an alarm, and further detections soon after it (within 1 % of the length of the series)
belong to the same alarm. An alarm that begins outside all windows is a false alarm. Unlike NAB's
score, precision and recall do not reward early detection.

References: Malhotra et al. (2015), Long short term memory networks for anomaly detection in time
series; Siffer, Fouque, Termier, Largouët (2017), Anomaly detection in streams with extreme value
theory; Lavin, Ahmad (2015), Evaluating real-time anomaly detection algorithms: the Numenta anomaly
benchmark; Wu, Keogh (2021), Current time series anomaly detection benchmarks are flawed. The series
in aeon is from the archive of Wu and Keogh, which accepts a detection at most 100 steps from the
anomaly.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import anomalies
from seqjax import cells, metrics, nn
from seqjax.data import batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the anomaly detection example."""

    data: Path | None = None
    """A folder with data/ and labels/combined_windows.json, as in NAB. All .csv files in folders of
    data/ are read; to read only some of them, make a folder with these."""
    probation: float = 0.15
    """Share of each series that is used for training and left out of the evaluation; at most 750
    steps, as in NAB. The last quarter of these steps is held out to choose the epoch."""
    cell: str = "gru"
    """gru, lstm, or any other cell of seqjax.CELLS that reads vectors."""
    hidden_size: int = 48
    """Number of units."""
    dropout: float = 0.1
    """Dropout rate on the outputs."""
    window: int = 100
    """Number of steps of a training example."""
    recent: int = 10
    """Number of steps over which errors are averaged."""
    tail: float = 1e-5
    """Tail probability below which a step is detected, as in Lavin and Ahmad."""
    scaled: bool = False
    """Divide each error by the scale that the network predicts for its step."""
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 5e-3
    out: Path = Path("out/anomaly")
    after_training: ClassVar[tuple[str, ...]] = ("recent", "tail", "scaled")
    shares: ClassVar[tuple[str, ...]] = ("probation", "dropout", "tail")


class Forecaster(nnx.Module):
    """A recurrent layer that predicts a Laplace distribution of each next value."""

    def __init__(self, config: Config, series: int, *, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(series, 8, rngs=rngs)
        with script.blaming("cell"):
            cell = cells.make_cell(config.cell, 2 + 4 + 8, config.hidden_size)
        self.recurrent = nn.Recurrent(cell, dtype=config.dtype, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.head = nnx.Linear(config.hidden_size, 2, rngs=rngs)

    def __call__(self, batch: Any, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        """Predict medians and scales [B, T - 1] of steps 2 … T, each from the steps before it."""
        values, phases = batch["inputs"][..., 0], batch["inputs"][:, 1:, 1:]
        last = values[:, :-1]
        changes = jnp.diff(last, axis=1, prepend=last[:, :1])
        which = jnp.broadcast_to(self.embed(batch["series"])[:, None], (*last.shape, 8))
        inputs = jnp.concatenate([last[..., None], changes[..., None], phases, which], axis=-1)
        outputs = self.recurrent(inputs, rngs=rngs).outputs
        found = self.head(self.dropout(outputs, rngs=rngs))
        return last + found[..., 0], nnx.softplus(found[..., 1]) + 0.01


def stretches(some: list[anomalies.Series], window: int, rng: Any = None) -> dict[str, Any]:
    """Return windows over the validation steps or, if `rng` is given, random training windows."""
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


def tail_probabilities(errors: np.ndarray, learned: int, gap: int) -> np.ndarray:
    """Return the estimated probability [T] of an error at least as large as that of each step.

        P(error > x) = N / n · (1 + ξ (x - u) / σ)^(-1/ξ)  for x above u

    The threshold u is the 98 % quantile of the `learned` first errors [T], whose own probabilities
    are 1. Of the n errors that are `gap` or more steps earlier, N are above u. A generalised Pareto
    distribution with the mean and the variance of error - u describes them. Its shape ξ is at least
    0, so that larger errors are always possible, and below 1/2, where the variance is finite.
    """
    u = np.quantile(errors[1:learned], 0.98)
    above = np.maximum(errors - u, 0.0)

    def earlier(values: np.ndarray) -> np.ndarray:
        return np.cumsum(np.append(np.zeros(gap), values))[: len(errors)]

    n, count = earlier(np.ones(len(errors))), np.maximum(earlier(above > 0), 1)
    mean = np.maximum(earlier(above) / count, 0.05)  # of the usual error, see `surprises`
    variance = np.maximum(earlier(above**2) / count - mean**2, mean**2)
    shape = np.minimum((1 - mean**2 / variance) / 2, 0.49)
    log_p = -above / mean  # the limit for a shape of 0
    heavy = shape > 1e-6
    xi, sigma = shape[heavy], (mean * (1 - shape))[heavy]
    log_p[heavy] = -np.log1p(xi * above[heavy] / sigma) / xi
    found = np.where(above > 0, count / np.maximum(n, 1) * np.exp(log_p), 1.0)
    found[:learned] = 1.0
    return found


def surprises(one: anomalies.Series, errors: np.ndarray, recent: int) -> np.ndarray:
    """Return a score [T] for each step: -log10 of the probability of so large an error.

    The smaller of two probabilities counts, that of the step's error and that of the mean of the
    `recent` last errors. It is doubled, because there are two. Errors [T] are in units of the mean
    error in training.
    """
    errors = errors / max(errors[1 : one.valid].mean(), 0.01)
    means = np.convolve(errors, np.full(recent, 1 / recent))[: len(errors)]
    step, mean = (
        tail_probabilities(each, one.learned, gap) for each, gap in ((errors, 1), (means, recent))
    )
    return -np.log10(np.clip(2 * np.minimum(step, mean), 1e-300, 1.0))


def main(config: Config) -> dict[str, float]:
    """Train, detect and plot; return the scores of the network, of persistence, and of chance."""
    config.prepare()
    if config.tail == 0:
        raise SystemExit("--tail: expected more than 0, got 0")
    least = max(config.window + 1, 9 * config.recent)
    with script.blaming("data"):
        some = anomalies.load(config.data, config.probation, least)
    windows = sum(len(one.windows) for one in some)
    print(f"{len(some)} series, {sum(len(s.values) for s in some):,} steps, {windows} windows")
    model = Forecaster(config, len(some), rngs=nnx.Rngs(config.seed))

    def loss_fn(
        model: Forecaster, batch: Any, rngs: Any = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        median, scale = model(batch, rngs)
        surprise = jnp.abs(batch["inputs"][:, 1:, 0] - median) / scale + jnp.log(2 * scale)
        mean = metrics.Mean.of(surprise, mask=batch["judged"])
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
    errors = np.abs(inputs[:, 1:, 0] - medians) / (scales if config.scaled else 1.0)
    errors = np.pad(errors, ((0, 0), (1, 0)))
    changes = np.abs(np.diff(inputs[..., 0], axis=1, prepend=inputs[:, :1, 0]))
    limit = -math.log10(config.tail)

    def detect(errors: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        pairs = zip(some, errors, strict=True)
        scores = [surprises(s, x[: len(s.values)], config.recent) for s, x in pairs]
        return scores, [np.flatnonzero(score > limit) for score in scores]

    scores, detections = detect(errors)
    config.save_figure(anomalies.plot(some, scores, limit), "detections.png", dpi=110)
    figures, naive = anomalies.judge(some, detections), anomalies.judge(some, detect(changes)[1])
    figures |= {f"persistence_{name}": value for name, value in naive.items()}
    draws = np.random.default_rng(config.seed).random((100, len(some)))
    chance = [anomalies.judge(some, detections, shifts)["f1"] for shifts in draws]
    figures["chance_f1"] = float(np.mean(chance))  # the same detections, shifted at random
    return config.report(result, **figures)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.anomaly", description=__doc__))
