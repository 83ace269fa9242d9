"""The T-maze of Bakker (2002), Reinforcement learning with long short-term memory, in pure JAX.

At the start of a corridor, a sign says left or right. The corridor looks the same everywhere. At
the end of the corridor, the agent must turn to the side that the sign named. The reward is 4 for
the correct side, -0.1 for the wrong side, and -0.1 for each step that runs into a wall. Many mazes
run in parallel. When a maze ends, a new one replaces it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["ACTIONS", "AHEAD", "LEFT", "RIGHT", "SENSORS", "Maze", "begin", "limit", "look", "move"]

LEFT, RIGHT, AHEAD = range(3)  # the actions; the sign says LEFT or RIGHT
ACTIONS = 3
SENSORS = 3  # the sensors: the sign says left, it says right, the corridor ends here


class Maze(NamedTuple):
    """The sign, the agent's position and the time of each maze; integers [B]."""

    sign: jax.Array
    place: jax.Array
    time: jax.Array


def limit(corridor: int) -> int:
    """Return the number of steps after which a maze ends."""
    return 4 * (corridor + 1)


def begin(key: jax.Array, size: int) -> Maze:
    """Return new mazes, with random signs."""
    zeros = jnp.zeros(size, jnp.int32)
    return Maze(jax.random.randint(key, (size,), LEFT, RIGHT + 1), zeros, zeros)


def look(maze: Maze, corridor: int) -> jax.Array:
    """Return the values of the sensors, float [B, 3]."""
    says = [(maze.place == 0) & (maze.sign == side) for side in (LEFT, RIGHT)]
    return jnp.stack([*says, maze.place == corridor], axis=-1).astype(jnp.float32)


def move(maze: Maze, action: jax.Array, key: jax.Array, corridor: int) -> tuple[Maze, Any]:
    """Make one step in each maze, and return the mazes and the outcome.

    A new maze replaces each maze that ends. The outcome is (reward, done, right).
    """
    end, ahead = maze.place == corridor, action == AHEAD
    turned, walked = end & ~ahead, ~end & ahead
    right = turned & (action == maze.sign)
    reward = jnp.where(right, 4.0, jnp.where(walked, 0.0, -0.1))
    after = Maze(maze.sign, maze.place + walked, maze.time + 1)
    done = turned | (after.time >= limit(corridor))
    fresh = begin(key, len(action))
    after = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, after)
    return after, (reward, done, right)
