"""A comparison of Flax's GRU cell and seqjax's GRU cell in recurrent PPO.

For each seed, the program prints the return and the training time in seconds.

    pip install gymnax six
    python -m benchmarks.recurrent_ppo

The program has the form of the recurrent PPO programs of purejaxrl and JaxMARL: Linen modules, a
gymnax environment, one compiled function that trains, time-major rollouts, and minibatches of
environments. Only the recurrent module differs: `ScannedRNN`, which scans `linen.GRUCell`, or
`seqjax.nn.LinenScanned`. The task is CartPole-v1 without its two velocities.

For each seed, both modules are trained one after the other. The module that is first changes from
seed to seed. The return of a run is the mean over the episodes that end in the last tenth of the
updates. The training time does not include the compilation, which is reported separately.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from flax.training.train_state import TrainState

from seqjax import cells, nn
from seqjax._machine import description

ENVIRONMENTS, STEPS, EPOCHS, MINIBATCHES = 32, 128, 4, 4
WIDTH = 64  # of the embedding, the recurrent state and the hidden layers
DISCOUNT, SMOOTHING, CLIP, ENTROPY, CRITIC = 0.99, 0.95, 0.2, 0.01, 0.5
LEARNING_RATE, CLIP_NORM = 1e-3, 0.5


class ScannedRNN(linen.Module):
    """A GRU of Flax over time-major arrays, whose state is set to zeros where episodes begin."""

    width: int

    @functools.partial(
        linen.scan, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False}
    )
    @linen.compact
    def __call__(self, carry: Any, inputs: Any) -> Any:
        """Return the next state and the output of one step. `linen.scan` runs all steps."""
        x, resets = inputs
        carry = jnp.where(resets[:, None], self.initialize_carry(len(x)), carry)
        return linen.GRUCell(self.width)(carry, x)

    def initialize_carry(self, batch_size: int) -> Any:
        """Return the state at the start of an episode."""
        return jnp.zeros((batch_size, self.width))


class ActorCritic(linen.Module):
    """An embedding, the recurrent module, and a hidden layer each for actor and critic."""

    recurrent: linen.Module
    actions: int

    @linen.compact
    def __call__(self, carry: Any, inputs: Any) -> tuple[Any, jax.Array, jax.Array]:
        """Return the carry, logits `[T, B, actions]` and values `[T, B]`."""
        seen, resets = inputs
        orthogonal = linen.initializers.orthogonal
        embedded = linen.relu(linen.Dense(WIDTH, kernel_init=orthogonal(2**0.5))(seen))
        recurrent: Any = self.recurrent
        carry, features = recurrent(carry, (embedded, resets))
        actor, critic = (
            linen.relu(linen.Dense(WIDTH, kernel_init=orthogonal(2.0))(features)) for _ in range(2)
        )
        logits = linen.Dense(self.actions, kernel_init=orthogonal(0.01))(actor)
        value = linen.Dense(1, kernel_init=orthogonal(1.0))(critic)
        return carry, logits, value.squeeze(-1)


class Step(NamedTuple):
    """The record of one step of all environments."""

    seen: jax.Array
    reset: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


def contestants() -> dict[str, linen.Module]:
    """Return the recurrent modules that are compared."""
    return {
        "linen.GRUCell": ScannedRNN(WIDTH),
        "seqjax.nn.LinenScanned": nn.LinenScanned(cells.GRU(WIDTH, WIDTH)),
    }


def make_train(recurrent: Any, updates: int) -> Callable[[jax.Array], jax.Array]:
    """Return a function from a key to the mean return of the episodes in each update."""
    import gymnax

    environment, parameters = gymnax.make("CartPole-v1")
    bounds = jnp.array([parameters.x_threshold, parameters.theta_threshold_radians])
    network = ActorCritic(recurrent, environment.num_actions)

    def observe(observation: jax.Array) -> jax.Array:
        return observation[..., ::2] / bounds  # the positions of cart and pole

    def train(key: jax.Array) -> jax.Array:
        key_network, key_reset, key = jax.random.split(key, 3)
        carry = recurrent.initialize_carry(ENVIRONMENTS)
        inputs = jnp.zeros((1, ENVIRONMENTS, 2)), jnp.zeros((1, ENVIRONMENTS), bool)
        schedule = optax.linear_schedule(LEARNING_RATE, 0.0, updates * EPOCHS * MINIBATCHES)
        learner = TrainState.create(
            apply_fn=network.apply,
            params=network.init(key_network, carry, inputs),
            tx=optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(schedule, eps=1e-5)),
        )
        observation, state = jax.vmap(environment.reset, (0, None))(
            jax.random.split(key_reset, ENVIRONMENTS), parameters
        )
        runner = (
            learner, state, observe(observation), jnp.ones(ENVIRONMENTS, bool), carry,
            jnp.zeros(ENVIRONMENTS), key,
        )  # fmt: skip
        return jax.lax.scan(update, runner, length=updates)[1]

    def act(runner: Any, _: None) -> tuple[Any, Any]:
        learner, state, seen, reset, carry, total, key = runner
        key, key_action, key_step = jax.random.split(key, 3)
        carry, logits, value = learner.apply_fn(learner.params, carry, (seen[None], reset[None]))
        action = jax.random.categorical(key_action, logits[0])
        observation, state, reward, terminated, truncated, _ = jax.vmap(
            environment.step, (0, 0, 0, None)
        )(jax.random.split(key_step, ENVIRONMENTS), state, action, parameters)
        done = terminated | truncated
        record = Step(seen, reset, action, log_prob(logits[0], action), value[0], reward, done)
        total = total + reward
        runner = (learner, state, observe(observation), done, carry, total * ~done, key)
        return runner, (record, jnp.where(done, total, 0.0))

    def update(runner: Any, _: None) -> tuple[Any, jax.Array]:
        carry = runner[4]
        runner, (steps, returns) = jax.lax.scan(act, runner, length=STEPS)
        learner, state, seen, reset, after, total, key = runner
        _, _, value = learner.apply_fn(learner.params, after, (seen[None], reset[None]))
        advantage = advantages(steps, value[0])
        batch = (carry, steps, advantage, advantage + steps.value)

        def epoch(learner: TrainState, key: jax.Array) -> tuple[TrainState, None]:
            order = jax.random.permutation(key, ENVIRONMENTS).reshape(MINIBATCHES, -1)

            def minibatch(learner: TrainState, rows: jax.Array) -> tuple[TrainState, None]:
                start, *rest = batch
                part = (
                    jax.tree.map(lambda array: array[rows], start),
                    *jax.tree.map(lambda array: array[:, rows], rest),
                )
                gradients = jax.grad(loss)(learner.params, learner.apply_fn, *part)
                return learner.apply_gradients(grads=gradients), None

            return jax.lax.scan(minibatch, learner, order)

        key, key_epochs = jax.random.split(key)
        learner, _ = jax.lax.scan(epoch, learner, jax.random.split(key_epochs, EPOCHS))
        mean = returns.sum() / jnp.maximum(1, steps.done.sum())
        return (learner, state, seen, reset, after, total, key), mean

    return train


def log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Return the log-probabilities of actions."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)
    return chosen.squeeze(-1)


def advantages(steps: Step, last: jax.Array) -> jax.Array:
    """Return generalised advantage estimates.

    `last` is the critic's value for the observation after the last step of the rollout.
    """

    def back(carry: Any, step: Step) -> Any:
        advantage, following = carry
        kept = DISCOUNT * ~step.done
        error = step.reward + kept * following - step.value
        advantage = error + kept * SMOOTHING * advantage
        return (advantage, step.value), advantage

    return jax.lax.scan(back, (jnp.zeros_like(last), last), steps, reverse=True)[1]


def loss(params: Any, apply: Any, carry: Any, steps: Step, advantage: Any, target: Any) -> Any:
    """Return PPO's loss of a minibatch, with the clipped error of the critic."""
    _, logits, value = apply(params, carry, (steps.seen, steps.reset))
    ratio = jnp.exp(log_prob(logits, steps.action) - steps.log_prob)
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    actor = jnp.minimum(ratio * scaled, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * scaled).mean()
    near = steps.value + jnp.clip(value - steps.value, -CLIP, CLIP)
    critic = 0.5 * jnp.maximum(jnp.square(value - target), jnp.square(near - target)).mean()
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(axis=-1).mean()
    return CRITIC * critic - actor - ENTROPY * entropy


def main(arguments: list[str] | None = None) -> dict[str, dict[str, list[float]]]:
    """Train with each recurrent module and each seed; print and return the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recurrent_ppo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=100)
    options = parser.parse_args(arguments)
    try:
        import gymnax  # noqa: F401
    except ImportError:
        raise SystemExit("gymnax: expected the package; run pip install gymnax six") from None
    programs, figures = {}, {}
    for name, recurrent in contestants().items():
        began = time.perf_counter()
        train = jax.jit(make_train(recurrent, options.updates))
        programs[name] = train.lower(jax.random.key(0)).compile()
        compiling = time.perf_counter() - began
        figures[name] = {"return": [], "seconds": [], "compile": [compiling]}
    names = list(programs)
    for turn, seed in enumerate(options.seeds):
        for name in names[turn % 2 :] + names[: turn % 2]:
            began = time.perf_counter()
            returns = np.asarray(programs[name](jax.random.key(seed)))
            seconds = time.perf_counter() - began
            score = float(returns[-max(1, options.updates // 10) :].mean())
            figures[name]["return"].append(score)
            figures[name]["seconds"].append(seconds)
            print(f"{name}  seed {seed}  return {score:.1f}  {seconds:.1f} s", flush=True)
    print(f"\n{options.updates * STEPS * ENVIRONMENTS:,} steps; {description(['gymnax'])}")
    for name, found in figures.items():
        spread = [
            f"{key} {statistics.fmean(values):.4g} ± {statistics.stdev(values):.2g}"
            if len(values) > 1
            else f"{key} {values[0]:.4g}"
            for key, values in found.items()
        ]
        print(f"{name}: {', '.join(spread)}")
    return figures


if __name__ == "__main__":
    main()
