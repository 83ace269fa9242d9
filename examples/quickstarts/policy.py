"""Train a policy that must remember a cue, which it sees once and must name some steps later.

Copy the whole file. For your own environment, replace `begin`, `observe` and `act`. The important
line is `resets=done_before`: if the previous step ended an episode, the state is reset before this
step, so an episode never sees the state of the previous episode. A policy without memory is right
in one of four episodes. The file needs only seqjax, flax and optax.

    python -m examples.quickstarts.policy
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import seqjax

CUES, BATCH, STEPS, DISCOUNT, UPDATES = 4, 64, 32, 0.9, 150


def begin(key):
    """Return new episodes: the cues, and the steps left until the cues are asked for, each [B]."""
    key_cue, key_left = jax.random.split(key)
    cue = jax.random.randint(key_cue, [BATCH], 0, CUES)
    return cue, jax.random.randint(key_left, [BATCH], 2, 8)


def observe(cue, left, fresh):
    """Return observations [B, 5]: the cue at an episode's first step, a mark at its last step."""
    return jnp.column_stack([jax.nn.one_hot(cue, CUES) * fresh[:, None], left == 0])


def act(key, episode, action):
    """Act, and return episodes, rewards and `done`. A new episode replaces one that is done."""
    cue, left = episode
    done, reward = left == 0, 1.0 * ((left == 0) & (action == cue))
    after = jax.tree.map(lambda a, b: jnp.where(done, a, b), begin(key), (cue, left - 1))
    return after, reward, done


class Policy(nnx.Module):
    """A GRU with an actor and a critic, over arrays [T, B, ...]."""

    def __init__(self, rngs):
        self.recurrent = seqjax.nn.GRU(CUES + 1, 32, time_major=True, rngs=rngs)
        self.actor, self.critic = nnx.Linear(32, CUES, rngs=rngs), nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, seen, state, done_before):
        features, state = self.recurrent(seen, initial_state=state, resets=done_before)
        return self.actor(features), self.critic(features)[..., 0], state


@nnx.jit
def train_step(policy, optimizer, start, keys):
    """Act for some steps, update the policy, and return the carry and the reward per episode."""

    def step(carry, key):
        episode, done_before, state = carry
        seen, (key_action, key_episode) = observe(*episode, done_before), jax.random.split(key)
        logits, _, state = policy(seen[None], state, done_before[None])
        action = jax.random.categorical(key_action, logits[0])
        episode, reward, done = act(key_episode, episode, action)
        return (episode, done, state), (seen, done_before, action, reward, done)

    end, (seen, done_before, action, reward, done) = jax.lax.scan(step, start, keys)
    _, last_value, _ = policy(observe(*end[0], end[1])[None], end[2], end[1][None])

    def add(later, now):
        later = now[0] + DISCOUNT * jnp.where(now[1], 0, later)
        return later, later

    returns = jax.lax.scan(add, last_value[0], (reward, done), reverse=True)[1]

    def loss_fn(policy):
        logits, values, _ = policy(seen, start[2], done_before)
        advantage = jax.lax.stop_gradient(returns - values)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, action)
        entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1)
        return (losses * advantage + 0.5 * (returns - values) ** 2 - 0.01 * entropy).mean()

    optimizer.update(policy, nnx.grad(loss_fn)(policy))
    return end, reward.sum() / done.sum()


def main():
    """Train, and return the mean reward per episode at the beginning and at the end of training."""
    policy = Policy(nnx.Rngs(0))
    optimizer = nnx.Optimizer(policy, optax.adam(5e-3), wrt=nnx.Param)
    carry = begin(jax.random.key(0)), jnp.ones(BATCH, bool), policy.recurrent.initial_state([BATCH])
    means = []
    for update, keys in enumerate(jax.random.split(jax.random.key(1), (UPDATES, STEPS))):
        carry, mean = train_step(policy, optimizer, carry, keys)
        means.append(float(mean))
        if update % 30 == 29:
            print(f"update {update + 1}  reward an episode {sum(means[-30:]) / 30:.3f}")
    return sum(means[:20]) / 20, sum(means[-20:]) / 20


if __name__ == "__main__":
    main()
