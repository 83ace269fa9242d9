"""Prediction of the next frame: films of moving digits, continued by convolutional LSTMs.

To predict images over time in data of your own, copy `FrameModel`, `loss_fn` and `metric_fn`.

The task is a small version of that of Srivastava, Mansimov, Salakhutdinov (2015) and of Shi et al.
(2015): real handwritten digits (8 × 8 pixels, from scikit-learn) drift through a frame and bounce
off its sides. The script makes the films: digits, places and speeds are drawn from the seed.
Training, validation and test films have different digits. A network of convolutional LSTMs reads a
film and predicts the brightness of each pixel of the next frame. Then the network continues the
film from its own predictions.

    python -m examples.next_frame
    python -m examples.next_frame --digits 2 --size 24

The metrics cover all pixels from the third frame on, since the first two frames show the speed.
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
    """Options of the next frame example."""

    data: Path | None = None
    """digits.csv.gz of scikit-learn; by default that in the installed package. A row has 64 pixels
    from 0 to 16 and a label; pixels from 0 to 255 must be scaled first."""
    digits: int = 1
    """Number of digits in a film."""
    size: int = 16
    """Height and width of a frame in pixels."""
    steps: int = 10
    """Number of frames of a film."""
    speed: int = 1
    """Maximum number of pixels that a digit moves in a step, along each axis."""
    films: int = 480
    """Number of training films; validation and test have a tenth as many each."""
    hidden_size: int = 16
    """Number of channels of each layer."""
    num_layers: int = 1
    """Number of layers of convolutional LSTMs."""
    kernel_size: int = 3
    """Height and width of the kernel of a convolution in pixels."""
    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 1e-2
    out: Path = Path("out/next_frame")


class FrameModel(nnx.Module):
    """Convolutional LSTMs over the frames so far, and a logit for each pixel of the next frame."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        cell = cells.ConvLSTM2D(
            1, config.hidden_size, spatial_shape=config.size, kernel_size=config.kernel_size
        )
        self.recurrent = nn.Recurrent(
            cell, num_layers=config.num_layers, dtype=config.dtype, rngs=rngs
        )
        self.head = nnx.Conv(config.hidden_size, 1, (3, 3), rngs=rngs)

    def __call__(self, frames: Any) -> jax.Array:
        """Return logits [B, T, S, S, 1] of the frame after each of the frames [B, T, S, S, 1]."""
        return self.head(self.recurrent(frames).outputs)

    def going_on(self, frames: Any, steps: int) -> jax.Array:
        """Predict the next frames [B, steps, S, S, 1]; each predicted frame is the next input."""
        outputs, state = self.recurrent(frames)

        def frame(output: Any) -> Any:
            return jax.nn.sigmoid(self.head(output))

        first = frame(outputs[:, -1])
        later = self.recurrent.one_to_many(first, steps - 1, feedback=frame, initial_state=state)
        return jnp.concatenate([first[:, None], frame(later.outputs)], axis=1)


def loss_fn(model: FrameModel, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Return the binary cross entropy of the frames from the third one on."""
    del rngs  # nothing in the loss is random
    found = metric_fn(model, batch)
    return found["loss"].value(), {"error": found["error"]}


def metric_fn(model: FrameModel, batch: Any) -> dict[str, metrics.Mean]:
    """Return cross entropy and squared error of the frames from the third one on."""
    logits, following = model(batch["frames"][:, :-1])[:, 1:], batch["frames"][:, 2:]
    return {
        "loss": metrics.binary_cross_entropy(logits, following, mask=batch["weights"]),
        "error": metrics.mean_squared_error(
            jax.nn.sigmoid(logits), following, mask=batch["weights"]
        ),
    }


def main(config: Config) -> dict[str, float]:
    """Train and evaluate; return the test metrics of the model and of repeating the last frame."""
    config.prepare()
    if config.size <= moving_digits.SIDE or config.steps < 4:
        least = f"a size above {moving_digits.SIDE} and at least 4 steps"
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
        "continued": np.asarray(result.model.going_on(film[:, :half], config.steps - half))[0],
    }
    config.save_figure(moving_digits.plot(shown), "films.png")
    return config.report(result, **{name: float(value) for name, value in figures.items()})


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.next_frame", description=__doc__))
