"""A model of polyphonic music: which keys of the piano sound at the next step?

To model binary vectors over time, copy `MusicModel` and `likelihood`; `play_on` shows how to sample
step by step.

A piece is a piano roll: one row of 88 keys for each step, 1 where a key sounds. A recurrent network
reads the steps so far. For each key it computes the log-odds that the key sounds at the next step,
independently of the other keys. After training, the network continues a piece and writes a MIDI
file.

    python -m examples.music                        # chorales by Bach in the package music21
    python -m examples.music --data JSB_Chorales.mat --transpose 0

The metric is that of Bai, Kolter, Koltun (2018), An empirical evaluation of generic convolutional
and recurrent networks: steps 2 … T of each piece are predicted from the steps before them, and the
negative log-likelihoods in nats, summed over the keys, are averaged over all steps of the set.
Data: Boulanger-Lewandowski, Bengio, Vincent (2012), Modeling temporal dependencies in
high-dimensional sequences. In the files of this paper, all pieces are in C, so transposing them
does not help.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import piano_rolls
from examples.shipped.piano_rolls import KEYS
from seqjax import cells, metrics, nn, sequences
from seqjax.data import Batches, batches

FIELDS: Any = {"sequence_keys": ("read", "next")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the music example."""

    data: Path | None = None
    """A .mat file of piano rolls, or a folder of .mxl scores (by default, one in music21)."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent cell."""
    hidden_size: int = 200
    """Number of units of a layer."""
    num_layers: int = 1
    """Number of layers."""
    dropout: float = 0.5
    """Dropout rate on the outputs of each layer."""
    recurrent_dropout: float = 0.2
    """Dropout rate on the inputs of the recurrent product, with the same mask at every step."""
    transpose: int = 6
    """Maximum number of semitones by which training transposes a piece. The number is drawn anew in
    each epoch."""
    window: int = 96
    """Maximum number of steps of a training example; longer pieces are cut at random places."""
    play: int = 64
    """Number of steps of the MIDI file: a quarter is from a test piece, the rest is sampled."""
    epochs: int = 150
    batch_size: int = 16
    learning_rate: float = 4e-3
    out: Path = Path("out/music")
    after_training: ClassVar[tuple[str, ...]] = ("play",)

    may_be_zero = ("seed", "transpose")


class MusicModel(nnx.Module):
    """Recurrent layers that map rolls [..., T, 88] to log-odds of the next step [..., T, 88]."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        cell, dropout = cells.CELLS[config.cell](KEYS, config.hidden_size), config.dropout
        self.recurrent = nn.Recurrent(
            cell, num_layers=config.num_layers, dtype=config.dtype,
            dropout=dropout, recurrent_dropout=config.recurrent_dropout, rngs=rngs,
        )  # fmt: skip
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(config.hidden_size, KEYS, rngs=rngs)

    def __call__(self, roll: Any, lengths: Any = None, rngs: nnx.Rngs | None = None) -> jax.Array:
        outputs = self.recurrent(roll, lengths=lengths, rngs=rngs).outputs
        return self.head(self.dropout(outputs, rngs=rngs))

    def play_on(self, beginning: Any, steps: int, key: jax.Array) -> jax.Array:
        """Return sampled steps [steps, 88] that follow a beginning [T, 88]."""
        outputs, state = self.recurrent(beginning, deterministic=True)

        def step(carry: Any, key: jax.Array) -> Any:
            output, state = carry
            keys = jax.random.bernoulli(key, nnx.sigmoid(self.head(output))).astype(output.dtype)
            return tuple(self.recurrent.step(keys, state)), keys

        return jax.lax.scan(step, (outputs[-1], state), jax.random.split(key, steps))[1]


def examples(rolls: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return each roll without its last step as the input, and without its first as the target."""
    return {"read": [roll[:-1] for roll in rolls], "next": [roll[1:] for roll in rolls]}


def likelihood(model: MusicModel, batch: Any, rngs: nnx.Rngs | None = None) -> metrics.Mean:
    """Return the negative log-likelihood in nats, summed over keys, as a mean over steps."""
    logits = model(batch["read"], batch["lengths"], rngs)
    mask = sequences.lengths_to_mask(batch["lengths"], logits.shape[1])
    found = metrics.binary_cross_entropy(logits, batch["next"], mask=mask)
    return metrics.Mean(found.total, found.count // KEYS)


def main(config: Config) -> dict[str, float]:
    """Train, evaluate and play; return the test loss of the model and of two baselines."""
    config.prepare()
    with script.blaming("data"):
        rolls = piano_rolls.load(config.data)

    def train_batches(epoch: int) -> Batches:
        rng = np.random.default_rng((config.seed, epoch))
        how = config.transpose, config.window, rng
        parts = [part for roll in rolls["train"] for part in piano_rolls.heard(roll, *how)]
        boundaries = (-(-config.window // 2), config.window)
        return config.batches(examples(parts), boundaries=boundaries, **FIELDS)(epoch)

    def held_out(side: str) -> Batches:
        return batches(examples(rolls[side]), batch_size=config.batch_size, **FIELDS)

    def loss_fn(model: MusicModel, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        return likelihood(model, batch, rngs).value(), {}

    def metric_fn(model: MusicModel, batch: Any) -> dict[str, metrics.Mean]:
        return {"loss": likelihood(model, batch)}

    result = config.fit(
        MusicModel(config, rngs=nnx.Rngs(config.seed)), loss_fn, train_batches,
        eval_batches=held_out("valid"), metric_fn=metric_fn,
    )  # fmt: skip
    nll = script.measure(result.model, metric_fn, held_out("test"))["loss"]

    piece = rolls["test"][0][: config.play]
    given, key = piece[: max(1, config.play // 4)], jax.random.key(config.seed)
    drawn = result.model.play_on(given, config.play - len(given), key)
    played = np.concatenate([given, drawn])
    piano_rolls.write_midi(config.out / "played.mid", played)
    panels: dict[str, Any] = {
        "A test piece": piece,
        "Predicted one step ahead": nnx.sigmoid(result.model(piece[:-1])),
        f"Continued by the model after {len(given)} steps": played,
    }
    config.save_figure(piano_rolls.plot(panels, len(piece)), "piano_rolls.png")
    return config.report(result, nll=nll, **piano_rolls.baselines(rolls["train"], rolls["test"]))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.music", description=__doc__))
