"""The two recurrent modules of the comparison are the same function, and the program runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import recurrent_ppo
from seqjax import interop, sequences
from tests.cases import assert_close, draw_like


def test_both_modules_compute_the_same():
    theirs, ours = recurrent_ppo.contestants().values()
    width = recurrent_ppo.WIDTH
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(9, 3, width)).astype(np.float32)
    resets = sequences.resets_from_dones(rng.random((9, 3)) < 0.3, True, time_major=True)
    inputs = jnp.asarray(xs), resets
    carry = jnp.asarray(rng.normal(size=(3, width)), jnp.float32)
    variables = draw_like(theirs.init(jax.random.key(0), carry, inputs), 1, 0.1)
    layer = interop.linen.load(variables, "GRUCell_0").layers[0].forward
    expected = theirs.apply(variables, carry, inputs)
    found = ours.apply({"params": layer.params._asdict()}, carry, inputs)
    assert_close(found, expected, 1e-5, 1e-5)
    np.testing.assert_array_equal(theirs.initialize_carry(3), ours.initialize_carry(3))


def test_nothing_passes_through_an_end():
    rng = np.random.default_rng(0)
    reward, value = (jnp.asarray(rng.normal(size=(5, 1)), jnp.float32) for _ in range(2))
    done = jnp.zeros((5, 1), bool).at[2].set(True)
    nothing = jnp.zeros((5, 1))

    def found(reward):
        steps = recurrent_ppo.Step(nothing, nothing, nothing, nothing, value, reward, done)
        return recurrent_ppo.advantages(steps, jnp.ones(1))

    change = found(reward.at[3:].add(1.0)) - found(reward)
    assert (change[:3] == 0).all() and (change[3:] > 0.5).all()


@pytest.mark.slow
def test_a_short_comparison(monkeypatch, capsys):
    pytest.importorskip("gymnax")
    for name, value in (("ENVIRONMENTS", 4), ("STEPS", 32), ("MINIBATCHES", 2), ("WIDTH", 8)):
        monkeypatch.setattr(recurrent_ppo, name, value)
    figures = recurrent_ppo.main(["--updates", "4", "--seeds", "0", "1"])
    assert list(figures) == list(recurrent_ppo.contestants())
    for found in figures.values():
        assert len(found["return"]) == len(found["seconds"]) == 2
        assert 5 < min(found["return"]) < 100  # of a policy that has hardly learned
    assert "512 steps" in capsys.readouterr().out
