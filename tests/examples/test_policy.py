"""The T-maze: its rules, the estimates of advantages, and a policy that learns a short one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
from examples import policy, script
from examples.shipped import t_maze
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


def test_the_update_sees_what_the_policy_saw_when_it_acted():
    """Unrolled with resets from the carried state, the policy gives what it gave step by step."""
    options = config()
    model = policy.Policy(options, memory=True, rngs=nnx.Rngs(0))
    model.actor.kernel[...] = jax.random.normal(jax.random.key(1), model.actor.kernel.shape)
    play = jax.jit(lambda loop, key: policy.play(options, model, loop, key, 20))
    loop, _ = play(policy.loop_of(model, jax.random.key(2), 8), jax.random.key(3))
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
    assert {"checkpoints", "learning_curve.png", "success.png", "result.json"} <= names
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

    fails("--devices: expected 1, got 2", devices=2)
    fails("--discount: expected a number between 0 and 1, got 1.5", discount=1.5)
    fails("--corridor: expected at least 1, got 0", corridor=0)
