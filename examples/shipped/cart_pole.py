"""CartPole-v1 of gymnax, whose two velocities are hidden: a policy must remember positions.

The package gymnax has the physics. Install it with `pip install gymnax six`, because gymnax 1.0.1
needs six but does not declare it. The sensors are the position of the cart and the angle of the
pole. Each is divided by the bound at which an episode fails. The reward is 0.1 for each step, so
that returns are about as large as those of `t_maze`. After 500 steps an episode is truncated: it
does not fail, so the value of its last observation is part of its return.
"""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["ACTIONS", "LIMIT", "SENSORS", "begin", "look", "move"]

ACTIONS = 2  # push to the left, push to the right
SENSORS = 2  # the positions of cart and pole
LIMIT = 500  # number of steps after which an episode is truncated


def begin(key: jax.Array, size: int) -> Any:
    """Return the states of new episodes."""
    environment, parameters = _environment()
    keys = jax.random.split(key, size)
    return jax.vmap(environment.reset, (0, None))(keys, parameters)[1]


def look(state: Any) -> jax.Array:
    """Return the values of the sensors, float [B, 2]."""
    _, parameters = _environment()
    bounds = parameters.x_threshold, parameters.theta_threshold_radians
    return jnp.stack([state.x / bounds[0], state.theta / bounds[1]], axis=-1)


def move(state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, Any]:
    """Make one step; return the states and the outcome.

    If an episode ends, the returned state is that of a new episode. The outcome is (reward, done,
    score, truncated, last). The score is the number of steps of an episode that ends, otherwise 0.
    `last` [B, 2] contains the values of the sensors after the step, before a new episode begins.
    """
    environment, parameters = _environment()
    keys = jax.random.split(key, len(action))
    step = jax.vmap(environment.step, (0, 0, 0, None))
    _, after, _, terminated, truncated, info = step(keys, state, action, parameters)
    done = terminated | truncated
    bounds = jnp.array([parameters.x_threshold, parameters.theta_threshold_radians])
    last = info["final_observation"][..., ::2] / bounds
    score = jnp.where(done, state.time + 1, 0)
    reward = jnp.full(len(action), 0.1)
    return after, (reward, done, score, truncated & ~terminated, last)


def _environment() -> tuple[Any, Any]:
    try:
        import gymnax
    except ImportError:
        raise SystemExit(
            "--task: expected the package gymnax for cart_pole; run pip install gymnax six"
        ) from None
    return gymnax.make("CartPole-v1")
