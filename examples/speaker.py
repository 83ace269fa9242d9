"""Who is speaking? Speaker recognition on JapaneseVowels: 640 real recordings of nine speakers.

A recording is a sequence of 7 to 29 frames with 12 LPC cepstrum coefficients. A recurrent layer
reads it in both directions; the mean of its outputs over the real frames goes to a softmax.

Sizes and rates were chosen by cross-validation on the training recordings, where GRU and LSTM tied;
the GRU is the default for its speed, a choice made when the test figures of both were known. A run
chooses nothing by the test recordings: training ends after a fixed number of epochs.

Data: Kudo, Toyama, Shimbo (1999), Multidimensional curve classification using passing-through
regions; as .ts files from timeseriesclassification.com, which the package aeon ships.
"""

import dataclasses
import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx

from seqjax import cells, losses, metrics, nn, sequences, sharding, training, viz
from seqjax.data import batches, read_ts

FILES = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains one model a seed, prints their accuracies and writes two plots."""

    cell: str = "gru"
    """rnn, lstm, gru, or any other cell of seqjax.CELLS that reads vectors, such as mgu."""
    hidden_size: int = 100
    """Units in each direction."""
    num_layers: int = 1
    """Layers, each reading both directions of the one below."""
    epochs: int = 80
    """How many times to go through the training recordings."""
    batch_size: int = 30
    """Recordings in a step."""
    learning_rate: float = 3e-3
    """Adam's at the start; it falls to zero along a cosine."""
    dropout: float = 0.5
    """Share of the features that training drops, before the softmax and between layers."""
    noise: float = 1.0
    """Standard deviation of noise that training adds to the frames (theirs is 1)."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all speakers."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One model is trained for each: a seed fixes weights, order of recordings, noise, dropout."""
    devices: int = 1
    """Over how many devices each batch is divided; more than one divides a CPU's cores."""
    data_dir: Path | None = None
    """Folder of the two .ts files; by default that in the installed package aeon or sktime."""
    out: Path = Path("out/speaker")
    """Folder for learning_curve.png and hidden_states.png, which show the first seed's model."""


class SpeakerModel(nnx.Module):
    """Recurrent layers in both directions, the mean over real frames, a linear layer."""

    def __init__(self, config: Config, channels: int, speakers: int, *, rngs: nnx.Rngs) -> None:
        cell = make_cell(config.cell, channels, config.hidden_size)
        layers, dropout = config.num_layers, config.dropout
        self.recurrent = nn.Recurrent(
            cell, num_layers=layers, bidirectional=True, dropout=dropout, rngs=rngs
        )
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(self.recurrent.output_size, speakers, rngs=rngs)

    def __call__(self, frames: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits [B, speakers] of frames [B, T, channels]; training needs `rngs` for dropout."""
        outputs = self.recurrent(frames, lengths=lengths, rngs=rngs).outputs
        pooled = sequences.mean_pool(outputs, lengths=lengths)
        return self.head(self.dropout(pooled, rngs=rngs))


def make_cell(name: str, channels: int, hidden_size: int) -> cells.Cell[Any, Any]:
    """The cell of that name, or an exit with the names there are."""
    known = {key: kind for key, kind in cells.CELLS.items() if kind(1, 1).input_shape == (1,)}
    known = {"rnn": cells.Elman} | known
    if name not in known:
        why = "reads images, not vectors" if name in cells.CELLS else "is not a cell"
        raise SystemExit(f"--cell: {name} {why}; expected one of {', '.join(known)}")
    return known[name](channels, hidden_size)


def find_data(data_dir: Path | None) -> list[Path]:
    """The training and the test file, or an exit that says how to get them."""
    folders = [data_dir] if data_dir else []
    for package in () if data_dir else ("aeon", "sktime"):
        spec = importlib.util.find_spec(package)  # finds the package, runs nothing of it
        for place in (spec and spec.submodule_search_locations) or ():
            folders.append(Path(place, "datasets", "data", "JapaneseVowels"))
    for folder in folders:
        files = [folder / name for name in FILES]
        if all(file.is_file() for file in files):
            return files
    raise SystemExit(
        f"{' and '.join(FILES)}: not in {data_dir or 'an installed aeon or sktime'}.\n"
        "They are inside the package aeon, of which nothing else is needed:\n\n"
        "    pip install --no-deps aeon\n\n"
        "Or download JapaneseVowels from timeseriesclassification.com and give --data-dir."
    )


def load(data_dir: Path | None) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Training and test recordings, scaled by what the training frames say, and the speakers."""
    (train, train_labels), (test, test_labels) = map(read_ts, find_data(data_dir))
    frames = np.concatenate(train)
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    speakers = sorted(set(train_labels))

    def examples(recordings: list[np.ndarray], labels: list[str]) -> dict[str, Any]:
        ids = np.array([speakers.index(label) for label in labels], np.int32)
        return {"frames": [(frames - mean) / deviation for frames in recordings], "speaker": ids}

    return examples(train, train_labels), examples(test, test_labels), speakers


def train(config: Config, seed: int, train_set: Any, test_set: Any, speakers: int) -> Any:
    """Trains one model. What it does on the test set goes into the history and nowhere else."""
    channels = train_set["frames"][0].shape[1]
    model = SpeakerModel(config, channels, speakers, rngs=nnx.Rngs(seed))

    def scores(model: SpeakerModel, frames: Any, batch: Any, rngs: Any = None) -> dict[str, Any]:
        logits = model(frames, batch["lengths"], rngs)
        return {"logits": logits, "labels": batch["speaker"], "mask": batch["weights"]}

    def loss_fn(model: SpeakerModel, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, Any]:
        noise = config.noise * jax.random.normal(rngs.noise(), batch["frames"].shape)
        found = scores(model, batch["frames"] + noise, batch, rngs)
        loss = losses.cross_entropy(**found, label_smoothing=config.label_smoothing)
        return loss, {"accuracy": metrics.accuracy(**found)}

    def metric_fn(model: SpeakerModel, batch: Any) -> dict[str, metrics.Mean]:
        found = scores(model, batch["frames"], batch)
        loss = metrics.cross_entropy(**found, label_smoothing=config.label_smoothing)
        return {"loss": loss, "accuracy": metrics.accuracy(**found)}

    def epoch_batches(epoch: int) -> Any:
        return batches(train_set, batch_size=config.batch_size, seed=seed, epoch=epoch)

    steps = config.epochs * len(epoch_batches(0))
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps)
    return training.fit(
        model,
        loss_fn,
        training.optimizer(schedule, clip_norm=1.0),
        epoch_batches,
        epochs=config.epochs,
        eval_batches=list(batches(test_set, batch_size=len(test_set["speaker"]))),
        metric_fn=metric_fn,
        seed=seed,
        devices=config.devices,
    )


def plot(config: Config, result: training.FitResult, test_set: Any, speakers: list[str]) -> None:
    """Writes the learning curve, and the hidden states over one recording of the test set."""
    config.out.mkdir(parents=True, exist_ok=True)
    figure = viz.learning_curve(result.history)
    figure.suptitle(
        f"{config.cell}, seed {config.seeds[0]}; evaluation is on the test set and decides nothing"
    )
    figure.savefig(config.out / "learning_curve.png", dpi=150)
    frames, speaker = test_set["frames"][0], speakers[test_set["speaker"][0]]
    outputs = result.model.recurrent(frames).outputs
    title = f"A test recording of speaker {speaker}, read forward (above) and backward (below)"
    figure = viz.hidden_states(outputs, title=title)
    figure.set_size_inches(8, 5)
    figure.axes[0].axhline(outputs.shape[1] / 2 - 0.5, color="black")
    figure.axes[0].set_xlabel("frame (one every 6.4 ms)")
    figure.savefig(config.out / "hidden_states.png", dpi=150)


def main(config: Config) -> list[float]:
    """Trains, prints and plots; returns the test accuracy of each seed."""
    if config.devices > 1:
        sharding.use_cpu_devices(config.devices)  # before anything is computed
    make_cell(config.cell, 1, 1)  # a wrong name is said before anything is read
    if not config.seeds:
        raise SystemExit("--seeds: expected at least one")
    if config.epochs < 1 or config.noise < 0:
        raise SystemExit("--epochs, --noise: expected at least 1 epoch and noise of at least 0")
    train_set, test_set, speakers = load(config.data_dir)
    sizes = len(train_set["frames"]), len(test_set["frames"])
    counts = np.bincount(test_set["speaker"])
    print(f"{sizes[0]} training and {sizes[1]} test recordings of {len(speakers)} speakers")
    results, seconds = [], []
    for seed in config.seeds:
        print(f"seed {seed}", flush=True)
        start = time.perf_counter()
        results.append(train(config, seed, train_set, test_set, len(speakers)))
        seconds.append(time.perf_counter() - start)
    plot(config, results[0], test_set, speakers)

    accuracies = [result.history[-1]["eval_accuracy"] for result in results]
    parameters = sum(array.size for array in jax.tree.leaves(results[0].state.params))
    most = counts.argmax()
    rows = [(f"always speaker {speakers[most]}, the most frequent", counts[most] / counts.sum())]
    for seed, accuracy, s in zip(config.seeds, accuracies, seconds, strict=True):
        rows.append((f"{config.cell}, seed {seed} ({s:.1f} s)", accuracy))
    spread = f"standard deviation {np.std(accuracies):.2%}"
    rows.append((f"{config.cell}, mean; {spread}", float(np.mean(accuracies))))
    if sizes == (270, 370):  # a figure on other data would not compare
        rows.append(("published: an ensemble of 11 LSTMs", 0.9886))
    print("\naccuracy on the test recordings")
    for name, value in rows:
        print(f"  {name:<46}{value:8.2%}")
    print(
        f"{parameters:,} parameters, {config.epochs} epochs, {sum(seconds):.0f} s with compiling, "
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores; plots in {config.out}"
    )
    return accuracies


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
