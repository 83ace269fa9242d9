"""What does the next frame show? Films of moving digits, continued by convolutional LSTMs.

The task of Srivastava, Mansimov, Salakhutdinov (2015) and of Shi et al. (2015), in small: real
handwritten digits (8 × 8 pixels, from scikit-learn) drift through a frame and bounce off its sides.
The films are made here: digits, places and speeds are drawn from the seed. The digits of training,
validation and test films are different ones. A network of convolutional LSTMs reads a film and says
for each pixel of the next frame how bright it is; then it goes on by itself, from its own frames.

    python examples/next_frame.py
    python examples/next_frame.py --digits 2 --size 24

The measures are over all pixels of the frames from the third one on: two frames tell the speed.
Data: Alpaydin, Kaynak (1998), Optical recognition of handwritten digits.
"""

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure

from seqjax import cells, metrics, nn, training
from seqjax.data import batches, installed_files, read_text

SIDE = 8  # of a digit's image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains a network that predicts the next frame, and lets it continue films of the test set."""

    data: Path | None = None
    """digits.csv.gz of scikit-learn; by default that in the installed package."""
    digits: int = 1
    """Digits in a film."""
    size: int = 16
    """Pixels of a frame's side."""
    steps: int = 10
    """Frames of a film."""
    speed: int = 1
    """Pixels that a digit moves in a step at most, along each axis."""
    films: int = 480
    """Training films; a tenth as many for validation, and for the test."""
    hidden_size: int = 16
    """Channels of each layer."""
    num_layers: int = 1
    """Layers of convolutional LSTMs."""
    kernel_size: int = 3
    """Pixels of the side of a convolution's window."""
    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 1e-2
    out: Path = Path("out/next_frame")


class FrameModel(nnx.Module):
    """Convolutional LSTMs over the frames so far, and a logit for each pixel of the next one."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        cell = cells.ConvLSTM2D(
            1, config.hidden_size, spatial_shape=config.size, kernel_size=config.kernel_size
        )
        self.recurrent = nn.Recurrent(cell, num_layers=config.num_layers, rngs=rngs)
        self.head = nnx.Conv(config.hidden_size, 1, (3, 3), rngs=rngs)

    def __call__(self, frames: Any) -> jax.Array:
        """Logits [B, T, S, S, 1] of the frames that follow each of the frames [B, T, S, S, 1]."""
        return self.head(self.recurrent(frames).outputs)

    def going_on(self, frames: Any, steps: int) -> jax.Array:
        """The frames [B, steps, S, S, 1] that follow, each made of the ones before."""
        outputs, state = self.recurrent(frames)

        def frame(output: Any) -> Any:
            return jax.nn.sigmoid(self.head(output))

        first = frame(outputs[:, -1])
        later = self.recurrent.one_to_many(first, steps - 1, feedback=frame, initial_state=state)
        return jnp.concatenate([first[:, None], frame(later.outputs)], axis=1)


def load(config: Config) -> dict[str, np.ndarray]:
    """Digits float32 [N, 8, 8] in [0, 1] for "train", "dev" and "test"."""
    with training.blaming("data"):
        path = (
            config.data
            or installed_files(
                "sklearn", "datasets/data/digits.csv.gz", distribution="scikit-learn"
            )[0]
        )
        table = np.loadtxt(io.StringIO(read_text(path)), np.float32, delimiter=",", ndmin=2)
    if table.shape[1] != SIDE**2 + 1 or len(table) < 10:
        raise SystemExit(f"--data: expected 65 columns, at least 10 rows, got {table.shape}")
    images = table[:, :-1].reshape(-1, SIDE, SIDE) / 16
    images = images[np.random.default_rng(0).permutation(len(images))]
    train, dev, test = np.split(images, [8 * len(images) // 10, 9 * len(images) // 10])
    return {"train": train, "dev": dev, "test": test}


def draw(config: Config, images: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Films float32 [count, steps, S, S, 1] of digits that move on and bounce."""
    room = config.size - SIDE  # the places of a digit's corner are 0 … room
    films = np.zeros((count, config.steps, config.size, config.size, 1), np.float32)
    for film in films:
        for _ in range(config.digits):
            image = images[rng.integers(len(images)), :, :, None]
            start, speed = rng.integers(2 * room, size=2), rng.integers(1, config.speed + 1, 2)
            for t, frame in enumerate(film):
                y, x = room - abs((start + speed * t) % (2 * room) - room)
                part = frame[y : y + SIDE, x : x + SIDE]
                np.maximum(part, image, out=part)
    return films


def copy_rates(films: np.ndarray) -> np.ndarray:
    """How bright a pixel is on average after one that was dark [0] or bright [1]."""
    last, following = films[:, 1:-1] > 0.5, films[:, 2:]
    return np.array([following[~last].mean(), following[last].mean()])


def plot(shown: dict[str, np.ndarray]) -> Figure:
    """Films one below the other."""
    columns = max(map(len, shown.values()))
    figure = Figure(figsize=(0.8 * columns + 1.6, 0.9 * len(shown)), layout="constrained")
    for row, (name, film) in enumerate(shown.items()):
        for column in range(columns):
            axes = figure.add_subplot(len(shown), columns, row * columns + column + 1)
            axes.set(xticks=[], yticks=[])
            axes.axis("off")
            at = column - columns + len(film)
            if at >= 0:
                axes.imshow(film[at, :, :, 0], cmap="gray", vmin=0, vmax=1)
            if column == 0:
                axes.text(-0.2, 0.5, name, transform=axes.transAxes, ha="right", va="center")
    return figure


def loss_fn(model: FrameModel, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Binary cross entropy of the frames from the third one on."""
    del rngs  # nothing in it is random
    found = metric_fn(model, batch)
    return found["loss"].value(), {"error": found["error"]}


def metric_fn(model: FrameModel, batch: Any) -> dict[str, metrics.Mean]:
    """Binary cross entropy and mean squared error of the frames from the third one on."""
    logits, following = model(batch["frames"][:, :-1])[:, 1:], batch["frames"][:, 2:]
    return {
        "loss": metrics.binary_cross_entropy(logits, following, mask=batch["weights"]),
        "error": metrics.mean_squared_error(
            jax.nn.sigmoid(logits), following, mask=batch["weights"]
        ),
    }


def main(config: Config) -> dict[str, float]:
    """Trains and measures; returns what the test films give, ours and by copying the last frame."""
    config.prepare()
    if config.size <= SIDE or config.steps < 4:
        raise SystemExit(f"--size, --steps: expected more than {SIDE}, at least 4")
    images, rng = load(config), np.random.default_rng(config.seed)
    counts = {"train": config.films, "dev": -(-config.films // 10), "test": -(-config.films // 10)}
    films = {name: draw(config, images[name], count, rng) for name, count in counts.items()}
    print(
        ", ".join(
            f"{len(images[name]):,} digits in {counts[name]:,} {name} films" for name in films
        )
    )

    def in_order(name: str) -> Any:
        return batches({"frames": films[name]}, batch_size=50, sequence_keys=())

    result = config.fit(
        FrameModel(config, rngs=nnx.Rngs(config.seed)),
        loss_fn,
        config.batches({"frames": films["train"]}, sequence_keys=()),
        eval_batches=in_order("dev"),
        metric_fn=metric_fn,
    )
    figures = training.measure(result.model, metric_fn, in_order("test"))
    last, following = films["test"][:, 1:-1], films["test"][:, 2:]
    copied = copy_rates(films["train"])[(last > 0.5).astype(int)]
    entropy = -following * np.log(copied) - (1 - following) * np.log(1 - copied)
    figures |= {"copy_loss": entropy.mean(), "copy_error": ((last - following) ** 2).mean()}

    film, half = films["test"][:1], config.steps // 2
    shown = {
        "film": film[0],
        "next frame": np.asarray(jax.nn.sigmoid(result.model(film[:, :-1])))[0],
        "going on": np.asarray(result.model.going_on(film[:, :half], config.steps - half))[0],
    }
    plot(shown).savefig(config.out / "films.png", dpi=150)
    return config.report(result, **{name: float(value) for name, value in figures.items()})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
