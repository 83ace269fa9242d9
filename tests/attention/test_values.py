"""Values of every mechanism against its NumPy twin, and what holds for all weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import attention as attentions
from seqjax.attention import ATTENTIONS
from tests.attention import references
from tests.attention.cases import (
    CASES,
    MASK,
    M,
    Q,
    all_cases,
    inputs_of,
    params_of,
    reference,
    registered,
    run,
)
from tests.cases import assert_close


@pytest.mark.quick(
    "additive",
    "normed_additive",
    "dot",
    "scaled_dot",
    "general",
    "concat",
    "location_aware",
    "coverage",
    "local_p",
    "monotonic",
    "mocha",
    "multi_head",
)
@all_cases
def test_equals_the_numpy_twin(case):
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    got = run(case.attention, params, queries, memory, MASK)
    assert_close(got, reference(case, params, queries, memory, MASK), 3e-6, 3e-6)


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_equals_the_numpy_twin_in_float64(case, x64):
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params_of(case.attention))
    queries, memory = (a.astype(np.float64) for a in inputs_of(case))
    got = run(case.attention, params, queries, memory, MASK)
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(got))
    assert_close(got, reference(case, params, queries, memory, MASK), 1e-12, 1e-12)


@registered
def test_no_mask_means_that_all_is_real(case):
    attention, params = case.attention, params_of(case.attention)
    _, memory = inputs_of(case)
    got = attention.precompute(params, memory)
    assert_close(got, attention.precompute(params, memory, mask=np.ones_like(MASK)), 0, 0)
    assert got.mask.all()


@registered
def test_lengths_stand_for_a_mask(case):
    attention, params = case.attention, params_of(case.attention)
    _, memory = inputs_of(case)
    lengths = np.arange(MASK.shape[0]) % (MASK.shape[1] + 1)
    mask = np.arange(MASK.shape[1]) < lengths[:, None]
    got = attention.precompute(params, memory, lengths=lengths)
    assert_close(got, attention.precompute(params, memory, mask=mask), 0, 0)
    np.testing.assert_array_equal(got.mask, mask)


@all_cases
def test_weights_are_zero_at_masked_positions_and_at_most_one(case):
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    contexts, weights, _ = run(case.attention, params, queries, memory, MASK)
    weights = np.asarray(weights)
    assert (weights >= 0).all()
    assert (weights[:, ~MASK] == 0).all()
    assert (weights.sum(-1) <= 1 + 1e-6).all()
    nothing_real = ~MASK.any(-1)
    assert (np.asarray(contexts)[:, nothing_real] == 0).all()
    if case.name not in ("local_p", "monotonic", "mocha"):
        np.testing.assert_allclose(weights.sum(-1)[:, ~nothing_real], 1, rtol=1e-6)


def test_registry_and_twins_are_of_one_mind():
    assert set(ATTENTIONS) == set(references.TWINS)


@registered
def test_equal_configurations_are_equal(case):
    again = type(case.attention)(query_size=case.query_size, memory_size=M)
    assert again == case.attention
    assert hash(again) == hash(case.attention)
    assert again != type(case.attention)(query_size=M + 1, memory_size=M + 1)


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_init(case):
    attention = case.attention
    half = jax.eval_shape(lambda key: attention.init(key, jnp.bfloat16), jax.random.key(0))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(half))
    params, other = map(attention.init, jax.random.split(jax.random.key(0)))
    assert params._fields == other._fields
    matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    others = [leaf for leaf in jax.tree.leaves(other) if leaf.ndim == 2]
    for i, (a, b) in enumerate(zip(matrices, others, strict=True)):
        assert (a != b).any(), "drawn from the key"
        for c in matrices[:i]:
            assert a.shape != c.shape or (a != c).any(), "each from a key of its own"


def test_initial_values():
    key = jax.random.key(0)
    assert (attentions.Additive(Q, M).init(key).b == 0).all()
    assert attentions.NormedAdditive(Q, M, units=4).init(key).g == 0.5
    assert attentions.Monotonic(Q, M).init(key).r == -4
    assert attentions.Monotonic(Q, M, score_bias_init=1).init(key).r == 1
    assert attentions.MoChA(Q, M).init(key).monotonic.r == -4
    ones = attentions.Concat(Q, M, kernel_init="ones").init(key)
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(ones))
    uniform = attentions.General(Q, M, kernel_init="torch_uniform").init(key)
    assert jnp.abs(uniform.w).max() <= Q**-0.5


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e30, 3e38])
def test_softmax_of_extreme_scores(scale):
    scores = jnp.array([[-scale, scale, 0.0], [-scale, -scale, scale], [scale, -scale, -scale]])
    scores = jnp.concatenate([scores, jnp.full((1, 3), scale)])
    mask = jnp.array([[True, False, True], [True, True, False], [False, True, True], [False] * 3])
    want = [[0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0]]

    def weights_of(scores):
        """The weights of given scores: those of a query of one and keys of one feature."""
        dot = attentions.Dot(1, 1)
        memory = dot.precompute((), scores[..., None], mask=mask)
        query = jnp.ones((*scores.shape[:-1], 1))
        return dot.attend((), query, memory, dot.initial_state(memory)).weights

    total, gradient = jax.value_and_grad(lambda s: (weights_of(s) ** 2).sum())(scores)
    assert np.isfinite(total)
    assert np.isfinite(gradient).all()
    assert_close(weights_of(scores), np.array(want))


def test_temperature_divides_scores():
    """At a high temperature all real positions weigh the same; at a low one the best has all."""
    base = CASES["general"]
    params, (queries, memory) = params_of(base.attention), inputs_of(base)
    hot, cold = (type(base.attention)(Q, M, temperature=t) for t in (1e6, 1e-4))
    real = MASK[-2]
    _, weights, _ = run(hot, params, queries, memory, MASK)
    assert_close(weights[0, -2], real / real.sum(), 1e-5)
    _, weights, _ = run(cold, params, queries, memory, MASK)
    _, plain, _ = run(base.attention, params, queries, memory, MASK)
    assert_close(weights[0, -2], np.eye(len(real))[np.argmax(plain[0, -2])], 1e-5)
