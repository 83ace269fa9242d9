"""Reinforcement learning of a recurrent policy, in two tasks that need a memory, in pure JAX.

To train a recurrent policy in an environment of your own, copy `Policy`, `play`, `advantages`,
`loss_fn` and `train`, and write a `Task` with functions of the same form.

`t_maze` (Bakker 2002): at the start of a corridor a sign says left or right. The corridor looks the
same everywhere. At the end of the corridor, the agent must turn to the side that was on the sign.
The reward is 4 for the correct side, -0.1 for the wrong side, and -0.1 for each step that runs into
a wall. A policy without a memory is right at most half the time.

`cart_pole`: CartPole-v1 of gymnax, but the policy does not see the two velocities.

The actor-critic is a GRU with two linear layers, trained by PPO (Schulman et al. 2017) with
generalised advantage estimation (Schulman et al. 2016). Environments and policy run in one compiled
loop. When an episode ends, a new one starts at once. The update unrolls the GRU over the roll-out;
`resets` marks the first step of each episode, which is the step after `done`. The state of the GRU
is carried from one roll-out to the next. A feed-forward policy with about as many weights is
trained in the same way for comparison.

    python -m examples.policy
    python -m examples.policy --corridor 70 --rollout 256 --epochs 40
    python -m examples.policy --task cart_pole
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import curves, script
from examples.shipped import cart_pole, t_maze
from seqjax import nn, training

EPISODES = 1024  # number of episodes for the measurement
CLIP, SMOOTHING, ENTROPY = 0.2, 0.95, 0.01  # ε of PPO, λ of GAE, the weight of the entropy
CART_POLE: dict[str, Any] = {
    "rollout": 128, "discount": 0.99, "epochs": 20, "out": Path("out/cart_pole"),
}  # fmt: skip
"""The defaults of the options for the task cart_pole."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the policy example."""

    task: Literal["t_maze", "cart_pole"] = "t_maze"
    """The task; cart_pole needs the package gymnax."""
    corridor: int = 20
    """Number of steps from the sign of the T-maze to its end."""
    hidden_size: int = 32
    """Number of units of the GRU."""
    rollout: int = 64
    """Number of steps of a roll-out in each environment; the gradient goes back at most this
    far."""
    passes: int = 4
    """Number of updates from each roll-out."""
    discount: float = 0.98
    """Discount factor of the reward for each step."""
    epochs: int = 20
    """Number of epochs; each ends with a line of output and a checkpoint."""
    updates: int = 20
    """Number of roll-outs in an epoch."""
    batch_size: int = 64
    """Number of environments that run at the same time."""
    learning_rate: float = 1e-3
    out: Path = Path("out/policy")
    """Folder for checkpoints, plots and results."""


class Outcome(NamedTuple):
    """The results of one step of all environments, [B]."""

    reward: jax.Array
    done: jax.Array
    score: jax.Array
    """The score of an episode that ends with this step; otherwise 0."""
    truncated: Any = None
    """bool [B]: True if a time limit ended the episode; None if the task has no such limit."""
    last: Any = None
    """float [B, sensors]: the observation after this step, before a new episode begins. It is used
    where the episode was truncated."""


class Task(NamedTuple):
    """A task, given by functions of the states of many environments.

    When an episode ends, its environment starts a new episode in the same step.
    """

    title: str
    sensors: int
    actions: int
    limit: int
    """The largest number of steps in an episode."""
    score: str
    """The name of an episode's score."""
    top: float
    """The best score."""
    levels: dict[str, float]
    """Scores of trivial policies, by name."""
    span: float | None
    """The number of steps that the GRU must remember, which sets the initial biases of the gates.
    If it is None, the biases have their default values."""
    own_critic: bool
    """True if the critic needs a body of its own; see `Policy`."""
    begin: Callable[[jax.Array, int], Any]
    """`begin(key, B)` returns the states of new environments."""
    look: Callable[[Any], jax.Array]
    """`look(states)` returns the values of the sensors, float [B, sensors]."""
    move: Callable[[Any, jax.Array, jax.Array], tuple[Any, tuple[Any, ...]]]
    """`move(states, actions, key)` returns the next states and the fields of `Outcome`."""


def task_of(config: Config) -> Task:
    """Return the task with its options."""
    if config.task == "cart_pole":
        return Task(
            title="CartPole-v1, velocities hidden", sensors=cart_pole.SENSORS,
            actions=cart_pole.ACTIONS, limit=cart_pole.LIMIT, score="steps", top=cart_pole.LIMIT,
            levels={}, span=None, own_critic=True,
            begin=cart_pole.begin, look=cart_pole.look, move=cart_pole.move,
        )  # fmt: skip
    n = config.corridor
    return Task(
        title=f"T-maze, corridor of {n} steps", sensors=t_maze.SENSORS,
        actions=t_maze.ACTIONS, limit=t_maze.limit(n), score="success", top=1.0,
        levels={"chance": 0.5}, span=max(2.0, float(n)), own_critic=False, begin=t_maze.begin,
        look=functools.partial(t_maze.look, corridor=n),
        move=functools.partial(t_maze.move, corridor=n),
    )  # fmt: skip


class Loop(NamedTuple):
    """The values, other than the weights, that are carried from step to step."""

    episode: Any
    """The states of the environments."""
    fresh: jax.Array
    """bool [B]: True if the episode has just started."""
    state: Any
    """The states of the bodies of actor and critic; each is () without a memory."""


class Step(NamedTuple):
    """The record of one step of all environments, [B, ...]; stacked over time [T, B, ...]."""

    seen: jax.Array
    fresh: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array
    score: jax.Array


class Body(nnx.Module):
    """A GRU, or two feed-forward layers."""

    def __init__(self, config: Config, *, memory: bool, rngs: nnx.Rngs) -> None:
        task, width, self.memory = task_of(config), config.hidden_size, memory
        self.layers: Any
        if memory:
            self.layers = nn.GRU(
                task.sensors, width,
                time_major=True, chrono=task.span, dtype=config.dtype, rngs=rngs,
            )  # fmt: skip
        else:
            width = round(width * 3**0.5)  # a GRU has three recurrent matrices
            first, second = (nnx.Linear(n, width, rngs=rngs) for n in (task.sensors, width))
            self.layers = nnx.Sequential(first, jnp.tanh, second, jnp.tanh)
        self.width = width

    def initial_state(self, size: int) -> Any:
        """Return the state at the start of an episode; () without a memory."""
        return self.layers.initial_state((size,)) if self.memory else ()

    def __call__(self, seen: Any, state: Any, fresh: Any) -> tuple[jax.Array, Any]:
        """Return the features [T, B, width] and the state after sensors [T, B, sensors]."""
        if self.memory:
            features, state = self.layers(seen, initial_state=state, resets=fresh)
            return features, state
        return self.layers(seen), state


class Policy(nnx.Module):
    """An actor and a critic. The gradient of the critic does not reach the body of the actor.

    If a return depends on chance, the critic has large errors. If actor and critic shared a body,
    the gradient of these errors would change the features that the actor needs for its memory.
    Therefore the critic reads the features of the actor without passing a gradient back. If these
    features are not enough to predict the return, the critic has a body of its own.
    """

    def __init__(self, config: Config, *, memory: bool, rngs: nnx.Rngs) -> None:
        task = task_of(config)
        self.body = Body(config, memory=memory, rngs=rngs)
        width, zeros = self.body.width, nnx.initializers.zeros
        self.actor = nnx.Linear(width, task.actions, kernel_init=zeros, rngs=rngs)
        self.critic = nnx.Linear(width, 1, rngs=rngs)
        own = Body(config, memory=memory, rngs=rngs) if task.own_critic else None
        self.critic_body = nnx.data(own)

    def initial_state(self, size: int) -> Any:
        """Return the states of the bodies at the start of an episode."""
        bodies = (self.body, self.critic_body)
        return tuple(body.initial_state(size) if body is not None else () for body in bodies)

    def __call__(self, seen: Any, state: Any, fresh: Any) -> tuple[jax.Array, jax.Array, Any]:
        """Return logits [T, B, actions], values [T, B] and the state after [T, B, sensors]."""
        features, actor_state = self.body(seen, state[0], fresh)
        if self.critic_body is None:
            read, critic_state = jax.lax.stop_gradient(features), ()
        else:
            read, critic_state = self.critic_body(seen, state[1], fresh)
        value = self.critic(read).squeeze(-1)
        return self.actor(features), value, (actor_state, critic_state)


def loop_of(task: Task, policy: Policy, key: jax.Array, size: int) -> Loop:
    """Return new episodes and the policy's initial state, for the first step of a run."""
    return Loop(task.begin(key, size), jnp.ones(size, bool), policy.initial_state(size))


def play(
    config: Config, policy: Policy, loop: Loop, key: jax.Array, steps: int
) -> tuple[Loop, Step]:
    """Let the policy act in all environments.

    Return the `Loop` after the last step, and the records of the steps, [T, B, ...].
    """
    task = task_of(config)

    def one(loop: Loop, key: jax.Array) -> tuple[Loop, Step]:
        key_action, key_move = jax.random.split(key)
        seen = task.look(loop.episode)
        logits, value, state = policy(seen[None], loop.state, loop.fresh[None])
        action = jax.random.categorical(key_action, logits[0])
        episode, fields = task.move(loop.episode, action, key_move)
        outcome = Outcome(*fields)
        reward = outcome.reward
        if outcome.truncated is not None:
            # A truncated episode would have gone on, with the value of what is seen next.
            carried = jnp.zeros_like(loop.fresh[None])
            _, following, _ = policy(outcome.last[None], state, carried)
            reward += config.discount * jnp.where(outcome.truncated, following[0], 0.0)
        log_prob = log_probability(logits[0], action)
        step = Step(
            seen, loop.fresh, action, log_prob, value[0], reward, outcome.done, outcome.score
        )
        return Loop(episode, outcome.done, state), step

    return jax.lax.scan(one, loop, jax.random.split(key, steps))


def log_probability(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Return the log-probabilities of actions, [...] from logits [..., actions]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1).squeeze(-1)


def advantages(config: Config, steps: Step, last: jax.Array) -> jax.Array:
    """Return generalised advantage estimates [T, B].

    `last` [B] is the critic's value for the observation after the last step.
    """

    def back(carry: Any, step: Step) -> tuple[Any, jax.Array]:
        following, value = carry
        kept = config.discount * ~step.done
        advantage = step.reward + kept * (value + SMOOTHING * following) - step.value
        return (advantage, step.value), advantage

    return jax.lax.scan(back, (jnp.zeros_like(last), last), steps, reverse=True)[1]


def loss_fn(policy: Policy, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return PPO's clipped objective, plus the critic's squared error, minus an entropy bonus."""
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
    """Train one policy; with --resume, continue from its latest checkpoint."""
    task = task_of(config)
    policy = Policy(config, memory=name == "recurrent", rngs=nnx.Rngs(config.seed))
    schedule = config.schedule(config.updates * config.passes)
    optimizer = training.optimizer(schedule, clip_norm=config.clip_norm)
    train_step = training.make_train_step(policy, loss_fn, optimizer)

    def update(carry: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        state, loop = carry
        key_play, key_step = jax.random.split(key)
        acting = training.state_to_model(policy, state)
        after, steps = play(config, acting, loop, key_play, config.rollout)
        seen = task.look(after.episode)
        last = acting(seen[None], after.state, after.fresh[None])[1][0]
        batch = {
            "steps": steps, "state": loop.state, "advantage": advantages(config, steps, last)
        }  # fmt: skip
        state, metrics = jax.lax.scan(
            lambda state, _: train_step(state, batch, key_step), state, length=config.passes
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        return (state, after), metrics | {"ended": steps.done.sum(), "score": steps.score.sum()}

    @jax.jit
    def epoch_of(carry: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        carry, metrics = jax.lax.scan(update, carry, jax.random.split(key, config.updates))
        return carry, jax.tree.map(jnp.sum, metrics)

    key_begin, key_train, _ = jax.random.split(jax.random.key(config.seed), 3)
    loop = loop_of(task, policy, key_begin, config.batch_size)
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
            record[task.score] = float(sums["score"]) / max(1.0, float(sums["ended"]))
            seconds = time.perf_counter() - began
            history.append({"epoch": epoch + 1, **record, "seconds": seconds})
            checkpoints.save(epoch + 1, carry, {"seed": config.seed, "history": history})
            shown = "  ".join(f"{key} {value:.4g}" for key, value in history[-1].items())
            print(f"{name}  {shown}", flush=True)
    model = training.state_to_model(policy, carry[0])
    return training.FitResult(model, carry[0], history, history[-1])


def measure(config: Config, policy: Policy) -> float:
    """Return the mean score of new episodes. The policy draws random actions, as in training."""
    *_, key_test = jax.random.split(jax.random.key(config.seed), 3)
    key_begin, key_play = jax.random.split(key_test)
    task = task_of(config)
    loop = loop_of(task, policy, key_begin, EPISODES)
    _, steps = play(config, policy, loop, key_play, task.limit)
    done, score = np.asarray(steps.done), np.asarray(steps.score)
    return float(score[done.argmax(axis=0), np.arange(EPISODES)].mean())  # each one's first end


def main(config: Config) -> dict[str, float]:
    """Train and evaluate both policies; return their scores and those of trivial policies."""
    if config.devices != 1 or config.distributed is not None:
        raise SystemExit("--devices, --distributed: expected one device and one process")
    if not 0 < config.discount < 1:
        raise SystemExit(f"--discount: expected a number between 0 and 1, got {config.discount}")
    if config.task == "cart_pole":
        config = config.with_defaults(**CART_POLE)
    config.prepare()
    task = task_of(config)
    results = {name: train(config, name) for name in ("recurrent", "feed-forward")}
    steps = config.updates * config.rollout * config.batch_size
    curves.save(
        config.out / "curves.json",
        {name: [r[task.score] for r in result.history] for name, result in results.items()},
        [(epoch + 1) * steps for epoch in range(config.epochs)],
        title=task.title, xlabel="steps in all environments", ylabel=f"{task.score} in training",
        top=task.top, levels=task.levels,
    )  # fmt: skip
    figure = curves.plot(**curves.load([config.out / "curves.json"]))
    config.save_figure(figure, "curves.png")
    scores = {name.replace("-", "_"): measure(config, r.model) for name, r in results.items()}
    parameters = script.count_parameters(results["feed-forward"].model)
    print(f"\n{parameters:,} parameters in the feed-forward policy")
    return config.report(results["recurrent"], **scores, **task.levels)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.policy", description=__doc__))
