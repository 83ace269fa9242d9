"""Three-bit flip-flop: find the memories of a trained network as stable fixed points.

To find the fixed points in a model of your own, copy the calls of `traces` and `viz` in `analyse`.

The inputs are three channels of zeros with occasional pulses of +1 or -1. For each channel, the
network outputs the sign of the latest pulse, so it stores three bits. A trained network stores each
of the eight combinations as a stable fixed point of its step without input. Between the stable
points are saddles, which the state passes when a bit changes.

Reference: Sussillo, Barak (2013), Opening the black box: low-dimensional dynamics in
high-dimensional recurrent neural networks.

    python -m examples.flip_flop
"""

import collections
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from seqjax import losses, nn, traces, training, viz

BITS = 3


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the flip-flop example."""

    hidden_size: int = 24
    """Number of units of the GRU."""
    steps: int = 50
    """Number of time steps of a sequence."""
    pulses: float = 0.15
    """Probability of a pulse at each step of a channel."""
    batch_size: int = 64
    """Number of sequences of a batch."""
    epochs: int = 10
    """Number of epochs; an epoch has 100 batches."""
    learning_rate: float = 1e-2
    """Largest learning rate of Adam."""
    starts: int = 1000
    """Number of states from which the search for fixed points starts."""
    seed: int = 0
    """Seed of weights and pulses."""
    out: Path = Path("out/flip_flop")
    """Folder for fixed_points.png."""


class FlipFlop(nnx.Module):
    """A GRU and a linear layer that reads the bits from the hidden state."""

    def __init__(self, hidden_size: int, rngs: nnx.Rngs) -> None:
        self.recurrent = nn.GRU(BITS, hidden_size, rngs=rngs)
        self.readout = nnx.Linear(hidden_size, BITS, rngs=rngs)

    def __call__(self, xs: Any) -> jax.Array:
        """Return the bits [B, T, 3] for pulses [B, T, 3]."""
        return self.readout(self.recurrent(xs).outputs)


def sequences(rng: np.random.Generator, config: Config) -> dict[str, np.ndarray]:
    """Return pulses [B, T, 3] and the sign of the latest pulse at each step, of the same shape."""
    shape = (config.batch_size, config.steps, BITS)
    pulses = rng.choice([-1.0, 1.0], size=shape) * (rng.random(shape) < config.pulses)
    pulses[:, 0] = rng.choice([-1.0, 1.0], size=shape[::2])  # each bit begins with a pulse
    latest = np.maximum.accumulate(
        np.where(pulses != 0, np.arange(config.steps)[:, None], 0), axis=1
    )
    bits = np.take_along_axis(pulses, latest, axis=1)
    return {"pulses": pulses.astype(np.float32), "bits": bits.astype(np.float32)}


def loss_fn(model: Any, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Return the mean squared error of the bits."""
    del rngs
    bits = model(batch["pulses"])
    right = (jnp.sign(bits) == batch["bits"]).mean()
    return losses.mean_squared_error(bits, batch["bits"]), {"right": right}


def train(config: Config) -> FlipFlop:
    """Train a network and return it."""

    def batches(epoch: int) -> Any:
        rng = np.random.default_rng([config.seed, epoch])
        return [sequences(rng, config) for _ in range(100)]

    schedule = optax.cosine_decay_schedule(config.learning_rate, 100 * config.epochs)
    optimizer = training.optimizer(schedule, clip_norm=1.0)
    model = FlipFlop(config.hidden_size, nnx.Rngs(config.seed))
    result = training.fit(
        model, loss_fn, optimizer, batches, epochs=config.epochs, seed=config.seed
    )
    return result.model


def analyse(model: FlipFlop, config: Config) -> tuple[traces.FixedPoints, np.ndarray]:
    """Return the fixed points without input, and visited states [B, T, H]."""
    rng = np.random.default_rng([config.seed, 1, 1])
    pulses = jnp.asarray(sequences(rng, config)["pulses"])
    (visited,) = model.recurrent(pulses, return_all_states=True).state
    # Mixtures of two visited states are between the stable points, where the saddles are.
    states = np.asarray(visited).reshape(-1, config.hidden_size)
    some, others = rng.choice(states, size=(2, config.starts))
    shares = rng.random([config.starts, 1])
    starts = shares * some + (1 - shares) * others
    found = traces.fixed_points(model.recurrent, (starts,), jnp.zeros(BITS))
    return found, np.asarray(visited)


def main(config: Config) -> traces.FixedPoints:
    """Train a network, print its fixed points and draw them."""
    model = train(config)
    found, visited = analyse(model, config)
    (points,) = found.points
    print(f"stable points: {found.stable.sum()}; the outputs of the network at them:")
    bits = np.asarray(model.readout(jnp.asarray(points[found.stable])))
    for row, speed in zip(bits, found.speeds[found.stable], strict=True):
        print("  " + " ".join(f"{bit:+.2f}" for bit in row) + f"   speed {speed:.0e}")
    directions = (np.abs(found.eigenvalues) > 1).sum(axis=1)
    for number, count in sorted(collections.Counter(directions[~found.stable].tolist()).items()):
        print(f"points with {number} unstable directions: {count}")
    print(f"{found.unconverged} of {config.starts} searches reached no fixed point")
    pulses = jnp.asarray(sequences(np.random.default_rng(config.seed), config)["pulses"])
    largest = traces.lyapunov_exponents(model.recurrent, pulses, discard=config.steps // 2)
    print(f"largest Lyapunov exponent with pulses: {float(largest.mean()):.2f} nats per step")
    config.out.mkdir(parents=True, exist_ok=True)
    figure = viz.fixed_points(points, found.stable, states=visited[:8])
    figure.savefig(config.out / "fixed_points.png", dpi=150)
    print(f"picture: {config.out / 'fixed_points.png'}")
    return found


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.flip_flop", description=__doc__))
