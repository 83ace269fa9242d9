"""Vanishing and exploding gradients: the norm of ∂loss/∂h_t over t.

To measure gradients in a model of your own, copy `measure`, or call `traces.gradient_norms`.

The gradient of a loss on the last of T steps goes back through time. At each step it is multiplied
by the Jacobian ∂h_t/∂h_{t-1}. If the Jacobian shrinks vectors, the gradient vanishes and early
inputs teach nothing. If the Jacobian stretches vectors, the gradient explodes. The memory of an
LSTM passes the gradient on as long as its forget gate is open. With a forget bias of 1 the gradient
goes back over tens of steps, with a bias of 4 over hundreds.

Clipping by global norm limits an exploding gradient of the parameters and keeps its direction.
Clipping cannot restore a vanished gradient.

References: Bengio, Simard, Frasconi (1994), Learning long-term dependencies with gradient descent
is difficult; Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural
networks.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import seqjax
from seqjax import cells, traces, viz
from seqjax.cells.initializers import Orthogonal


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the gradient example."""

    steps: int = 100
    """T, the number of time steps; the loss is on the last."""
    hidden_size: int = 64
    """Number of units of each cell."""
    input_size: int = 16
    """Number of features of the random inputs."""
    batch_size: int = 32
    """Number of sequences over which the norms are averaged."""
    gain: float = 1.1
    """Scale of the recurrent matrix of the cell with the exploding gradient."""
    clip_norm: float = 1.0
    """Bound on the global norm of the parameters' gradient."""
    seed: int = 0
    """Seed of weights and inputs."""
    out: Path = Path("out/vanishing_gradient")
    """Folder for gradient_flow.png and gradient_flow_clipped.png."""


def make_cells(config: Config) -> dict[str, cells.Cell[Any, Any]]:
    """Return the cells to compare, by their names in the plot."""
    sizes = config.input_size, config.hidden_size
    return {
        "Elman, tanh": cells.Elman(*sizes),
        f"Elman, linear, matrix × {config.gain:g}": cells.Elman(
            *sizes, activation="identity", recurrent_init=Orthogonal(config.gain)
        ),
        "LSTM": cells.LSTM(*sizes),
        "LSTM, forget bias 1": cells.LSTM(*sizes, forget_bias=1.0),
        "LSTM, forget bias 4": cells.LSTM(*sizes, forget_bias=4.0),
        "GRU": cells.GRU(*sizes),
    }


def measure(cell: cells.Cell[Any, Any], config: Config) -> tuple[np.ndarray, Any]:
    """Return the mean norm of ∂loss/∂h_t [T] (for an LSTM, ∂loss/∂(h_t, c_t)) and ∂loss/∂params."""
    k_params, k_xs = jax.random.split(jax.random.key(config.seed))
    params = cell.init(k_params)
    xs = jax.random.normal(k_xs, (config.steps, config.batch_size, config.input_size))

    def loss(outputs: jax.Array) -> jax.Array:
        return 0.5 * jnp.square(outputs[-1]).sum()

    @jax.jit
    def gradients(params: Any) -> tuple[jax.Array, Any]:
        norms = traces.cell_gradient_norms(loss, cell, params, xs, time_major=True)
        run = lambda params: seqjax.unroll(cell, params, xs, time_major=True)  # noqa: E731
        return norms.mean(axis=1), jax.grad(lambda params: loss(run(params).outputs))(params)

    norms, d_params = gradients(params)
    return np.asarray(norms), d_params


def main(config: Config) -> dict[str, np.ndarray]:
    """Measure, print and plot; return the norms over time of each cell."""
    if config.steps < 1:
        raise SystemExit(f"--steps: expected at least 1, got {config.steps}")
    clip = optax.clip_by_global_norm(config.clip_norm)
    norms, clipped_norms = {}, {}
    first, last = "∂loss/∂h_1", f"∂loss/∂h_{config.steps}"
    print(f"{'cell':<40}{first:>14}{last:>14}{'parameters':>14}{'clipped':>10}")
    for name, cell in make_cells(config).items():
        norms[name], d_params = measure(cell, config)
        clipped, _ = clip.update(d_params, clip.init(d_params))
        before, after = optax.tree.norm(d_params), optax.tree.norm(clipped)
        # Clipping scales the whole gradient, as a factor on the loss would.
        clipped_norms[name] = norms[name] * float(after / before)
        row = (norms[name][0], norms[name][-1], before)
        print(f"{name:<40}" + "".join(f"{value:14.3e}" for value in row) + f"{after:10.3f}")
    print(
        "\nNorms of gradients. The last two columns are those of all parameters, before and after\n"
        f"clipping by global norm to {config.clip_norm:g}. Clipping bounds an exploding gradient,\n"
        "but cannot restore a vanished one."
    )
    config.out.mkdir(parents=True, exist_ok=True)
    plots = {
        "gradient_flow": (norms, "The loss is on the last step"),
        "gradient_flow_clipped": (
            clipped_norms,
            f"Scaled as clipping the parameters' gradient to norm {config.clip_norm:g} does",
        ),
    }
    for name, (flow, title) in plots.items():
        figure = viz.gradient_flow(flow)
        figure.set_size_inches(8, 4.5)
        figure.axes[0].set_title(title)
        figure.axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        figure.savefig(config.out / f"{name}.png", dpi=150)
    print(f"plots in {config.out}")
    return norms


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.vanishing_gradient", description=__doc__))
