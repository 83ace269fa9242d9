"""PPO with a recurrent policy: its ratio before the first update is 1, and mistakes show.

The reference acts in a loop in Python. There, each episode has a memory of its own, so the loop has
no flags that could be shifted, and no state that could belong to another episode.
"""

from typing import Any, NamedTuple

import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import seqjax
from seqjax import cells, sequences
from seqjax.nn import LinenScanned
from tests import references
from tests.cases import draw_like

CELL = cells.GRU(3, 4)
ACTIONS = 2
ENVIRONMENTS, STEPS, ROLLOUTS = 4, 6, 3
RUNNING, TERMINATED, TRUNCATED = range(3)  # the outcomes of a step


class Policy(NamedTuple):
    """The parameters of a recurrent policy."""

    body: Any
    actor: Any


class Rollout(NamedTuple):
    """The record of an agent: `[B, T, ...]`, and values `[B, ...]` at the start and the end."""

    seen: Any
    action: Any
    log_prob: Any
    done: Any
    state: Any
    """The states of the agent before the rollout."""
    last_done: Any
    """True if the step before the rollout ended an episode."""


class Environment:
    """An environment that ends its episodes as told, and then begins the next one itself."""

    def __init__(self, outcomes: Any, rng: np.random.Generator) -> None:
        self.outcomes, self.rng = iter(outcomes), rng
        self.begin()

    def begin(self) -> None:
        self.observation, self.memory = self.rng.normal(size=3), np.zeros(4)

    def step(self, action: int) -> bool:
        done = next(self.outcomes) != RUNNING
        if done:
            self.begin()
        else:
            self.observation = 0.5 * self.rng.normal(size=3) + action
        return done


def policy_of(seed: int, dtype: Any = np.float64) -> Policy:
    """Return a policy with random weights and biases."""
    body = draw_like(jax.eval_shape(CELL.init, jax.random.key(0)), seed, 0.5, dtype)
    return Policy(body, draw_like(np.zeros((4, ACTIONS)), seed + 100, 1.0, dtype))


def play(policy: Policy, outcomes: np.ndarray, seed: int = 0) -> list[Rollout]:
    """Act in all environments; outcomes [B, rollouts * T] say when episodes end."""
    rng = np.random.default_rng(seed)
    environments = [Environment(row, rng) for row in outcomes]
    found, last = [], np.ones(len(environments), bool)
    for _ in range(outcomes.shape[1] // STEPS):
        state = np.stack([environment.memory for environment in environments])
        records: list[list[Any]] = [[] for _ in range(4)]
        for environment in environments:
            steps = [_act(policy, environment, rng) for _ in range(STEPS)]
            for record, values in zip(records, zip(*steps, strict=True), strict=True):
                record.append(values)
        seen, action, log_prob, done = map(np.array, records)
        found.append(Rollout(seen, action, log_prob, done, state, last))
        last = found[-1].done[:, -1]
    return found


def _act(policy: Policy, environment: Environment, rng: np.random.Generator) -> tuple[Any, ...]:
    seen = environment.observation
    _, environment.memory = references.gru(CELL, policy.body, seen, environment.memory)
    logits = environment.memory @ policy.actor
    log_probs = logits - np.log(np.exp(logits).sum())
    action = rng.choice(ACTIONS, p=np.exp(log_probs))
    return seen, action, log_probs[action], environment.step(action)


def by_unroll(body: Any, seen: Any, state: Any, resets: Any) -> tuple[Any, Any]:
    """Return the features and the states after the rollout."""
    outputs, state = seqjax.unroll(CELL, body, seen, state=state, resets=resets)
    return outputs, state


def by_linen(body: Any, seen: Any, state: Any, resets: Any) -> tuple[Any, Any]:
    inputs = jnp.swapaxes(jnp.asarray(seen), 0, 1), jnp.swapaxes(resets, 0, 1)
    variables = {"params": body._asdict()}
    found: Any = LinenScanned(CELL).apply(variables, jnp.asarray(state), inputs)
    state, outputs = found
    return jnp.swapaxes(outputs, 0, 1), state


def by_layer(body: Any, seen: Any, state: Any, resets: Any) -> tuple[Any, Any]:
    outputs, (state,) = _layer(body)(seen, initial_state=(state,), resets=resets)
    return outputs, state


def by_steps(body: Any, seen: Any, state: Any, resets: Any) -> tuple[Any, Any]:
    layer, state, outputs = _layer(body), (state,), []
    for t in range(STEPS):
        output, state = layer.step(seen[:, t], state, resets=resets[:, t])
        outputs.append(output)
    return jnp.stack(outputs, axis=1), state[0]


def _layer(body: Any) -> seqjax.nn.GRU:
    layer = seqjax.nn.GRU(3, 4, rngs=nnx.Rngs(0))
    for name, value in body._asdict().items():
        setattr(layer.layers[0].forward, name, nnx.Param(jnp.asarray(value)))
    return layer


LEARNERS = {"unroll": by_unroll, "linen": by_linen, "layer": by_layer, "step": by_steps}


def ratios(
    policy: Policy, rollout: Rollout, state: Any = None, *, resets: Any = None, by: Any = by_unroll
) -> tuple[jax.Array, Any]:
    """Return PPO's ratios [B, T] with unchanged weights, and the states after the rollout."""
    if resets is None:
        resets = sequences.resets_from_dones(jnp.asarray(rollout.done), rollout.last_done)
    features, after = by(
        policy.body, rollout.seen, rollout.state if state is None else state, resets
    )
    log_probs = jax.nn.log_softmax(features @ policy.actor)
    chosen = jnp.take_along_axis(log_probs, jnp.asarray(rollout.action)[..., None], axis=-1)
    return jnp.exp(chosen[..., 0] - rollout.log_prob), after


patterns = hypothesis.extra.numpy.arrays(
    np.int8, (ENVIRONMENTS, ROLLOUTS * STEPS), elements=st.integers(RUNNING, TRUNCATED)
)


@pytest.mark.quick("unroll")
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("learner", LEARNERS)
def test_the_ratio_is_one_in_the_first_epoch(learner):
    @given(patterns, st.integers(0, 3))
    def check(outcomes, seed):
        policy, state = policy_of(seed), np.zeros((ENVIRONMENTS, 4))
        for rollout in play(policy, outcomes, seed):
            # The learner carries its state from rollout to rollout, as the agent does.
            ratio, state = ratios(policy, rollout, state, by=LEARNERS[learner])
            np.testing.assert_allclose(ratio, 1.0, rtol=0, atol=1e-6)

    check()


@pytest.mark.quick()
def test_one_outcome_at_every_boundary(x64):
    """Episodes of one step, no episode that ends, and an end at each step of a rollout."""
    policy = policy_of(0)
    outcomes = np.full((2 + STEPS, ROLLOUTS * STEPS), RUNNING)
    outcomes[0] = TERMINATED
    for t in range(STEPS):
        outcomes[2 + t, t::STEPS] = TRUNCATED
    for rollout in play(policy, outcomes):
        for learner in LEARNERS.values():
            ratio, _ = ratios(policy, rollout, by=learner)
            np.testing.assert_allclose(ratio, 1.0, rtol=0, atol=1e-6)


@pytest.mark.quick("unroll")
@pytest.mark.parametrize("learner", ["unroll", "linen"])
def test_under_vmap_over_seeds_in_float32(learner):
    """The agent acts by `step`, in all environments of all seeds together."""
    seeds = 3
    policies = [policy_of(seed, np.float32) for seed in range(seeds)]
    policy = jax.tree.map(lambda *leaves: jnp.stack(leaves), *policies)
    rng = np.random.default_rng(0)
    shape = (seeds, ENVIRONMENTS, STEPS)
    act = jax.jit(jax.vmap(_step_in_all_environments))
    learn = jax.jit(jax.vmap(lambda *given: ratios(*given, by=LEARNERS[learner])))
    state, last = jnp.zeros((seeds, ENVIRONMENTS, 4)), jnp.ones(shape[:2], bool)
    for _ in range(ROLLOUTS):
        seen = rng.normal(size=(*shape, 3)).astype(np.float32)
        done, action = rng.random(shape) < 0.3, rng.integers(ACTIONS, size=shape)
        acting, fresh, log_probs = state, last, []
        for t in range(STEPS):
            log_prob, acting = act(policy, seen[:, :, t], acting, fresh, action[:, :, t])
            log_probs.append(log_prob)
            fresh = jnp.asarray(done[:, :, t])
        rollout = Rollout(seen, action, jnp.stack(log_probs, axis=-1), done, state, last)
        ratio, after = learn(policy, rollout)
        np.testing.assert_allclose(ratio, 1.0, rtol=0, atol=1e-6)
        np.testing.assert_allclose(after, acting, atol=1e-6)
        state, last = acting, fresh


def _step_in_all_environments(
    policy: Policy, seen: Any, state: Any, fresh: Any, action: Any
) -> Any:
    outputs, state = seqjax.unroll(
        CELL, policy.body, seen[:, None], state=state, resets=fresh[:, None]
    )
    log_probs = jax.nn.log_softmax(outputs[:, 0] @ policy.actor)
    return jnp.take_along_axis(log_probs, action[:, None], axis=-1)[:, 0], state


# The usual mistakes. Some of them are errors. The others change the ratio, at steps that tell which
# mistake it is, or change numbers that must not depend on what was changed.


@pytest.fixture
def rollout(x64) -> tuple[Policy, Rollout]:
    """Return a policy and its second rollout; no episode ends before step 2."""
    policy, outcomes = policy_of(1), np.full((ENVIRONMENTS, 2 * STEPS), RUNNING)
    outcomes[0, STEPS + 2], outcomes[1, STEPS + 3] = TERMINATED, TRUNCATED
    return policy, play(policy, outcomes)[1]


def wrong(ratio: Any) -> np.ndarray:
    """Return where a ratio is not 1, far above the rounding errors."""
    return np.abs(np.asarray(ratio) - 1) > 1e-4


def test_mistake_dones_as_resets(rollout):
    """The ratio is wrong from the step with `done` on, only where an episode ends."""
    policy, steps = rollout
    found = wrong(ratios(policy, steps, resets=jnp.asarray(steps.done))[0])
    assert found[0, 2] and found[1, 3]  # the last step of an episode has lost its memory
    assert found[0, 3] and found[1, 4]  # the first step of the next one has a memory
    assert not found[0, :2].any() and not found[1, :3].any() and not found[2:].any()
    with pytest.raises(TypeError, match="last_dones"):
        sequences.resets_from_dones(steps.done)  # type: ignore[call-arg]


def test_mistake_a_rollout_without_the_flags_before_it(rollout):
    """If `last_dones` is forgotten at an end of an episode, the ratio is wrong from step 0 on."""
    policy, outcomes = policy_of(1), np.full((1, 2 * STEPS), RUNNING)
    outcomes[0, STEPS - 1] = TERMINATED
    steps = play(policy, outcomes)[1]
    kept = np.full((1, 4), 0.5)  # the agent's state is reset only when the next step reads it
    assert not wrong(ratios(policy, steps, kept)[0]).any()
    forgotten = sequences.resets_from_dones(steps.done, False)
    assert wrong(ratios(policy, steps, kept, resets=forgotten)[0])[0, 0]


def test_mistake_the_state_after_the_rollout_as_its_start(rollout):
    """The ratio is wrong from step 0 on, up to the end of the first episode."""
    policy, steps = rollout
    _, after = ratios(policy, steps)
    found = wrong(ratios(policy, steps, after)[0])
    assert found[:, 0].all()
    assert not found[0, 3:].any() and not found[1, 4:].any()  # new episodes
    assert found[0, :2].any() and found[2:].any()


def test_mistake_minibatches_of_steps(rollout):
    """Shuffled steps are wrong nearly everywhere; shuffled environments are not."""
    policy, steps = rollout
    rng = np.random.default_rng(0)
    order = rng.permutation(ENVIRONMENTS)[:2]
    part = jax.tree.map(lambda array: array[order], steps)
    assert not wrong(ratios(policy, part)[0]).any()
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = {
        name: getattr(steps, name)[:, order] for name in ("seen", "action", "log_prob", "done")
    }
    assert wrong(ratios(policy, steps._replace(**moved))[0]).mean() > 0.8
    flat = {name: getattr(steps, name).reshape(-1, 1, *getattr(steps, name).shape[2:])
            for name in ("seen", "action", "log_prob", "done")}  # fmt: skip
    with pytest.raises(ValueError, match="expected shape"):
        ratios(policy, steps._replace(**flat))


def test_mistake_two_axes_exchanged(rollout):
    """Time-major arrays in a call that expects batch-major ones are an error of shapes."""
    policy, steps = rollout
    resets = sequences.resets_from_dones(steps.done, steps.last_done)
    with pytest.raises(ValueError, match="state"):
        by_unroll(policy.body, np.swapaxes(steps.seen, 0, 1), steps.state, resets.T)


def test_mistake_a_new_state_for_each_rollout(rollout):
    """Only the learner forgets: wrong from step 0 on. Both forget: the outputs tell."""
    policy, steps = rollout
    forgotten = np.zeros_like(steps.state)
    found = wrong(ratios(policy, steps, forgotten)[0])
    assert found[:, 0].all() and not found[0, 3:].any()
    # If the agent forgets, too, the ratio is 1. But the outputs then depend on where rollouts
    # begin, so two rollouts differ from one that is as long as both.
    body, seen, resets = policy.body, np.concatenate([steps.seen] * 2, axis=1), np.zeros((4, 12))
    whole, _ = by_unroll(body, seen, steps.state, resets.astype(bool))
    first, carried = by_unroll(body, seen[:, :6], steps.state, resets[:, :6].astype(bool))
    for state, same in ((carried, True), (forgotten, False)):
        second, _ = by_unroll(body, seen[:, 6:], state, resets[:, 6:].astype(bool))
        parts = np.concatenate([first, second], axis=1)
        assert np.allclose(parts, whole, atol=1e-9) == same


def test_mistake_evaluation_with_the_state_of_training(rollout):
    """Another number of environments is an error; with the same number, two runs differ."""
    policy, steps = rollout
    resets = np.zeros((ENVIRONMENTS, STEPS), bool)
    with pytest.raises(ValueError, match="state"):
        by_unroll(policy.body, steps.seen[:2], steps.state, resets[:2])
    new = np.zeros_like(steps.state)
    once, after = by_unroll(policy.body, steps.seen, new, resets)
    again, _ = by_unroll(policy.body, steps.seen, after, resets)
    assert np.abs(np.asarray(once - again))[:, 0].min() > 1e-3
    # With True at the first step the state does not matter.
    resets[:, 0] = True
    again, _ = by_unroll(policy.body, steps.seen, after, resets)
    np.testing.assert_allclose(again, once, atol=1e-9)


def test_mistake_evaluation_without_resets(rollout):
    """An episode's outputs must not depend on the episodes before it."""
    policy, steps = rollout
    episode = steps.seen[:, :3]
    twice, new = np.concatenate([episode, episode], axis=1), np.zeros_like(steps.state)
    resets = np.zeros((ENVIRONMENTS, 6), bool)
    without, _ = by_unroll(policy.body, twice, new, resets)
    assert np.abs(np.asarray(without[:, :3] - without[:, 3:])).max() > 1e-2
    resets[:, 3] = True
    outputs, _ = by_unroll(policy.body, twice, new, resets)
    np.testing.assert_allclose(outputs[:, 3:], outputs[:, :3], atol=1e-9)


def test_mistake_a_state_of_another_width():
    """A carry of the inputs' width instead of the cell's is an error."""
    layer = LinenScanned(CELL)
    inputs = jnp.ones((STEPS, 2, 3)), jnp.zeros((STEPS, 2), bool)
    with pytest.raises(ValueError, match=r"carry: expected .*\(2, 4\)"):
        layer.init(jax.random.key(0), jnp.zeros((2, 3)), inputs)
    assert layer.initialize_carry(2).shape == (2, 4)
