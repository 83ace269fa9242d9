"""Sampling: frequencies against the model's probabilities, and its limits, which are greedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.decoding import greedy, sample
from seqjax.decoding._sampling import _nucleus
from tests.decoding.helpers import (
    END,
    Oracle,
    Rules,
    decode,
    every_output,
    make_toy,
    rows,
    weights_of,
)

B, DRAWS = 3, 4000
KEY = jax.random.key(7)
NUCLEUS = jax.jit(_nucleus)
seeds = st.integers(0, 2**20)

# The 0.001 quantiles of χ² by degrees of freedom.
CHI2 = {1: 10.8, 2: 13.8, 3: 16.3, 14: 36.1}

P = np.array([0.1, 0.2, 0.3, 0.4])


def chi2(counts, p):
    return ((counts - counts.sum() * p) ** 2 / (counts.sum() * p)).sum()


def one_step(p, **options):
    """Counts of tokens drawn in one step from probabilities p."""
    logits = jnp.log(jnp.asarray(p, jnp.float32))
    step = lambda tokens, state: (jnp.tile(logits[None], (len(tokens), 1)), state)  # noqa: E731
    decoded = sample(
        step, (), KEY, begin=np.array([0]), end=0, max_length=1, num_samples=DRAWS, **options
    )
    return np.bincount(np.asarray(decoded.tokens).ravel(), minlength=len(p)), decoded


@pytest.mark.quick("{}-*", "{'temperature': 0.5, 'top_p': 0.8}-*")
@pytest.mark.parametrize(
    ("options", "q"),
    [
        ({}, P),
        ({"temperature": 0.5}, P**2),
        ({"temperature": 3.0}, P ** (1 / 3)),
        ({"top_k": 2}, P * [0, 0, 1, 1]),
        ({"top_k": 9}, P),
        ({"top_p": 0.75}, P * [0, 1, 1, 1]),
        ({"top_p": 0.65}, P * [0, 0, 1, 1]),
        ({"top_p": 1.0}, P),
        # Of the two most probable, the first alone is 4/7.
        ({"top_k": 2, "top_p": 0.55}, P * [0, 0, 0, 1]),
        ({"temperature": 0.5, "top_p": 0.8}, P**2 * [0, 0, 1, 1]),
    ],
    ids=str,
)
def test_frequencies(options, q):
    counts, decoded = one_step(P, **options)
    drawn = q > 0
    assert (counts[~drawn] == 0).all()
    if drawn.sum() > 1:
        assert chi2(counts[drawn], q[drawn] / q.sum()) < CHI2[drawn.sum() - 1]
    # What is returned is the model's own log-probability.
    expected = np.log(P)[np.asarray(decoded.tokens)[0, :, 0]]
    np.testing.assert_allclose(decoded.log_probs[0], expected, rtol=1e-5)


def test_order_of_the_vocabulary_does_not_matter():
    counts, _ = one_step(P[[2, 0, 3, 1]], top_p=0.65)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert chi2(counts[[0, 2]], np.array([3, 4]) / 7) < CHI2[1]


def test_frequencies_of_whole_outputs():
    toy = make_toy(1)
    decoded = decode(toy, sample, key=KEY, max_length=2, num_samples=DRAWS)
    for b in range(B):
        outputs = every_output(Oracle(toy, b), Rules(max_length=2))
        likely = [output for output in outputs if np.exp(output.log_prob) * DRAWS > 5]
        names = [(output.tokens + (END,))[:2] for output in likely]
        drawn = [tuple(tokens) for tokens in decoded.tokens[b].tolist()]
        counts = np.array([drawn.count(name) for name in names])
        p = np.exp([output.log_prob for output in likely])
        rest = np.array([DRAWS - counts.sum()]), np.array([1 - p.sum()])
        if rest[1] * DRAWS > 5:
            counts, p = np.concatenate([counts, rest[0]]), np.concatenate([p, rest[1]])
        assert chi2(counts, p / p.sum()) < CHI2[14]  # at most 13 outputs


@pytest.mark.quick()
@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}], ids=str)
@given(seed=seeds)
def test_limits_are_greedy(options, seed):
    toy = make_toy(seed)
    drawn = decode(toy, sample, key=KEY, alignment=weights_of, **options)
    walked = decode(toy, greedy, alignment=weights_of)
    for got, expected in zip(drawn, walked, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_of_equals_the_first_is_kept():
    for options in ({"top_k": 1}, {"top_p": 0.3}):
        counts, _ = one_step([0.2, 0.4, 0.4], **options)
        assert counts.tolist() == [0, DRAWS, 0]


@given(seed=seeds, top_p=st.floats(1e-6, 1.0), ties=st.booleans())
def test_the_nucleus_is_the_head_of_the_sorted_vocabulary(seed, top_p, ties):
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 4, 30) * 1.0 if ties else rng.exponential(size=30) ** 3
    p[0] = 1.0
    p /= p.sum()
    with np.errstate(divide="ignore"):
        kept = np.asarray(NUCLEUS(jnp.asarray(np.log(p)[None], jnp.float32), top_p))[0]
    order = np.argsort(-p, kind="stable")
    total = np.cumsum(p[order])
    least = np.searchsorted(total, top_p - 1e-5) + 1  # give or take rounding
    most = np.searchsorted(total, top_p + 1e-5) + 1
    assert least <= kept.sum() <= most or (top_p > 1 - 1e-5 and kept[p > 0].all())
    assert kept[order[: kept.sum()]].all()


@pytest.mark.quick()
def test_samples_do_not_depend_on_how_many_there_are():
    toy = make_toy(2)
    options = {"key": KEY, "alignment": weights_of}
    many = decode(toy, sample, num_samples=5, **options)
    few = decode(rows(toy, [0, 1]), sample, num_samples=3, **options)
    for got, expected in zip(few, many, strict=True):
        np.testing.assert_allclose(got, expected[:2, :3], rtol=1e-5, atol=1e-6)
    assert len({tuple(tokens) for tokens in many.tokens.reshape(15, -1).tolist()}) > 5
    other = decode(toy, sample, key=jax.random.key(8), num_samples=5, alignment=weights_of)
    assert (other.tokens != many.tokens).any()


@pytest.mark.quick()
def test_equal_sentences_are_drawn_independently():
    toy = rows(make_toy(2), [0] * 40)
    decoded = decode(toy, sample, key=KEY)
    assert len({tuple(tokens) for tokens in decoded.tokens[:, 0].tolist()}) > 5


@pytest.mark.quick()
def test_raw_keys():
    toy = make_toy(2)
    raw = decode(toy, sample, key=jax.random.PRNGKey(7), num_samples=2)
    typed = decode(toy, sample, key=KEY, num_samples=2)
    np.testing.assert_array_equal(raw.tokens, typed.tokens)


def test_rules_hold_for_samples():
    toy = make_toy(2, bias=1.0)
    arrays = {"prefix": np.array([[3], [2], [1]])}
    decoded = decode(toy, sample, key=KEY, num_samples=50, min_length=2, arrays=arrays)
    assert (decoded.lengths >= 2).all() and (decoded.lengths == 2).any()
    assert (decoded.tokens[..., 0] == arrays["prefix"]).all()
