"""Speaker recognition (many-to-one): JapaneseVowels, 640 real recordings of nine speakers.

To classify sequences of vectors of your own, copy `SpeakerModel`, `scores`, and the function
`loss_fn`, which is defined inside `main`.

A recording is a sequence of 7 to 29 frames with 12 LPC cepstrum coefficients. A recurrent layer
reads the recording in both directions. The mean of its outputs, without padding, goes to a softmax.

Sizes and rates were chosen by cross-validation on the training recordings. In this
cross-validation, GRU and LSTM were equally good. The GRU is the default because it is faster; when
this was decided, the test accuracies of both were known. A run does not use the test recordings for
any choice: training ends after a fixed number of epochs.

Data: Kudo, Toyama, Shimbo (1999), Multidimensional curve classification using passing-through
regions. The package aeon contains the .ts files of timeseriesclassification.com.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import japanese_vowels
from seqjax import cells, losses, metrics, nn, sequences, viz
from seqjax.data import batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the speaker recognition example."""

    cell: str = "gru"
    """elman, lstm, gru, or any other cell of seqjax.CELLS that reads vectors."""
    hidden_size: int = 100
    """Number of units in each direction."""
    num_layers: int = 1
    """Number of layers; each reads both directions of the layer below."""
    epochs: int = 80
    """Number of passes through the training recordings."""
    batch_size: int = 30
    """Number of recordings in a batch."""
    learning_rate: float = 3e-3
    """Maximum learning rate of Adam. The rate rises for half an epoch and falls to zero along a
    cosine."""
    dropout: float = 0.5
    """Dropout rate before the softmax and between layers."""
    noise: float = 1.0
    """Standard deviation of the noise that training adds to the frames, which have standard
    deviation 1."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all speakers."""
    data: Path | None = None
    """Folder of the two .ts files; by default the folder in the installed package aeon."""
    out: Path = Path("out/speaker")
    """Folder for checkpoints, results, hidden_states.png and confusion.png."""
    shares: ClassVar[tuple[str, ...]] = ("dropout", "label_smoothing")


class SpeakerModel(nnx.Module):
    """A classifier: bidirectional recurrent layers, the mean over frames, and a linear layer."""

    def __init__(self, config: Config, channels: int, speakers: int, *, rngs: nnx.Rngs) -> None:
        with script.blaming("cell"):
            cell = cells.make_cell(config.cell, channels, config.hidden_size)
        layers, dropout = config.num_layers, config.dropout
        self.recurrent = nn.Recurrent(
            cell,
            num_layers=layers, bidirectional=True, dropout=dropout, dtype=config.dtype, rngs=rngs,
        )  # fmt: skip
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(self.recurrent.output_size, speakers, rngs=rngs)

    def __call__(self, frames: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return logits [B, speakers] for frames [B, T, channels]; `rngs` is for dropout."""
        outputs = self.recurrent(frames, lengths=lengths, rngs=rngs).outputs.astype(jnp.float32)
        pooled = sequences.mean_pool(outputs, lengths=lengths)
        return self.head(self.dropout(pooled, rngs=rngs))


def scores(model: SpeakerModel, frames: Any, batch: Any, rngs: Any = None) -> dict[str, Any]:
    """Return logits, labels and mask, the arguments of the losses and metrics."""
    logits = model(frames, batch["lengths"], rngs)
    return {"logits": logits, "labels": batch["speaker"], "mask": batch["weights"]}


def metric_fn(model: SpeakerModel, batch: Any) -> dict[str, metrics.Mean]:
    """Return the accuracy of a batch as a metric."""
    return {"accuracy": metrics.accuracy(**scores(model, batch["frames"], batch))}


def plot(config: Config, model: SpeakerModel, frames: np.ndarray, speaker: str) -> None:
    """Plot the hidden states over one recording of the test set."""
    outputs = model.recurrent(frames).outputs
    title = f"A test recording of speaker {speaker}, read forward (above) and backward (below)"
    figure = viz.hidden_states(outputs, title=title)
    figure.set_size_inches(8, 5)
    figure.axes[0].axhline(outputs.shape[1] / 2 - 0.5, color="black")
    figure.axes[0].set_xlabel("frame (one every 6.4 ms)")
    config.save_figure(figure, "hidden_states.png")


def main(config: Config) -> dict[str, float]:
    """Train, evaluate and plot; return the test accuracies of the model and of the baseline."""
    config.prepare()
    with script.blaming("data"):
        train_set, test_set, speakers = japanese_vowels.load(config.data)
    print(f"{len(train_set['frames'])} training and {len(test_set['frames'])} test recordings")
    channels = train_set["frames"][0].shape[1]
    model = SpeakerModel(config, channels, len(speakers), rngs=nnx.Rngs(config.seed))

    def loss_fn(model: SpeakerModel, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, Any]:
        noise = config.noise * jax.random.normal(rngs.noise(), batch["frames"].shape)
        found = scores(model, batch["frames"] + noise, batch, rngs)
        loss = losses.cross_entropy(**found, label_smoothing=config.label_smoothing)
        return loss, {"accuracy": metrics.accuracy(**found)}

    result = config.fit(model, loss_fn, config.batches(train_set, sequence_keys=("frames",)))
    count = len(test_set["speaker"])
    test_batches = list(batches(test_set, batch_size=count, sequence_keys=("frames",)))
    measured = script.measure(result.model, metric_fn, test_batches)
    [batch] = test_batches
    guesses = np.asarray(result.model(batch["frames"], batch["lengths"]).argmax(axis=-1))
    right, found = ([speakers[index] for index in ids] for ids in (batch["speaker"], guesses))
    config.save_figure(viz.confusion(right, found), "confusion.png")
    plot(config, result.model, test_set["frames"][0], right[0])
    often = np.bincount(train_set["speaker"]).argmax()
    always = float((test_set["speaker"] == often).mean())
    return config.report(result, accuracy=measured["accuracy"], always_one_speaker=always)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.speaker", description=__doc__))
