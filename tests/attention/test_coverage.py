"""The coverage loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.attention import Coverage, coverage_loss
from tests.attention.cases import CASES, MASK, M, Q, attend_steps, inputs_of, params_of
from tests.cases import assert_close


def test_equals_a_loop():
    rng = np.random.default_rng(0)
    weights, coverage = rng.random((2, 3, 5)), rng.random((2, 3, 5))
    want = np.zeros((2, 3))
    for i in range(2):
        for j in range(3):
            want[i, j] = sum(min(a, c) for a, c in zip(weights[i, j], coverage[i, j], strict=True))
    assert_close(coverage_loss(weights, coverage), want)


def test_is_bounded_and_trains_through_steps():
    case = CASES["coverage"]
    queries, memory = inputs_of(case)

    def loss(params):
        _, weights, states = attend_steps(case.attention, params, queries, memory, MASK)
        before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
        return coverage_loss(weights, before)

    params = params_of(case.attention)
    each = np.asarray(loss(params))
    assert (each[0] == 0).all(), "nothing is covered before the first step"
    assert (each[1:, MASK.any(-1)] > 0).all()
    assert (each <= 1 + 1e-6).all()
    assert (each[:, ~MASK.any(-1)] == 0).all()
    gradient = jax.grad(lambda p: loss(p).sum())(params)
    assert float(jnp.abs(gradient.w_c).max()) > 0


def test_a_negative_weight_of_coverage_moves_attention_on():
    """With w_c < 0 attention goes to what has not been covered."""
    attention = Coverage(Q, M, units=1)
    params = params_of(attention)._replace(
        v=jnp.ones(1) * 20, w_c=-jnp.ones(1), w_m=jnp.zeros((M, 1)), b=jnp.zeros(1)
    )
    memory = attention.precompute(params, jnp.zeros([3, M]))
    state = jnp.array([1.0, 1.0, 0.0])
    weights = attention.attend(params, jnp.zeros(Q), memory, state).weights
    assert_close(weights, np.array([0.0, 0.0, 1.0]), 1e-5)


@pytest.mark.parametrize(
    "weights, coverage, error, name",
    [
        (np.ones((2, 3)), np.ones(3), ValueError, "coverage"),
        (np.ones(3, int), np.ones(3), TypeError, "weights"),
        (np.ones(3), np.ones(3, bool), TypeError, "coverage"),
        (np.float32(1), np.float32(1), ValueError, "weights"),
    ],
)
def test_bad_arguments(weights, coverage, error, name):
    with pytest.raises(error, match=f"^{name}: expected"):
        coverage_loss(weights, coverage)
