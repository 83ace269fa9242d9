"""Memory over many steps: the adding problem and copy memory, drawn from a seed.

The function `draws` in `main` shows how to draw a new batch at every step in a program of your own.
For regression or classification of sequences, copy `Reader`, `loss_fn` and `metric_fn`.

Adding (Hochreiter and Schmidhuber 1997): in a sequence of numbers from [0, 1), two numbers are
marked; the answer is the sum of the marked numbers. Copying (Arjovsky, Shah, Bengio 2016): after
ten symbols come `length` blanks, then a sign to repeat the symbols. A recurrent network reads the
sequence, and a linear layer computes the answer. Every batch is a function of the seed, the epoch
and its index, and no batch occurs twice, so the network cannot overfit. Validation and test
sequences have seeds of their own.

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

COLORS = ("black", "#009E73", "#CC79A7", "#56B4E9")  # the baseline and three published losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the memory tasks."""

    task: Literal["adding", "copy"] = "adding"
    """The task: remember two marked numbers, or ten symbols."""
    length: int = 100
    """Adding: number of steps of a sequence. Copy: number of blank steps between the symbols and
    their repetition."""
    cell: str = "gru"
    """Any cell of seqjax.CELLS that reads vectors: elman, lstm, gru, mgu, indrnn, min_gru, …"""
    hidden_size: int = 64
    """Number of units of a layer."""
    num_layers: int = 1
    """Number of recurrent layers."""
    chrono: bool = True
    """For LSTMs and GRUs: initialise the gates so that the network can remember for the whole
    length of a sequence (Tallec and Ollivier 2018)."""
    activation: Literal["tanh", "relu", "identity", "sigmoid"] | None = None
    """Activation of the cells that have this option (elman, indrnn). With identity, an elman cell
    can remember inputs over many steps, since its initial recurrent matrix is orthogonal (Henaff,
    Szlam, LeCun 2016)."""
    steps: int = 1000
    """Number of batches in an epoch."""
    epochs: int = 10
    """Number of epochs; the validation loss is measured after each."""
    learning_rate: float = 3e-3
    out: Path = Path("out/memory_tasks")
    """Folder for checkpoints, plots and results."""


class Reader(nnx.Module):
    """Recurrent layers, followed by a linear layer.

    The linear layer reads the last output (adding) or the output of each step (copy).
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        inputs, outputs = (2, 1) if config.task == "adding" else (SIGN + 1, SYMBOLS + 1)
        self.every_step = config.task == "copy"
        self.recurrent = nn.Recurrent(
            make_cell(config, inputs), num_layers=config.num_layers, rngs=rngs
        )
        self.head = nnx.Linear(self.recurrent.output_size, outputs, rngs=rngs)

    def __call__(self, inputs: Any) -> jax.Array:
        """Return the sum [B, 1], or logits [B, T, 9], for inputs [B, T, I]."""
        return self.head(self.recurrent(inputs, return_sequences=self.every_step).outputs)


def make_cell(config: Config, inputs: int) -> cells.Cell[Any, Any]:
    """Return the cell that `config.cell` names; if there is none, exit with the valid names."""
    with script.blaming("cell"):
        kind: Any = type(cells.make_cell(config.cell, 1, 1))
    choices = {field.name for field in dataclasses.fields(kind)}
    options: dict[str, Any] = {}
    if config.chrono and "chrono" in choices:
        options["chrono"] = float(config.length + (2 * RECALL if config.task == "copy" else 0))
    if config.activation is not None:
        if "activation" not in choices:
            raise SystemExit(
                f"--activation: expected none for {config.cell}, got {config.activation}"
            )
        options["activation"] = config.activation
    return kind(inputs, config.hidden_size, **options)


def metric_fn(model: Reader, batch: Any) -> dict[str, metrics.Mean]:
    """Return the loss and, for the copy task, the accuracy of the symbols to recall."""
    found, target = model(batch["inputs"]), batch["target"]
    if not model.every_step:
        return {"loss": metrics.mean_squared_error(found, target)}
    recalled = metrics.accuracy(found[:, -RECALL:], target[:, -RECALL:])
    return {"loss": metrics.cross_entropy(found, target), "recalled": recalled}


def loss_fn(model: Reader, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
    """Return the squared error of the sum (adding) or the cross-entropy over all steps (copy)."""
    del rngs
    found, target = model(batch["inputs"]), batch["target"]
    loss = losses.cross_entropy if model.every_step else losses.mean_squared_error
    return loss(found, target), {}


def plot(config: Config, result: training.FitResult, lines: dict[str, float]) -> None:
    """Plot the loss of each epoch, with lines for the baseline and published values."""
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
    """Train and evaluate; return the test loss of the model and that of a guess without memory."""
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
