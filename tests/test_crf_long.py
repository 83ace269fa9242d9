"""Chains of many steps, several best taggings and partial labels, against float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax import crf
from tests.test_crf import C, draw, score

STEPS = 100_000
LOG_Z, LOG_P = jax.jit(crf.log_partition), jax.jit(crf.log_likelihood)
DECODE, MARGINALS = jax.jit(crf.decode, static_argnames="n_best"), jax.jit(crf.marginals)
TOTAL = jax.jit(
    jax.value_and_grad(lambda e, t, y: crf.log_likelihood(e, y, t).sum(), argnums=(0, 1))
)
FREE = np.zeros((2, 2), np.float32)
ONE_WAY = np.array([[0, 0], [-np.inf, 0]], np.float32)
APART = np.array([[0, -np.inf], [-np.inf, 0]], np.float32)


def log_sum(x, axis):
    top = x.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return (np.log(np.exp(x - top).sum(axis, keepdims=True)) + top).squeeze(axis)


def alphas(emissions, transitions):
    """The forward recursion in float64, at each step."""
    alpha, transitions = emissions[0].astype(np.float64), transitions.astype(np.float64)
    found = [alpha]
    for emission in emissions[1:]:
        alpha = log_sum(alpha[:, None] + transitions, 0) + emission
        found.append(alpha)
    return np.array(found)


def viterbi(emissions, transitions):
    best, origins = emissions[0].astype(np.float64), []
    for emission in emissions[1:]:
        ways = best[:, None] + transitions.astype(np.float64)
        origins.append(ways.argmax(0))
        best = ways.max(0) + emission
    tags = [int(best.argmax())]
    for origin in reversed(origins):
        tags.append(int(origin[tags[-1]]))
    return best.max(), np.array(tags[::-1])


@pytest.mark.parametrize(
    ("scale", "transitions"),
    [
        (0.0, FREE),
        (30.0, ONE_WAY),
        *(
            pytest.param(scale, transitions, marks=pytest.mark.slow)
            for scale, transitions in [
                (0.0, ONE_WAY),
                (0.0, APART),
                (0.0, FREE - 2.5),
                (30.0, FREE),
                (30.0, APART),
                (30.0, FREE - 2.5),
            ]
        ),
    ],
    ids=str,
)
@pytest.mark.slow
def test_hundred_thousand_steps(scale, transitions):
    """Every function against float64 loops of the same recursion."""
    rng = np.random.default_rng(0)
    emissions = (scale * rng.normal(size=(STEPS, 2)) + 0.1).astype(np.float32)
    forward = alphas(emissions, transitions)
    backward = alphas(emissions[::-1], transitions.T)[::-1]
    log_z = log_sum(forward[-1], 0)
    np.testing.assert_allclose(LOG_Z(emissions, transitions), log_z, rtol=1e-6)
    most, tags = viterbi(emissions, transitions)
    found = DECODE(emissions, transitions)
    np.testing.assert_allclose(found.scores, most, rtol=1e-6)
    np.testing.assert_array_equal(found.tags, tags)
    shares = np.exp(forward + backward - emissions - log_z)
    # Both recursions end at log Z, in float64 up to 1e-16 of a large number.
    np.testing.assert_allclose(MARGINALS(emissions, transitions), shares, atol=1e-6, rtol=1e-5)
    log_p = float(LOG_P(emissions, tags, transitions))
    assert log_p <= 0
    np.testing.assert_allclose(log_p, most - log_z, rtol=1e-5, atol=1e-8 * abs(log_z) + 1e-12)


@pytest.mark.quick()
def test_known_values():
    """Chains whose Z is known without a recursion."""
    zeros = np.zeros((STEPS, 2), np.float32)
    np.testing.assert_allclose(LOG_Z(zeros, FREE), STEPS * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(LOG_Z(zeros, ONE_WAY), np.log(STEPS + 1), rtol=1e-6)
    np.testing.assert_allclose(LOG_Z(zeros, APART), np.log(2), rtol=1e-6)
    # Of the T + 1 taggings of the one-way chain, t + 1 have tag 1 at step t (from 0).
    shares = (np.arange(STEPS) + 1) / (STEPS + 1)
    np.testing.assert_allclose(MARGINALS(zeros, ONE_WAY)[:, 1], shares, rtol=1e-5)
    # Almost all of the probability: log p = -T log(1 + 3 exp(-20)), which is -6e-4.
    sure = np.zeros((STEPS, 4), np.float32)
    sure[:, 2] = 20
    log_p = LOG_P(sure, np.full(STEPS, 2), np.zeros((4, 4), np.float32))
    np.testing.assert_allclose(log_p, -STEPS * np.log1p(3 * np.exp(-20.0)), rtol=1e-5)
    allowed = np.zeros((STEPS, 4), bool)
    allowed[:, 1:3] = True
    log_p = LOG_P(zeros.repeat(2, axis=1), allowed, np.zeros((4, 4), np.float32))
    np.testing.assert_allclose(log_p, -STEPS * np.log(2), rtol=1e-6)


@pytest.mark.quick()
def test_long_gradients_are_finite_and_right():
    """The gradient of log Z sums to one at each step, whatever is forbidden."""
    emissions = np.random.default_rng(1).normal(size=(STEPS, 2)).astype(np.float32)
    for transitions in (FREE, ONE_WAY, APART):
        slopes, others = jax.jit(jax.grad(crf.log_partition, (0, 1)))(emissions, transitions)
        np.testing.assert_allclose(slopes.sum(-1), 1.0, atol=1e-3)
        assert np.isfinite(others).all() and not others[np.isinf(transitions)].any()
        np.testing.assert_allclose(others.sum(), STEPS - 1, rtol=1e-3)


@pytest.mark.quick()
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e5, 1e30]),
    forbidden=st.floats(0, 0.7),
)
def test_no_probability_above_one(seed, scale, forbidden):
    """Taggings of any confidence: log p ≤ 0, nothing forbidden, finite gradients."""
    rng = np.random.default_rng(seed)
    emissions = (scale * rng.normal(size=(2, 6, C))).astype(np.float32)
    transitions = (scale * rng.normal(size=(C, C))).astype(np.float32)
    transitions[rng.random((C, C)) < forbidden] = -np.inf
    decoded = DECODE(emissions, transitions)
    best = np.asarray(decoded.tags)
    possible = np.asarray(decoded.scores) > -np.inf
    taken = transitions[best[:, :-1], best[:, 1:]]
    assert (taken[possible] > -np.inf).all()
    value, slopes = TOTAL(emissions, transitions, best)
    assert value <= 0 and (value > -np.inf) == possible.all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    shares = np.asarray(MARGINALS(emissions, transitions))
    np.testing.assert_allclose(shares.sum(-1), possible[:, None] * np.ones(6), atol=1e-5)


@pytest.mark.quick()
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), number=st.sampled_from([1, 2, 5, 40]))
def test_several_best(seed, number):
    """Against all taggings, sorted; sequences of 0 to 3 real steps with holes."""
    rng, emissions, _, scores = draw(seed, batch=3, steps=4)
    scores["transitions"][0, 1] = -np.inf
    mask = rng.random((3, 4)) < 0.6
    found = DECODE(emissions, **scores, mask=mask, n_best=number)
    assert found.tags.shape == (3, number, 4) and found.scores.shape == (3, number)
    for b in range(3):
        real = emissions[b, mask[b]]
        paths = itertools.product(range(C), repeat=len(real))
        ranked = sorted(((score(real, p, **scores), p) for p in paths), reverse=True)
        ranked = [(s, p) for s, p in ranked if s > -np.inf][:number]
        got = np.asarray(found.scores[b])
        np.testing.assert_allclose(got[: len(ranked)], [s for s, _ in ranked], rtol=1e-5, atol=1e-5)
        assert (got[len(ranked) :] == -np.inf).all()
        tags = [tuple(y) for y in np.asarray(found.tags[b])[:, mask[b]].tolist()]
        assert tags[: len(ranked)] == [p for _, p in ranked]
        assert (np.asarray(found.tags[b])[:, ~mask[b]] == 0).all()


@pytest.mark.quick()
def test_several_best_of_equals_and_mistakes():
    found = DECODE(np.zeros((3, 2), np.float32), FREE, n_best=3)
    assert found.tags.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    one = DECODE(np.zeros((3, 2), np.float32), FREE, n_best=1)
    assert one.tags.tolist() == [[0, 0, 0]] and one.scores.shape == (1,)
    with pytest.raises(ValueError, match="n_best: expected a positive integer, got 0"):
        crf.decode(np.zeros((3, 2), np.float32), FREE, n_best=0)
    module = crf.CRF(2)
    assert module.decode(jnp.zeros((5, 3, 2)), n_best=4).tags.shape == (5, 4, 3)


@pytest.mark.quick()
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_partial_labels(seed):
    """Against the sum over all taggings that are allowed; all tags known is the usual form."""
    rng, emissions, tags, scores = draw(seed, batch=3, steps=4)
    allowed = rng.random((3, 4, C)) < 0.5
    np.put_along_axis(allowed, tags[..., None], True, axis=-1)
    mask = np.arange(4) < rng.integers(0, 5, 3)[:, None]
    found = LOG_P(emissions, allowed, **scores, mask=mask)
    for b in range(3):
        real, sets = emissions[b, mask[b]], allowed[b, mask[b]]
        paths = list(itertools.product(range(C), repeat=len(real)))
        s = np.array([score(real, p, **scores) for p in paths])
        inside = [all(sets[t, tag] for t, tag in enumerate(p)) for p in paths]
        expected = np.log(np.exp(s[inside]).sum() / np.exp(s).sum())
        np.testing.assert_allclose(found[b], expected, rtol=1e-5, atol=2e-5)
    known = np.eye(C, dtype=bool)[tags]
    full, usual = (LOG_P(emissions, y, **scores, mask=mask) for y in (known, tags))
    np.testing.assert_allclose(full, usual, rtol=1e-5, atol=1e-5)


@pytest.mark.quick()
def test_partial_labels_in_padding_and_mistakes():
    _, emissions, tags, scores = draw(0)
    known = np.eye(C, dtype=bool)[tags]
    lengths = np.array([5, 3, 1, 0])
    usual = LOG_P(emissions, known, **scores, lengths=lengths)
    known[np.arange(5) >= lengths[:, None]] = False
    np.testing.assert_array_equal(LOG_P(emissions, known, **scores, lengths=lengths), usual)
    with pytest.raises(ValueError, match="tags: expected at least one allowed tag at each real"):
        crf.log_likelihood(emissions, known, **scores)
    assert LOG_P(emissions, known, **scores)[3] == -np.inf
    with pytest.raises(ValueError, match=r"tags: expected shape \(4, 5, 3\), got \(4, 5\)"):
        crf.log_likelihood(emissions, known[..., 0], **scores)
    slope = jax.grad(
        lambda e: crf.log_likelihood(e, jnp.asarray(known), **scores, lengths=lengths).sum()
    )
    assert np.isfinite(slope(jnp.asarray(emissions))).all()


@pytest.mark.quick()
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), size=st.sampled_from([1e4, 1e6, 1e9]))
def test_small_differences_of_large_scores(seed, size):
    """Scores of integers and a large number that cancels, against the same chain without it."""
    rng = np.random.default_rng(seed)
    shapes = {"emissions": (4, C), "transitions": (C, C), "start": (C,), "end": (C,)}
    small = {name: rng.integers(-3, 4, shape).astype(np.float32) for name, shape in shapes.items()}
    tags = rng.integers(0, C, 4)
    for name in shapes:
        # One part is large and the same for all tags: only the others make a difference.
        large = small | {name: np.full_like(small[name], -size)}
        plain = small | {name: np.zeros_like(small[name])}
        log_p, expected = (LOG_P(tags=tags, **scores) for scores in (large, plain))
        np.testing.assert_allclose(log_p, expected, rtol=1e-5, atol=1e-5)
        shares, expected = (MARGINALS(**scores) for scores in (large, plain))
        np.testing.assert_allclose(shares, expected, atol=1e-5)
        for number in (None, 3):
            found, expected = (DECODE(**scores, n_best=number).tags for scores in (large, plain))
            np.testing.assert_array_equal(found, expected)


@pytest.mark.quick()
def test_large_scores_of_known_value():
    emissions = np.array([[0, 0], [1e8, 1e8]], np.float32)
    transitions = np.array([[0, 1], [2, 0]], np.float32)
    assert DECODE(emissions, transitions).tags.tolist() == [1, 0]
    ways = np.exp(np.array([[0.0, 1.0], [2.0, 0.0]]))
    log_p = LOG_P(emissions, np.array([1, 0]), transitions)
    np.testing.assert_allclose(log_p, np.log(ways[1, 0] / ways.sum()), rtol=1e-5)
    slope = jax.jit(jax.grad(lambda t: crf.log_partition(emissions, t)))(transitions)
    np.testing.assert_allclose(slope, ways / ways.sum(), rtol=1e-5)


@pytest.mark.quick("None", "3")
@pytest.mark.parametrize("number", [None, 1, 2, 3])
def test_no_answer_hides_a_nan(number):
    emissions = np.array([[np.nan, 0], [0, 1]], np.float32)
    scores = np.ravel(DECODE(emissions, FREE, n_best=number).scores)
    assert np.isnan(scores[0]) and np.isnan(LOG_Z(emissions, FREE))
