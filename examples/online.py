"""Learning from an endless stream, with one update of the parameters at each step.

For a stream of your own, replace `draw` and `loss_fn`.

The stream shows a sequence of random numbers, 1 or -1. Now and then a flag says that the number of
this step must be remembered, and another flag asks for it some steps later. The loss is only on the
steps that ask. So a network learns nothing from the step that matters, unless the gradient reaches
back to it. Backpropagation through time would need the steps since then, whose number is not
known in advance. Online gradients need no earlier steps.

The script trains the same network twice on the same stream: with online gradients (real-time
recurrent learning), and with backpropagation through one step, which is truncated backpropagation
with a window of 1. It prints the mean squared error of both. A network that always answers 0 has
the error 1.

References: Williams, Zipser (1989), A learning algorithm for continually running fully recurrent
neural networks; Menick et al. (2021), A practical sparse approximation for real time recurrent
learning.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

from seqjax import cells, online


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the example of an endless stream."""

    cell: str = "min_gru"
    """Name of the cell. Cells that are not diagonal, such as gru, learn with SnAp-1."""
    steps: int = 20_000
    """Number of steps to print. The stream itself has no end."""
    every: int = 2_000
    """Number of steps for each line, over which the errors are averaged."""
    delay: int = 10
    """Mean number of steps from the number to the question."""
    streams: int = 8
    """Number of streams that are read at the same time."""
    hidden_size: int = 16
    """Number of units of the cell."""
    learning_rate: float = 3e-3
    """Learning rate of Adam."""
    seed: int = 0
    """Seed of the parameters and of the stream."""


def draw(stored: jax.Array, key: jax.Array, delay: int) -> tuple[jax.Array, ...]:
    """Draw the next step of the streams.

    Args:
      stored: the numbers to remember, `[streams]`, or 0 where none is stored.
      key: a random key.
      delay: the mean number of steps from a number to its question.

    Returns:
      `stored` after the step, the input `[streams, 3]`, the target `[streams]`, and bool
      `[streams]`, True where the stream asks for the target.
    """
    k_number, k_ask = jax.random.split(key)
    number = jax.random.rademacher(k_number, stored.shape, jnp.float32)
    store = stored == 0
    ask = ~store & jax.random.bernoulli(k_ask, 1 / delay, store.shape)
    x = jnp.stack([number, store.astype(jnp.float32), ask.astype(jnp.float32)], axis=-1)
    return jnp.where(store, number, jnp.where(ask, 0, stored)), x, stored, ask


def learn(
    cell: cells.Cell[Any, Any], step: Callable[..., Any], state: Any, config: Config
) -> Iterator[float]:
    """Learn from the stream without end; yield the mean error of every `config.every` steps.

    Args:
      cell: the cell.
      step: a function `(params, x, state) -> (output, state)`.
      state: the state before the first step.
      config: the options.
    """
    optimizer = optax.adam(config.learning_rate)
    head = {"w": jnp.zeros(cell.output_shape), "b": jnp.zeros(())}
    params = cell.init(jax.random.key(config.seed)), head

    def loss_fn(params: Any, state: Any, x: jax.Array, target: jax.Array, ask: jax.Array) -> Any:
        output, state = step(params[0], x, state)
        answer = output @ params[1]["w"] + params[1]["b"]
        return jnp.sum(jnp.square(answer - target), where=ask), state

    def one_update(carry: Any, key: jax.Array) -> Any:
        params, opt_state, state, stored = carry
        stored, x, target, ask = draw(stored, key, config.delay)
        (loss, state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            params, state, x, target, ask
        )
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, state, stored), (loss, ask.sum())

    @jax.jit
    def updates(carry: Any, key: jax.Array) -> Any:
        carry, (losses, asked) = jax.lax.scan(
            one_update, carry, jax.random.split(key, config.every)
        )
        return carry, losses.sum() / jnp.maximum(asked.sum(), 1)

    carry = params, optimizer.init(params), state, jnp.zeros(config.streams)
    for n in itertools.count():
        carry, error = updates(carry, jax.random.fold_in(jax.random.key(config.seed + 1), n))
        yield float(error)


def main(config: Config) -> list[tuple[float, float]]:
    """Print the errors of both networks; return them."""
    for name in ("steps", "every", "delay", "streams"):
        if getattr(config, name) < 1:
            raise SystemExit(f"--{name}: expected at least 1, got {getattr(config, name)}")
    cell = cells.make_cell(config.cell, 3, config.hidden_size)
    method = "exact" if cell.diagonal else "snap1"
    learners = (
        learn(
            cell,
            partial(online.step, cell),
            online.initial_state(cell, config.streams, method=method),
            config,
        ),
        # In `cell.step`, the state is a constant, so the gradient goes back one step.
        learn(cell, cell.step, cell.initial_state((config.streams,)), config),
    )
    print("Mean squared error of the answers")
    print(f"{'steps':>8}  {'online':>8}  {'one step':>8}")
    history = []
    for steps in range(config.every, config.steps + 1, config.every):
        history.append((next(learners[0]), next(learners[1])))
        print(f"{steps:8d}  {history[-1][0]:8.4f}  {history[-1][1]:8.4f}")
    return history


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.online", description=__doc__))
