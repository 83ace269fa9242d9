"""Classification of sensor recordings or of films.

To classify recordings of your own, pass --data FOLDER, or copy `Classifier` and the training in
`main`.

Convolutions over time compute features of each step. If the steps are images, the convolutions run
within each image. A recurrent layer reads the features in both directions. The mean and the maximum
of its outputs, without padding, go to a softmax. The idea to put convolutions below recurrent
layers is from Ordóñez, Roggen (2016), Deep convolutional and LSTM recurrent neural networks for
multimodal wearable activity recognition.

    python -m examples.activity                        # BasicMotions, inside the package aeon
    python -m examples.activity --data FOLDER --validation 0.1

The default data are 80 recordings of a watch's accelerometer and gyroscope, ten seconds each, of
four students who stand, walk, run and play badminton. Half of the recordings are the test set.
--data FOLDER reads one of three kinds of folder:

- NAME_TRAIN.ts and NAME_TEST.ts of timeseriesclassification.com;
- the inertial signals of the unpacked "UCI HAR Dataset" (Anguita et al. 2013);
- train/ and test/ with one folder for each class, which contains .npy arrays of the shape
  (T, features), (T, H, W) or (T, H, W, C).

No option was chosen by its results on the test set. The sizes and rates for BasicMotions were
chosen over several seeds with --validation, which holds out a part of the training recordings.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import motions
from seqjax import cells, losses, metrics, nn, sequences, viz
from seqjax.data import batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the activity example."""

    data: Path | None = None
    """A folder of recordings in one of three forms; by default BasicMotions in the package aeon."""
    model: Literal["conv", "recurrent"] = "conv"
    """With "conv", convolutions over time precede the recurrent layer. Images always have
    convolutions."""
    cell: str = "gru"
    """Name of a cell in seqjax.CELLS."""
    hidden_size: int = 32
    """Number of units in each direction."""
    num_layers: int = 1
    """Number of recurrent layers."""
    features: int = 32
    """Number of features of a step after the convolutions."""
    kernel_size: int = 5
    """Number of steps in the window of a convolution over time."""
    dropout: float = 0.3
    """Dropout rate on the features of steps, between layers and before the softmax."""
    noise: float = 0.3
    """Standard deviation of the noise that training adds to the values, which have standard
    deviation 1."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all classes."""
    validation: float = 0.0
    """Share of the training recordings (of people, if known) that is held out to choose the epoch;
    with 0, the model of the last epoch is used."""
    epochs: int = 60
    batch_size: int = 10
    learning_rate: float = 3e-3
    out: Path = Path("out/activity")
    shares: ClassVar[tuple[str, ...]] = ("dropout", "validation", "label_smoothing")


class Classifier(nnx.Module):
    """A classifier with features of each step, a bidirectional recurrent layer and pooling."""

    def __init__(
        self, config: Config, shape: tuple[int, ...], classes: int, *, rngs: nnx.Rngs
    ) -> None:
        images, size = len(shape) == 3, shape[-1]
        kernels = [(3, 3)] * 2 if images else [(config.kernel_size,)] * 2
        self.convolutions: nnx.List[nnx.Conv] = nnx.List([])
        for kernel in kernels if images or config.model == "conv" else ():
            strides = 2 if images else 1
            self.convolutions.append(
                nnx.Conv(size, config.features, kernel, strides=strides, rngs=rngs)
            )
            size = config.features
        if images:  # an image becomes a vector of (H / 4) (W / 4) features
            size *= math.ceil(shape[0] / 4) * math.ceil(shape[1] / 4)
        with script.blaming("cell"):
            cell = cells.make_cell(config.cell, size, config.hidden_size)
        self.recurrent = nn.Recurrent(
            cell,
            num_layers=config.num_layers, bidirectional=True, dropout=config.dropout,
            dtype=config.dtype, rngs=rngs,
        )  # fmt: skip
        self.dropout = nnx.Dropout(config.dropout)
        self.head = nnx.Linear(2 * self.recurrent.output_size, classes, rngs=rngs)

    def __call__(self, steps: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return logits [B, classes] for steps [B, T, F] or [B, T, H, W, C]."""
        real = sequences.lengths_to_mask(lengths, steps.shape[1])
        xs = jnp.asarray(steps)
        for convolution in self.convolutions:
            # Set padding to 0 before each convolution over time.
            xs = jax.nn.relu(convolution(sequences.zero_masked(xs, mask=real)))
        xs = self.dropout(xs.reshape(*xs.shape[:2], -1), rngs=rngs)
        outputs = self.recurrent(xs, lengths=lengths, rngs=rngs).outputs.astype(xs.dtype)
        pools = sequences.mean_pool, sequences.max_pool
        pooled = jnp.concatenate([pool(outputs, lengths=lengths) for pool in pools], -1)
        return self.head(self.dropout(pooled, rngs=rngs))


def main(config: Config) -> dict[str, float]:
    """Train and evaluate; return the test accuracies of the model and of the baselines."""
    config.prepare()
    with script.blaming("data"):
        found, names = motions.load(config.data, config.validation, config.seed)
    shape = found["train"]["steps"][0].shape[1:]
    counts = ", ".join(f"{len(part['label']):,} {name}" for name, part in found.items())
    print(f"{counts} recordings, steps of {shape}; classes: {', '.join(names)}")
    model = Classifier(config, shape, len(names), rngs=nnx.Rngs(config.seed))

    def scores(model: Classifier, batch: Any, steps: Any, rngs: Any = None) -> dict[str, Any]:
        logits = model(steps, batch["lengths"], rngs)
        return {"logits": logits, "labels": batch["label"], "mask": batch["weights"]}

    def loss_fn(model: Classifier, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        noise = config.noise * jax.random.normal(rngs.noise(), batch["steps"].shape)
        found = scores(model, batch, batch["steps"] + noise, rngs)
        loss = losses.cross_entropy(**found, label_smoothing=config.label_smoothing)
        return loss, {"accuracy": metrics.accuracy(**found)}

    def metric_fn(model: Classifier, batch: Any) -> dict[str, metrics.Mean]:
        found = scores(model, batch, batch["steps"])
        return {"loss": metrics.cross_entropy(**found), "accuracy": metrics.accuracy(**found)}

    def in_order(name: str) -> Any:
        return batches(found[name], batch_size=64, sequence_keys=("steps",))

    source = config.batches(found["train"], sequence_keys=("steps",), boundaries=4)
    held: dict[str, Any] = {}
    if "dev" in found:
        held = {"eval_batches": in_order("dev"), "metric_fn": metric_fn}
    result = config.fit(model, loss_fn, source, **held)
    figures = {"accuracy": script.measure(result.model, metric_fn, in_order("test"))["accuracy"]}
    if held:
        figures["validation_accuracy"] = result.best["eval_accuracy"]
    labels = found["test"]["label"]
    most = np.bincount(found["train"]["label"]).argmax()
    figures["most_frequent"] = float(np.mean(labels == most))
    figures["nearest_neighbour"] = motions.nearest(found["train"], found["test"])

    say = nnx.jit(lambda model, batch: model(batch["steps"], batch["lengths"]).argmax(-1))
    said = [np.asarray(say(result.model, batch))[batch["weights"]] for batch in in_order("test")]
    right, taken = ([names[n] for n in ids] for ids in (labels, np.concatenate(said)))
    config.save_figure(viz.confusion(right, taken), "confusion.png")
    return config.report(result, **figures)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.activity", description=__doc__))
