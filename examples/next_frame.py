"""What does the next frame show? Films of moving digits, continued by convolutional LSTMs.

The task of Srivastava, Mansimov, Salakhutdinov (2015) and of Shi et al. (2015), in small: real
handwritten digits (8 × 8 pixels, from scikit-learn) drift through a frame and bounce off its sides.
The films are made here: digits, places and speeds are drawn from the seed. The digits of training,
validation and test films are different ones. A network of convolutional LSTMs reads a film and says
for each pixel of the next frame how bright it is; then it goes on by itself, from its own frames.

    python -m examples.next_frame
    python -m examples.next_frame --digits 2 --size 24

The measures are over all pixels of the frames from the third one on: two frames tell the speed.
Data: Alpaydin, Kaynak (1998), Optical recognition of handwritten digits.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import moving_digits
from seqjax import cells, metrics, nn
from seqjax.data import batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
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
    if config.size <= moving_digits.SIDE or config.steps < 4:
        least = f"more than {moving_digits.SIDE}, at least 4"
        raise SystemExit(f"--size, --steps: expected {least}")
    with script.blaming("data"):
        images, rng = moving_digits.load(config.data), np.random.default_rng(config.seed)
    counts = {"train": config.films, "dev": -(-config.films // 10), "test": -(-config.films // 10)}
    films = {
        name: moving_digits.draw(
            images[name], count, rng, digits=config.digits, size=config.size, steps=config.steps,
            speed=config.speed,
        )
        for name, count in counts.items()
    }  # fmt: skip
    sizes = [f"{len(images[x]):,} digits in {counts[x]:,} {x} films" for x in films]
    print(", ".join(sizes))

    def in_order(name: str) -> Any:
        return batches({"frames": films[name]}, batch_size=50, sequence_keys=())

    result = config.fit(
        FrameModel(config, rngs=nnx.Rngs(config.seed)),
        loss_fn,
        config.batches({"frames": films["train"]}, sequence_keys=()),
        eval_batches=in_order("dev"),
        metric_fn=metric_fn,
    )
    figures = script.measure(result.model, metric_fn, in_order("test"))
    figures |= moving_digits.copied(films["train"], films["test"])

    film, half = films["test"][:1], config.steps // 2
    shown = {
        "film": film[0],
        "next frame": np.asarray(jax.nn.sigmoid(result.model(film[:, :-1])))[0],
        "going on": np.asarray(result.model.going_on(film[:, :half], config.steps - half))[0],
    }
    moving_digits.plot(shown).savefig(config.out / "films.png", dpi=150)
    return config.report(result, **{name: float(value) for name, value in figures.items()})


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.next_frame", description=__doc__))
