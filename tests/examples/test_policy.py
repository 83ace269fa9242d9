"""The T-maze: its rules, the estimates of advantages, and a policy that learns a short one."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
from examples import policy, script
from examples.shipped import cart_pole, t_maze
from examples.shipped.t_maze import AHEAD, LEFT, RIGHT
from seqjax import training


def config(out="out", **options):
    defaults: Any = {
        "corridor": 2, "hidden_size": 16, "rollout": 16, "epochs": 3, "updates": 20,
        "batch_size": 64, "learning_rate": 0.01, "out": out,
    }  # fmt: skip
    return policy.Config(**(defaults | options))


def maze(sign, place, time):
    return t_maze.Maze(*(jnp.array(values, jnp.int32) for values in (sign, place, time)))


def test_the_gru_in_bfloat16():
    some = config(dtype="bfloat16")
    model = policy.Policy(some, memory=True, rngs=nnx.Rngs(0))
    assert jnp.dtype(model.body.layers.dtype) == jnp.bfloat16
    loop = policy.loop_of(policy.task_of(some), model, jax.random.key(1), 3)
    _, steps = policy.play(some, model, loop, jax.random.key(2), 4)
    assert steps.value.dtype == steps.log_prob.dtype == jnp.float32


def test_the_sign_is_seen_at_the_start_alone():
    seen = t_maze.look(maze([LEFT, RIGHT, LEFT, RIGHT], [0, 0, 1, 2], [0, 0, 1, 2]), 2)
    np.testing.assert_array_equal(seen, [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]])


def test_moves_rewards_and_ends():
    # Ahead; into a wall beside; the right turn; the wrong turn; into the wall ahead; out of time.
    before = maze([0, 0, 1, 1, 1, 0], [0, 1, 2, 2, 2, 0], [0, 3, 5, 5, 5, 11])
    action = jnp.array([AHEAD, LEFT, RIGHT, LEFT, AHEAD, AHEAD])
    after, (reward, done, right) = t_maze.move(before, action, jax.random.key(0), 2)
    np.testing.assert_allclose(reward, [0, -0.1, 4, -0.1, -0.1, 0], rtol=1e-6)
    np.testing.assert_array_equal(done, [False, False, True, True, False, True])
    np.testing.assert_array_equal(right, [False, False, True, False, False, False])
    np.testing.assert_array_equal(after.place, [1, 1, 0, 0, 2, 0])
    np.testing.assert_array_equal(after.time, [1, 4, 0, 0, 6, 0])
    np.testing.assert_array_equal(after.sign[jnp.array([0, 1, 4])], [0, 0, 1])


def test_new_mazes_have_either_sign():
    assert 400 < int(t_maze.begin(jax.random.key(0), 1000).sign.sum()) < 600


def test_advantages_are_weighted_sums_of_the_errors_to_come():
    rng = np.random.default_rng(0)
    reward, value, last = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)), rng.normal(size=2)
    done = np.zeros((6, 2), bool)
    done[3, 0] = True
    nothing = jnp.zeros((6, 2))
    steps = policy.Step(
        nothing, nothing, nothing, nothing,
        jnp.array(value), jnp.array(reward), jnp.array(done), nothing,
    )  # fmt: skip
    found = policy.advantages(config(discount=0.9), steps, jnp.array(last))
    following = np.concatenate([value[1:], last[None]])
    for b in range(2):
        for t in range(6):
            expected, weight = 0.0, 1.0
            for k in range(t, 6):
                expected += weight * (
                    reward[k, b] + 0.9 * (not done[k, b]) * following[k, b] - value[k, b]
                )
                if done[k, b]:
                    break
                weight *= 0.9 * policy.SMOOTHING
            assert found[t, b] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_advantages_of_an_episode_do_not_depend_on_the_next_one():
    """The value after `done` belongs to another episode: nothing passes through `done`."""
    rng = np.random.default_rng(1)
    reward, value = (jnp.asarray(rng.normal(size=(6, 1))) for _ in range(2))
    done = jnp.zeros((6, 1), bool).at[2].set(True)
    nothing = jnp.zeros((6, 1))

    def found(reward, value, last, done=done):
        steps = policy.Step(nothing, nothing, nothing, nothing, value, reward, done, nothing)
        return policy.advantages(config(), steps, jnp.full(1, last))

    before = found(reward, value, 0.0)
    after = found(reward.at[3:].add(9.0), value.at[3:].add(9.0), 9.0)
    np.testing.assert_array_equal(before[:3], after[:3])
    assert jnp.abs(before[3:] - after[3:]).min() > 0.1
    # The mistake shows in this way: without `done` the advantages change.
    never = jnp.zeros_like(done)
    through = found(reward.at[3:].add(9.0), value, 0.0, never) - found(reward, value, 0.0, never)
    assert jnp.abs(through[:3]).min() > 0.1


class Counter:
    """A task for tests: an episode ends after three steps, by truncation in even environments."""

    @staticmethod
    def look(time):
        return jnp.stack([time, time**2, jnp.arange(len(time))], axis=-1) / 4.0

    @staticmethod
    def move(time, action, key):
        del action, key
        done = time == 2
        truncated = done & (jnp.arange(len(time)) % 2 == 0)
        outcome = (jnp.ones(len(time)), done, time, truncated, Counter.look(time + 1))
        return jnp.where(done, 0, time + 1), outcome


@pytest.mark.quick()
def test_a_truncated_episode_ends_with_the_value_of_its_last_observation(monkeypatch):
    options = config(discount=0.9)
    model = policy.Policy(options, memory=True, rngs=nnx.Rngs(0))
    head = model.critic
    head.kernel[...] = jax.random.normal(jax.random.key(1), head.kernel.shape)
    task = policy.task_of(options)._replace(look=Counter.look, move=Counter.move)
    monkeypatch.setattr(policy, "task_of", lambda config: task)
    start = policy.Loop(jnp.array([0, 1, 2]), jnp.ones(3, bool), model.initial_state(3))
    _, steps = policy.play(options, model, start, jax.random.key(0), 4)
    for b, begin in enumerate((0, 1, 2)):
        time, history = begin, []
        for t in range(4):
            history.append(Counter.look(jnp.full(3, time))[0].at[2].set(b / 4.0))
            np.testing.assert_allclose(steps.seen[t, b], history[-1])
            expected = 1.0
            if time == 2 and b % 2 == 0:
                last = Counter.look(jnp.full(3, 3))[0].at[2].set(b / 4.0)
                episode = jnp.stack([*history, last])[:, None]  # without resets, from its start
                fresh = jnp.arange(len(episode))[:, None] == 0
                values = model(episode, model.initial_state(1), fresh)[1]
                expected += 0.9 * float(values[-1, 0])
            assert steps.reward[t, b] == pytest.approx(expected, abs=1e-5)
            assert bool(steps.done[t, b]) == (time == 2)
            if time == 2:
                time, history = 0, []
            else:
                time += 1


def test_a_pole_that_falls_and_one_that_is_truncated():
    pytest.importorskip("gymnax")
    states = cart_pole.begin(jax.random.key(0), 3)
    np.testing.assert_allclose(cart_pole.look(states)[:, 0], states.x / 2.4, rtol=1e-6)
    np.testing.assert_allclose(
        cart_pole.look(states)[:, 1], states.theta / np.deg2rad(12), rtol=1e-6
    )
    theta = states.theta.at[1].set(np.deg2rad(11.9)).at[2].set(0.0)
    speed = states.theta_dot.at[1].set(3.0).at[2].set(0.0)
    time = states.time.at[1].set(30).at[2].set(499)
    before = states.replace(theta=theta, theta_dot=speed, time=time)
    after, fields = cart_pole.move(before, jnp.array([0, 1, 0]), jax.random.key(1))
    reward, done, score, truncated, last = fields
    np.testing.assert_allclose(reward, 0.1)
    np.testing.assert_array_equal(done, [False, True, True])
    np.testing.assert_array_equal(truncated, [False, False, True])
    np.testing.assert_array_equal(score, [0, 31, 500])
    np.testing.assert_array_equal(after.time, [1, 0, 0])
    assert last[1, 1] > 1.0 > abs(cart_pole.look(after)[1, 1])  # the pole has fallen
    np.testing.assert_allclose(last[0], cart_pole.look(after)[0], rtol=1e-6)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(SystemExit, match=r"--task: expected the package gymnax .* run pip install"):
        policy.main(config(tmp_path, task="cart_pole"))


@pytest.mark.quick()
def test_the_update_sees_what_the_policy_saw_when_it_acted():
    """Unrolled with resets from the carried state, the policy gives what it gave step by step."""
    options = config()
    model = policy.Policy(options, memory=True, rngs=nnx.Rngs(0))
    for head in (model.actor, model.critic):
        head.kernel[...] = jax.random.normal(jax.random.key(1), head.kernel.shape)
    play = jax.jit(lambda loop, key: policy.play(options, model, loop, key, 20))
    loop, _ = play(
        policy.loop_of(policy.task_of(options), model, jax.random.key(2), 8), jax.random.key(3)
    )
    _, steps = play(loop, jax.random.key(4))
    assert steps.done.sum() > 5
    np.testing.assert_array_equal(steps.fresh[1:], steps.done[:-1])
    unrolled = jax.jit(lambda state: model(steps.seen, state, steps.fresh))
    logits, value, _ = unrolled(loop.state)
    np.testing.assert_allclose(value, steps.value, atol=1e-5)
    log_prob = policy.log_probability(logits, steps.action)
    np.testing.assert_allclose(log_prob, steps.log_prob, atol=1e-5)
    forgetful, _, _ = unrolled(jax.tree.map(jnp.zeros_like, loop.state))
    assert jnp.abs(forgetful - logits).max() > 1e-3


def test_both_policies_have_about_as_many_weights():
    sizes = [
        script.count_parameters(policy.Policy(config(), memory=memory, rngs=nnx.Rngs(0)))
        for memory in (True, False)
    ]
    assert 0.75 < sizes[1] / sizes[0] < 1.1


@pytest.mark.slow
def test_a_memory_pays_and_runs_go_on(tmp_path, capsys):
    rates = policy.main(config(tmp_path / "whole"))
    assert rates["recurrent"] > 0.9 and 0.4 < rates["feed_forward"] < 0.6
    assert rates["chance"] == 0.5
    assert "recurrent" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {
        "checkpoints",
        "learning_curve.png",
        "curves.json",
        "curves.png",
        "result.json",
    } <= names
    assert policy.main(config(tmp_path / "whole", resume=True)) == rates
    with pytest.raises(SystemExit, match="--seed: expected 0 as in"):
        policy.main(config(tmp_path / "whole", resume=True, seed=1))


@pytest.mark.slow
def test_a_run_that_was_cut_short_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    small: Any = {"epochs": 3, "updates": 2, "batch_size": 4, "passes": 1}
    whole = policy.train(config(tmp_path / "whole", **small), "recurrent")

    class Killed(Exception):
        pass

    save = training.Checkpoints.save

    def save_and_die(self, step, arrays, record):
        save(self, step, arrays, record)
        raise Killed

    options = config(tmp_path / "cut", **small, resume=True)
    monkeypatch.setattr(training.Checkpoints, "save", save_and_die)
    with pytest.raises(Killed):
        policy.train(options, "recurrent")
    monkeypatch.undo()
    result = policy.train(options, "recurrent")
    assert [record["epoch"] for record in result.history] == [1, 2, 3]
    jax.tree.map(np.testing.assert_array_equal, result.state, whole.state)


def test_mistakes(tmp_path):
    def fails(message, **options):
        with pytest.raises(SystemExit, match=message):
            policy.main(config(tmp_path, **options))

    fails("--devices, --distributed: expected one device", devices=2)
    fails("--devices, --distributed: expected one device", distributed="auto")
    fails("--discount: expected a number between 0 and 1, got 1.5", discount=1.5)
    fails("--corridor: expected at least 1, got 0", corridor=0)
