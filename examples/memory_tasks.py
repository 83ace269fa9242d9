"""How far back can a network remember? The adding problem and copy memory, drawn from a seed.

Adding (Hochreiter and Schmidhuber 1997): a sequence of numbers from [0, 1), two of them marked; the
answer is the sum of the two. Copying (Arjovsky, Shah, Bengio 2016): ten symbols, then blanks for
`length` steps, then a sign to say them again. A recurrent network reads them, a linear layer
answers. Every batch is drawn anew from the seed, the epoch and its index, so there is nothing to
overfit; validation and test sequences come from seeds of their own.

    python -m examples.memory_tasks
    python -m examples.memory_tasks --cell lstm --length 600 --epochs 16
    python -m examples.memory_tasks --task copy --cell elman --activation identity --steps 200
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from flax import nnx

from examples import script
from examples.shipped import drawn
from examples.shipped.drawn import RECALL, SIGN, SYMBOLS, Draws
from seqjax import cells, losses, metrics, nn, training, viz

COLORS = ("black", "#009E73", "#CC79A7", "#56B4E9")  # of the baseline and of these three


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
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
    out: Path = Path("out/memory_tasks")
    """Folder for checkpoints, plots and figures."""


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
    with script.blaming("cell"):
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
        eval_batches=draws(100, 5, drawn.VALIDATION),
        metric_fn=metric_fn,
    )
    test = draws(100, 20, drawn.TEST)
    measured = script.measure(result.model, metric_fn, test)
    published = drawn.PUBLISHED.get((config.task, config.length), {})
    guess = drawn.baseline(test)
    lines = {f"published: {name}": value for name, value in published.items()}
    plot(config, result, {"without a memory": guess} | lines)
    figures = {f"test_{name}": value for name, value in measured.items()}
    figures |= {"baseline_loss": guess}
    figures |= {f"published_{name.replace(' ', '_')}": v for name, v in published.items()}
    return config.report(result, **figures)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.memory_tasks", description=__doc__))
