"""The T-maze of Bakker (2002), Reinforcement learning with long short-term memory, in pure JAX.

At the start of a corridor a sign says left or right. The corridor looks the same everywhere, and at
its end the agent must turn to the side that the sign said: 4 points, or -0.1 on the wrong side, and
-0.1 for each step that runs into a wall. Many mazes run together; one that ends begins anew.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

__all__ = ["AHEAD", "LEFT", "RIGHT", "SENSORS", "Maze", "begin", "limit", "look", "move", "plot"]

LEFT, RIGHT, AHEAD = range(3)  # the actions; the sign says LEFT or RIGHT
SENSORS = 3  # the sign says left, it says right, the corridor ends here


class Maze(NamedTuple):
    """Where the agents are; integers [B]."""

    sign: jax.Array
    place: jax.Array
    time: jax.Array


def limit(corridor: int) -> int:
    """After how many steps a maze ends by itself: wandering takes three for one ahead."""
    return 4 * (corridor + 1)


def begin(key: jax.Array, size: int) -> Maze:
    """New mazes, with signs drawn at random."""
    zeros = jnp.zeros(size, jnp.int32)
    return Maze(jax.random.randint(key, (size,), LEFT, RIGHT + 1), zeros, zeros)


def look(maze: Maze, corridor: int) -> jax.Array:
    """What the sensors say, float [B, 3]."""
    says = [(maze.place == 0) & (maze.sign == side) for side in (LEFT, RIGHT)]
    return jnp.stack([*says, maze.place == corridor], axis=-1).astype(jnp.float32)


def move(maze: Maze, action: jax.Array, key: jax.Array, corridor: int) -> tuple[Maze, Any]:
    """One step: the mazes after it (new ones where they have ended), and (reward, done, right)."""
    end, ahead = maze.place == corridor, action == AHEAD
    turned, walked = end & ~ahead, ~end & ahead
    right = turned & (action == maze.sign)
    reward = jnp.where(right, 4.0, jnp.where(walked, 0.0, -0.1))
    after = Maze(maze.sign, maze.place + walked, maze.time + 1)
    done = turned | (after.time >= limit(corridor))
    fresh = begin(key, len(action))
    after = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, after)
    return after, (reward, done, right)


def plot(histories: dict[str, list[dict[str, float]]], steps: int, corridor: int) -> Figure:
    """The success of several policies over what they have acted, so many steps an epoch."""
    axes = (figure := Figure(figsize=(6, 3.6), layout="constrained")).add_subplot()
    for (name, history), style in zip(histories.items(), ("-", "--"), strict=True):
        x = [record["epoch"] * steps for record in history]
        axes.plot(x, [record["success"] for record in history], style, label=name)
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":", label="chance")
    axes.set(xlabel="steps in all mazes", ylabel="success in training", ylim=(0, 1.02))
    axes.set_title(f"T-maze, corridor of {corridor} steps")
    axes.legend(frameon=False)
    return figure
