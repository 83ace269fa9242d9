"""The vanishing and the exploding gradient, measured: the norm of ∂loss/∂h_t over t.

A loss on the last of T steps sends its gradient back through time. At each step it is multiplied
by the Jacobian ∂h_t/∂h_{t-1}: where that shrinks, the gradient vanishes and early inputs teach
nothing; where it stretches, the gradient explodes. An LSTM's memory passes it on as far as its
forget gate is open: a forget bias of 1 holds for tens of steps, one of 4 for hundreds.

Clipping by global norm mends the exploding gradient of the parameters (it keeps its direction and
bounds its length). It cannot bring back a vanished one.

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
    """Prints gradient norms and draws them over time."""

    steps: int = 100
    """T, the number of time steps; the loss is on the last."""
    hidden_size: int = 64
    """Units of each cell."""
    input_size: int = 16
    """Features of the random inputs."""
    batch_size: int = 32
    """Sequences the norms are averaged over."""
    gain: float = 1.1
    """Scale of the recurrent matrix of the cell that is made to explode."""
    clip_norm: float = 1.0
    """Bound of the global norm of the parameters' gradient."""
    seed: int = 0
    """Fixes weights and inputs."""
    out: Path = Path("out/vanishing_gradient")
    """Folder for gradient_flow.png and gradient_flow_clipped.png."""


def make_cells(config: Config) -> dict[str, cells.Cell[Any, Any]]:
    """The cells to compare, by what to call them in the plot."""
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
    """The mean norm of ∂loss/∂h_t [T] (of the whole state for an LSTM), and ∂loss/∂params."""
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
    """Measures, prints and draws; returns the norms over time of each cell."""
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
        # Clipping scales the whole gradient, as if the loss had been smaller.
        clipped_norms[name] = norms[name] * float(after / before)
        row = (norms[name][0], norms[name][-1], before)
        print(f"{name:<40}" + "".join(f"{value:14.3e}" for value in row) + f"{after:10.3f}")
    print(
        "\nNorms of gradients. The last two columns are those of all parameters, before and after\n"
        f"clipping by global norm to {config.clip_norm:g}: it bounds what explodes, and brings\n"
        "back nothing that has vanished."
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
