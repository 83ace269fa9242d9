"""A policy that must remember: reinforcement learning in a T-maze (Bakker 2002), in pure JAX.

At the start of a corridor a sign says left or right. The corridor looks the same everywhere, and at
its end the agent must turn to the side that the sign said: 4 points, or -0.1 on the wrong side, and
-0.1 for each step that runs into a wall. Without a memory, no policy is right more than half the
time.

The actor-critic is a GRU with two linear layers, trained by PPO (Schulman et al. 2017) with
generalised advantage estimation (Schulman et al. 2016). Mazes and policy run together in one
compiled loop; a maze that ends begins anew at once. The update unrolls the GRU over what was
played, `resets` marking where mazes begin, and its state is carried from one roll-out to the next.
A feed-forward policy with about as many weights does the same for comparison.

    python -m examples.policy
    python -m examples.policy --corridor 70 --rollout 256 --learning-rate 1e-3 --epochs 40
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import t_maze
from seqjax import nn, training

MAZES = 1024  # that a trained policy is measured in
CLIP, SMOOTHING, ENTROPY = 0.2, 0.95, 0.01  # ε of PPO, λ of GAE, the weight of the entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Trains a recurrent and a feed-forward policy; prints how often they turn the right way."""

    corridor: int = 20
    """Steps from the sign to the end."""
    hidden_size: int = 32
    """Units of the GRU."""
    rollout: int = 64
    """Steps in each maze before an update; the gradient sees no further back."""
    passes: int = 4
    """Updates from each roll-out."""
    discount: float = 0.98
    """What a point is worth one step later."""
    epochs: int = 20
    """How often to stop, print and write a checkpoint."""
    updates: int = 20
    """Roll-outs in an epoch."""
    batch_size: int = 64
    """Mazes at the same time."""
    learning_rate: float = 3e-3
    out: Path = Path("out/policy")
    """Folder for checkpoints, plots and figures."""


class Loop(NamedTuple):
    """What is carried from step to step beside the weights."""

    maze: t_maze.Maze
    fresh: jax.Array
    """bool [B]: whether the maze has just begun."""
    state: Any
    """The GRU's; nothing for a feed-forward policy."""


class Step(NamedTuple):
    """What one step of all mazes leaves, [B, ...]; stacked over time [T, B, ...]."""

    seen: jax.Array
    fresh: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array
    right: jax.Array


class Policy(nnx.Module):
    """Actor and critic over a GRU, or over two layers without a memory."""

    def __init__(self, config: Config, *, memory: bool, rngs: nnx.Rngs) -> None:
        width, self.memory = config.hidden_size, memory
        self.body: Any
        if memory:
            span = max(2.0, float(config.corridor))  # gates that keep start open that long
            self.body = nn.GRU(t_maze.SENSORS, width, time_major=True, chrono=span, rngs=rngs)
        else:
            width = round(width * 3**0.5)  # a GRU has three recurrent matrices
            first, second = (nnx.Linear(n, width, rngs=rngs) for n in (t_maze.SENSORS, width))
            self.body = nnx.Sequential(first, jnp.tanh, second, jnp.tanh)
        self.actor = nnx.Linear(width, 3, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.critic = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, seen: Any, state: Any, fresh: Any) -> tuple[jax.Array, jax.Array, Any]:
        """Logits [T, B, 3], values [T, B] and the state after sensors [T, B, 3]."""
        if self.memory:
            features, state = self.body(seen, initial_state=state, resets=fresh)
        else:
            features = self.body(seen)
        return self.actor(features), self.critic(features).squeeze(-1), state


def loop_of(policy: Policy, key: jax.Array, size: int) -> Loop:
    """Where everything begins."""
    state = policy.body.initial_state((size,)) if policy.memory else ()
    return Loop(t_maze.begin(key, size), jnp.ones(size, bool), state)


def play(
    config: Config, policy: Policy, loop: Loop, key: jax.Array, steps: int
) -> tuple[Loop, Step]:
    """Lets the policy act for some steps in all mazes; what it saw and did is [T, B, ...]."""

    def one(loop: Loop, key: jax.Array) -> tuple[Loop, Step]:
        key_action, key_maze = jax.random.split(key)
        seen = t_maze.look(loop.maze, config.corridor)
        logits, value, state = policy(seen[None], loop.state, loop.fresh[None])
        action = jax.random.categorical(key_action, logits[0])
        maze, judged = t_maze.move(loop.maze, action, key_maze, config.corridor)
        log_prob = log_probability(logits[0], action)
        step = Step(seen, loop.fresh, action, log_prob, value[0], *judged)
        return Loop(maze, step.done, state), step

    return jax.lax.scan(one, loop, jax.random.split(key, steps))


def log_probability(logits: jax.Array, action: jax.Array) -> jax.Array:
    """The logarithm of the probability of the actions taken, [...] from [..., 3]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1).squeeze(-1)


def advantages(config: Config, steps: Step, last: jax.Array) -> jax.Array:
    """Generalised advantage estimates [T, B]; `last` [B] is the value after the last step."""

    def back(carry: Any, step: Step) -> tuple[Any, jax.Array]:
        following, value = carry
        kept = config.discount * ~step.done
        advantage = step.reward + kept * (value + SMOOTHING * following) - step.value
        return (advantage, step.value), advantage

    return jax.lax.scan(back, (jnp.zeros_like(last), last), steps, reverse=True)[1]


def loss_fn(policy: Policy, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """PPO's clipped objective, the critic's squared error, and a bonus for entropy."""
    del rngs
    steps, advantage = batch["steps"], batch["advantage"]
    logits, value, _ = policy(steps.seen, batch["state"], steps.fresh)
    ratio = jnp.exp(log_probability(logits, steps.action) - steps.log_prob)
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
    actor = jnp.minimum(ratio * scaled, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * scaled).mean()
    critic = jnp.square(value - (steps.value + advantage)).mean()
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(axis=-1).mean()
    return 0.5 * critic - actor - ENTROPY * entropy, {"entropy": entropy}


def train(config: Config, name: str) -> training.FitResult:
    """Trains one policy, or goes on from its latest checkpoint."""
    policy = Policy(config, memory=name == "recurrent", rngs=nnx.Rngs(config.seed))
    schedule = config.schedule(config.updates * config.passes)
    optimizer = training.optimizer(schedule, clip_norm=config.clip_norm)
    train_step = training.make_train_step(policy, loss_fn, optimizer)

    def update(carry: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        state, loop = carry
        key_play, key_step = jax.random.split(key)
        acting = training.state_to_model(policy, state)
        after, steps = play(config, acting, loop, key_play, config.rollout)
        seen = t_maze.look(after.maze, config.corridor)
        last = acting(seen[None], after.state, after.fresh[None])[1][0]
        batch = {
            "steps": steps, "state": loop.state, "advantage": advantages(config, steps, last)
        }  # fmt: skip
        state, metrics = jax.lax.scan(
            lambda state, _: train_step(state, batch, key_step), state, length=config.passes
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        return (state, after), metrics | {"ended": steps.done.sum(), "right": steps.right.sum()}

    @jax.jit
    def epoch_of(carry: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        carry, metrics = jax.lax.scan(update, carry, jax.random.split(key, config.updates))
        return carry, jax.tree.map(jnp.sum, metrics)

    key_begin, key_train, _ = jax.random.split(jax.random.key(config.seed), 3)
    loop = loop_of(policy, key_begin, config.batch_size)
    carry: Any = training.init_state(policy, optimizer), loop
    history: list[dict[str, float]] = []
    with training.Checkpoints(config.out / "checkpoints" / name) as checkpoints:
        found = checkpoints.restore(carry) if config.resume else None
        if found is not None:
            if found.record["seed"] != config.seed:
                raise SystemExit(f"--seed: expected {found.record['seed']} as in {config.out}")
            carry, history = jax.tree.map(jnp.asarray, found.arrays), found.record["history"]
        for epoch in range(len(history), config.epochs):
            began = time.perf_counter()
            carry, sums = epoch_of(carry, jax.random.fold_in(key_train, epoch))
            record = {key: float(sums[key]) / config.updates for key in ("loss", "entropy")}
            record["success"] = float(sums["right"]) / max(1.0, float(sums["ended"]))
            seconds = time.perf_counter() - began
            history.append({"epoch": epoch + 1, **record, "seconds": seconds})
            checkpoints.save(epoch + 1, carry, {"seed": config.seed, "history": history})
            shown = "  ".join(f"{key} {value:.4g}" for key, value in history[-1].items())
            print(f"{name}  {shown}", flush=True)
    model = training.state_to_model(policy, carry[0])
    return training.FitResult(model, carry[0], history, history[-1])


def success(config: Config, policy: Policy) -> float:
    """The share of new mazes in which the policy turns to the right side."""
    *_, key_test = jax.random.split(jax.random.key(config.seed), 3)
    key_begin, key_play = jax.random.split(key_test)
    loop = loop_of(policy, key_begin, MAZES)
    _, steps = play(config, policy, loop, key_play, t_maze.limit(config.corridor))
    done, right = np.asarray(steps.done), np.asarray(steps.right)
    return float(right[done.argmax(axis=0), np.arange(MAZES)].mean())  # where each ends first


def main(config: Config) -> dict[str, float]:
    """Trains and measures both policies; returns their success rates beside chance."""
    if config.devices != 1:
        raise SystemExit(f"--devices: expected 1, got {config.devices}")
    if not 0 < config.discount < 1:
        raise SystemExit(f"--discount: expected a number between 0 and 1, got {config.discount}")
    config.prepare()
    results = {name: train(config, name) for name in ("recurrent", "feed-forward")}
    histories = {name: result.history for name, result in results.items()}
    steps = config.updates * config.rollout * config.batch_size
    figure = t_maze.plot(histories, steps, config.corridor)
    figure.savefig(config.out / "success.png", dpi=150)
    rates = {name.replace("-", "_"): success(config, r.model) for name, r in results.items()}
    print(f"\n{script.count_parameters(results['feed-forward'].model):,} parameters feed-forward")
    return config.report(results["recurrent"], **rates, chance=0.5)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.policy", description=__doc__))
