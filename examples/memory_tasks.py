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
    python -m examples.memory_tasks --task copy --cell elman --cell-options activation identity \
        --steps 200
    python -m examples.memory_tasks --task copy --cell lru --cell-options r_min 0.99 --steps 200
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import optax
import tyro
from flax import nnx

from examples import script
from examples.shipped import drawn
from examples.shipped.drawn import RECALL, SIGN, SYMBOLS, Draws
from seqjax import cells, losses, metrics, nn, training, viz

EIGENVALUES = ("nu_log", "theta_log", "lambda_re", "lambda_im", "log_step")
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
    blocks: bool = False
    """Put each recurrent layer into a residual block with a norm and a gated linear unit."""
    chrono: bool = True
    """For LSTMs and GRUs: initialise the gates so that the network can remember for the whole
    length of a sequence (Tallec and Ollivier 2018)."""
    cell_options: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """Options of the cell, as pairs of name and value, such as r_min 0.99 for lru. With activation
    identity, an elman cell can remember inputs over many steps, since its initial recurrent matrix
    is orthogonal (Henaff, Szlam, LeCun 2016)."""
    steps: int = 1000
    """Number of batches in an epoch."""
    epochs: int = 10
    """Number of epochs; the validation loss is measured after each."""
    learning_rate: float = 3e-3
    eigenvalue_rate: float = 1.0
    """Factor of the learning rate for the parameters of the eigenvalues of lru and s5. Over many
    steps, a small change of an eigenvalue changes the state much, so the authors use less than 1.
    """
    out: Path = Path("out/memory_tasks")
    """Folder for checkpoints, plots and results."""


class Block(nnx.Module):
    """A residual block, as in deep networks of linear cells: xs + GLU(GELU(cell(norm(xs))))."""

    def __init__(self, cell: cells.Cell[Any, Any], dtype: str, *, rngs: nnx.Rngs) -> None:
        width = cell.input_shape[0]
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.recurrent = nn.Recurrent(cell, dtype=dtype, rngs=rngs)
        self.gated = nnx.Linear(self.recurrent.output_size, 2 * width, rngs=rngs)

    def __call__(self, xs: jax.Array) -> jax.Array:
        """Return outputs of the shape of xs, [B, T, H]."""
        return xs + nnx.glu(self.gated(nnx.gelu(self.recurrent(self.norm(xs)).outputs)))


class Reader(nnx.Module):
    """Recurrent layers, followed by a linear layer.

    The linear layer reads the last output (adding) or the output of each step (copy).
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        inputs, outputs = (2, 1) if config.task == "adding" else (SIGN + 1, SYMBOLS + 1)
        self.every_step = config.task == "copy"
        self.in_blocks = config.blocks
        if self.in_blocks:
            width = config.hidden_size
            blocks = [
                Block(make_cell(config, width), config.dtype, rngs=rngs)
                for _ in range(config.num_layers)
            ]
            self.blocks = nnx.Sequential(nnx.Linear(inputs, width, rngs=rngs), *blocks)
        else:
            self.recurrent = nn.Recurrent(
                make_cell(config, inputs),
                num_layers=config.num_layers, dtype=config.dtype, rngs=rngs,
            )  # fmt: skip
            width = self.recurrent.output_size
        self.head = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, inputs: Any) -> jax.Array:
        """Return the sum [B, 1], or logits [B, T, 9], for inputs [B, T, I]."""
        if not self.in_blocks:
            return self.head(self.recurrent(inputs, return_sequences=self.every_step).outputs)
        outputs = self.blocks(inputs)
        return self.head(outputs if self.every_step else outputs[:, -1])


def make_cell(config: Config, inputs: int) -> cells.Cell[Any, Any]:
    """Return the cell that `config.cell` names; if there is none, exit with the valid names."""
    with script.blaming("cell"):
        kind: Any = type(cells.make_cell(config.cell, 1, 1))
    known = {field.name for field in dataclasses.fields(kind)}
    options: dict[str, Any] = {}
    if config.chrono and "chrono" in known:
        options["chrono"] = float(config.length + (2 * RECALL if config.task == "copy" else 0))
    for name in config.cell_options:
        if name not in known:
            raise SystemExit(
                f"--cell-options: expected options of {config.cell}, {', '.join(sorted(known))}; "
                f"got {name}"
            )
    try:
        return kind(inputs, config.hidden_size, **(options | config.cell_options))
    except (TypeError, ValueError) as error:
        raise SystemExit(f"--cell-options: {error}") from None


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


def optimizer(config: Config) -> optax.GradientTransformation:
    """Return Adam as `config.fit` makes it, with a smaller learning rate for eigenvalues."""

    def eigenvalues(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: any(name in jax.tree_util.keystr(path) for name in EIGENVALUES), params
        )

    adam = training.optimizer(config.schedule(config.steps), clip_norm=config.clip_norm)
    return optax.chain(adam, optax.masked(optax.scale(config.eigenvalue_rate), eigenvalues))


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
    config.save_figure(figure, "loss.png")


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
        optimizer=None if config.eigenvalue_rate == 1 else optimizer(config),
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
