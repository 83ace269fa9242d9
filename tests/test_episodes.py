"""Resets from the ends of episodes: a loop that knows only environments is the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, sequences
from seqjax.nn import LinenScanned
from tests.cases import assert_close, params_of

CELL = cells.GRU(3, 4)


def play(params, seed, environments=3, steps=9):
    """Acts step by step: an episode's first observation always meets a new state.

    Returns observations, dones and the outputs that the policy saw while it acted.
    """
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(environments, steps, 3)).astype(np.float32)
    dones = rng.random((environments, steps)) < 0.3
    outputs = np.zeros((environments, steps, 4), np.float32)
    for e in range(environments):
        state = CELL.initial_state()
        for t in range(steps):
            output, state = CELL.step(params, jnp.asarray(seen[e, t]), state)
            outputs[e, t] = output
            if dones[e, t]:
                state = CELL.initial_state()
    return seen, dones, outputs


@pytest.mark.parametrize("seed", range(3))
def test_a_rollout_in_two_parts_equals_acting(seed):
    params = params_of(CELL)
    seen, dones, acted = play(params, seed)
    state, last = CELL.initial_state((3,)), np.ones(3, bool)
    for part in (slice(0, 5), slice(5, 9)):
        resets = sequences.resets_from_dones(dones[:, part], last)
        outputs, state = seqjax.unroll(CELL, params, seen[:, part], state=state, resets=resets)
        assert_close(outputs, acted[:, part], 1e-6, 1e-6)
        last = dones[:, part][:, -1]


def test_time_major_and_the_inverse():
    dones = np.random.default_rng(0).random((2, 3, 7)) < 0.4
    last, following = (
        np.array([[True, False, True], [False] * 3]),
        np.array([[False, True] * 3] * 2),
    )
    following = following[:, :3]
    resets = sequences.resets_from_dones(dones, last)
    np.testing.assert_array_equal(resets[..., 1:], dones[..., :-1])
    np.testing.assert_array_equal(resets[..., 0], last)
    by_time = sequences.resets_from_dones(np.moveaxis(dones, -1, 0), last, time_major=True)
    np.testing.assert_array_equal(by_time, jnp.moveaxis(resets, -1, 0))
    again = sequences.dones_from_resets(resets, dones[..., -1])
    np.testing.assert_array_equal(again, dones)
    by_time = sequences.dones_from_resets(jnp.moveaxis(resets, -1, 0), following, time_major=True)
    np.testing.assert_array_equal(by_time[:-1], np.moveaxis(dones, -1, 0)[:-1])
    np.testing.assert_array_equal(by_time[-1], following)


def test_a_layer_acts_step_by_step():
    layer = seqjax.nn.GRU(3, 4, num_layers=2, rngs=nnx.Rngs(0))
    seen, dones, _ = play(params_of(CELL), 5)
    resets = sequences.resets_from_dones(dones, True)
    whole = layer(seen, resets=resets).outputs
    state = layer(np.ones((3, 2, 3), np.float32)).state  # of episodes that are over
    for t in range(9):
        output, state = layer.step(seen[:, t], state, resets=resets[:, t])
        assert_close(output, whole[:, t], 1e-6, 1e-6)
    with pytest.raises(ValueError, match=r"resets: expected shape \(3,\), got \(3, 9\)"):
        layer.step(seen[:, 0], state, resets=resets)


def test_under_vmap_over_seeds():
    dones = np.random.default_rng(1).random((5, 2, 6)) < 0.4
    last = dones[:, :, 0]
    mapped = jax.jit(jax.vmap(sequences.resets_from_dones))(dones, last)
    np.testing.assert_array_equal(mapped, sequences.resets_from_dones(dones, last))


def test_dones_without_the_shift_change_the_outputs():
    """The mistake that the function prevents is one that shows."""
    params = params_of(CELL)
    seen, dones, acted = play(params, 0)
    outputs = seqjax.unroll(CELL, params, seen, resets=jnp.asarray(dones)).outputs
    assert np.abs(outputs - acted).max() > 0.05


@pytest.mark.parametrize(
    ("dones", "last", "error", "message"),
    [
        (np.zeros((2, 3)), True, TypeError, "dones: expected bool, got dtype float64"),
        (np.zeros((2, 3), bool), 0.0, TypeError, "last_dones: expected bool"),
        (np.zeros((2, 3), bool), np.zeros(3, bool), ValueError, r"expected shape \(2,\) or one"),
        (np.zeros((2, 0), bool), True, ValueError, r"dones: expected \[..., T\] with at least one"),
        (True, True, ValueError, r"dones: expected \[..., T\]"),
    ],
)
def test_what_is_refused(dones, last, error, message):
    with pytest.raises(error, match=message):
        sequences.resets_from_dones(dones, last)


def test_the_linen_module_of_a_policy():
    layer = LinenScanned(CELL)
    seen, dones, acted = play(params_of(CELL), 4)
    xs, resets = (
        np.moveaxis(seen, 1, 0),
        sequences.resets_from_dones(dones.T, True, time_major=True),
    )
    carry = layer.initialize_carry(3)
    variables = layer.init(jax.random.key(0), carry, (xs, resets))
    assert sorted(variables["params"]) == ["b", "b_hn", "w_hh", "w_ih"]
    given = {"params": params_of(CELL)._asdict()}
    carry, ys = layer.apply(given, carry, (xs, resets))
    assert_close(np.moveaxis(np.asarray(ys), 0, 1), acted, 1e-6, 1e-6)
    assert carry.shape == (3, 4)
    by_row = LinenScanned(CELL, time_major=False)
    _, ys = by_row.apply(given, by_row.initialize_carry(3), (seen, resets.T))
    assert_close(ys, acted, 1e-6, 1e-6)
