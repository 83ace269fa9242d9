"""How far back can a network remember? The adding problem and copy memory, drawn from a seed.

Adding (Hochreiter and Schmidhuber 1997): a sequence of numbers from [0, 1), two of them marked; the
answer is the sum of the two. Copying (Arjovsky, Shah, Bengio 2016): ten symbols, then blanks for
`length` steps, then a sign to say them again. A recurrent network reads them, a linear layer
answers. Every batch is drawn anew from the seed, the epoch and its index, so there is nothing to
overfit; validation and test sequences come from seeds of their own.

    python examples/memory_tasks.py
    python examples/memory_tasks.py --cell lstm --length 600 --epochs 16
    python examples/memory_tasks.py --task copy --cell elman --activation identity --steps 200
"""

import dataclasses
import math
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from flax import nnx

from seqjax import cells, losses, metrics, nn, training, viz

RECALL, SYMBOLS = 10, 8  # how many symbols to copy, out of how many
BLANK, SIGN = 0, SYMBOLS + 1
VALIDATION, TEST = 1, 2  # training draws from stream 0
# Bai, Kolter, Koltun (2018), An empirical evaluation of generic convolutional and recurrent
# networks for sequence modeling, table 1: the loss by task and length.
PUBLISHED = {
    ("adding", 600): {"LSTM": 0.164, "GRU": 5.3e-5, "simple RNN": 0.177},
    ("copy", 1000): {"LSTM": 0.0204, "GRU": 0.0197, "simple RNN": 0.0202},
}
COLORS = ("black", "#009E73", "#CC79A7", "#56B4E9")  # of the baseline and of these three


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains a network, measures its loss on 2,000 sequences that it has not seen."""

    task: Literal["adding", "copy"] = "adding"
    """What to remember: two marked numbers, or ten symbols."""
    length: int = 100
    """Steps of an addition; blank steps before a copy."""
    cell: str = "gru"
    """Any cell of seqjax.CELLS that reads vectors: elman, lstm, gru, mgu, indrnn, min_gru, …"""
    hidden_size: int = 64
    """Units of a layer."""
    num_layers: int = 1
    """Recurrent layers."""
    chrono: bool = True
    """Start the gates that keep the state as open as memories up to the length need (Tallec and
    Ollivier 2018), in the cells that know how: the LSTMs and GRUs."""
    activation: Literal["tanh", "relu", "identity", "sigmoid"] | None = None
    """Of the cells that have a choice (elman, indrnn), such as identity, which with the orthogonal
    matrix that elman starts from keeps all it has read (Henaff, Szlam, LeCun 2016)."""
    steps: int = 1000
    """Batches in an epoch."""
    epochs: int = 10
    """How often to stop and measure the validation loss."""
    learning_rate: float = 3e-3
    """Adam's at its highest; it rises for half an epoch and falls to zero along a cosine."""
    out: Path = Path("out/memory_tasks")
    """Folder for checkpoints, plots and figures."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """Batches of a task, each made when it is asked for and the same each time."""

    task: str
    length: int
    batch_size: int
    number: int
    seed: tuple[int, ...]
    """What the batches are a function of, beside their index."""

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((*self.seed, operator.index(index)))
        draw = adding if self.task == "adding" else copying
        return draw(rng, self.batch_size, self.length)


def adding(rng: np.random.Generator, size: int, length: int) -> dict[str, np.ndarray]:
    """Numbers and marks [B, T, 2], and the sum of the marked numbers [B, 1]."""
    numbers = rng.random((size, length), np.float32)
    places = rng.random((size, length)).argpartition(1, axis=1)[:, :2]  # two different ones
    marks = np.zeros_like(numbers)
    np.put_along_axis(marks, places, 1.0, axis=1)
    target = (numbers * marks).sum(axis=1, keepdims=True)
    return {"inputs": np.stack([numbers, marks], axis=-1), "target": target}


def copying(rng: np.random.Generator, size: int, length: int) -> dict[str, np.ndarray]:
    """Symbols as one-hot vectors [B, T + 20, 10], and what to say at each step [B, T + 20]."""
    symbols = rng.integers(1, SYMBOLS + 1, (size, RECALL), dtype=np.int32)
    tokens = np.full((size, length + 2 * RECALL), BLANK, np.int32)
    target = tokens.copy()
    tokens[:, :RECALL] = target[:, -RECALL:] = symbols
    tokens[:, -RECALL - 1 :] = SIGN
    return {"inputs": np.eye(SIGN + 1, dtype=np.float32)[tokens], "target": target}


class Reader(nnx.Module):
    """Recurrent layers and a linear layer: after the last step (adding) or after each (copy)."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        inputs, outputs = (2, 1) if config.task == "adding" else (SIGN + 1, SYMBOLS + 1)
        self.every_step = config.task == "copy"
        self.recurrent = nn.Recurrent(
            make_cell(config, inputs), num_layers=config.num_layers, rngs=rngs
        )
        self.head = nnx.Linear(self.recurrent.output_size, outputs, rngs=rngs)

    def __call__(self, inputs: Any) -> jax.Array:
        """The sum [B, 1], or logits [B, T, 9], of inputs [B, T, I]."""
        return self.head(self.recurrent(inputs, return_sequences=self.every_step).outputs)


def make_cell(config: Config, inputs: int) -> cells.Cell[Any, Any]:
    """The cell of that name, or an exit with the names there are."""
    with training.blaming("cell"):
        kind: Any = type(cells.make_cell(config.cell, 1, 1))
    choices = {field.name for field in dataclasses.fields(kind)}
    options: dict[str, Any] = {}
    if config.chrono and "chrono" in choices:
        options["chrono"] = float(config.length + (2 * RECALL if config.task == "copy" else 0))
    if config.activation is not None:
        if "activation" not in choices:
            raise SystemExit(f"--activation: {config.cell} has no choice, got {config.activation}")
        options["activation"] = config.activation
    return kind(inputs, config.hidden_size, **options)


def metric_fn(model: Reader, batch: Any) -> dict[str, metrics.Mean]:
    """The loss; for copies also which of the symbols to recall are right."""
    found, target = model(batch["inputs"]), batch["target"]
    if not model.every_step:
        return {"loss": metrics.mean_squared_error(found, target)}
    recalled = metrics.accuracy(found[:, -RECALL:], target[:, -RECALL:])
    return {"loss": metrics.cross_entropy(found, target), "recalled": recalled}


def loss_fn(model: Reader, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
    """Squared error of the sum, or cross-entropy over all steps of a copy."""
    del rngs
    found, target = model(batch["inputs"]), batch["target"]
    loss = losses.cross_entropy if model.every_step else losses.mean_squared_error
    return loss(found, target), {}


def baseline(config: Config, test: Draws) -> float:
    """The loss without a memory: always saying 1, or blanks and then any symbol."""
    if config.task == "adding":
        return float(np.mean([np.square(batch["target"] - 1).mean() for batch in test]))
    return RECALL * math.log(SYMBOLS) / (config.length + 2 * RECALL)


def plot(config: Config, result: training.FitResult, lines: dict[str, float]) -> None:
    """Writes the loss by epoch, with lines for the baseline and what others published."""
    figure = viz.learning_curve(result.history, keys=["loss", "eval_loss"])
    [axes] = figure.axes
    for (name, value), color in zip(lines.items(), COLORS, strict=False):
        axes.axhline(value, color=color, linestyle=":", label=name)
    axes.set_yscale("log")
    axes.set_title(f"{config.task}, T = {config.length}: {config.cell}")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.set_size_inches(7.5, 4)
    figure.savefig(config.out / "loss.png", dpi=150)


def main(config: Config) -> dict[str, float]:
    """Trains and measures; returns the loss on the test sequences and that without a memory."""
    config.prepare()
    if config.task == "adding" and config.length < 2:
        raise SystemExit(f"--length: expected at least 2 steps for adding, got {config.length}")

    def draws(batch_size: int, number: int, *stream: int) -> Draws:
        return Draws(config.task, config.length, batch_size, number, (config.seed, *stream))

    model = Reader(config, rngs=nnx.Rngs(config.seed))
    result = config.fit(
        model,
        loss_fn,
        lambda epoch: draws(config.batch_size, config.steps, 0, epoch),
        eval_batches=draws(100, 5, VALIDATION),
        metric_fn=metric_fn,
    )
    test = draws(100, 20, TEST)
    measured = training.measure(result.model, metric_fn, test)
    published = PUBLISHED.get((config.task, config.length), {})
    guess = baseline(config, test)
    lines = {f"published: {name}": value for name, value in published.items()}
    plot(config, result, {"without a memory": guess} | lines)
    figures = {f"test_{name}": value for name, value in measured.items()}
    figures |= {"baseline_loss": guess}
    figures |= {f"published_{name.replace(' ', '_')}": v for name, v in published.items()}
    return config.report(result, **figures)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
