"""Scores of given outputs against a loop; their gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding import score
from tests.decoding.helpers import (
    BEGIN,
    END,
    B,
    L,
    Oracle,
    initial,
    make_toy,
    score_toy,
    step_of,
)


def test_score_is_a_loop():
    toy = make_toy(4)
    tokens = np.array([[1, 2, 3, 1], [3, -1, 99, 7], [0, 1, 2, 0]])  # an end token may stand inside
    lengths = np.array([4, 1, 3])
    scored = score(step_of(toy), initial(toy), tokens, lengths=lengths, begin=BEGIN, end=END)
    for b in range(B):
        output = (*tokens[b, : lengths[b]].tolist(), *([END] if lengths[b] < L else []))
        oracle = Oracle(toy, b)
        gains = [oracle(output[:j])[0][token] for j, token in enumerate(output)]
        np.testing.assert_allclose(scored.log_probs[b], sum(gains), rtol=1e-5)
        expected = gains + [0.0] * (L - len(gains))
        np.testing.assert_allclose(scored.token_log_probs[b], expected, rtol=1e-5)


def test_score_of_several_is_the_score_of_each():
    toy = make_toy(4)
    tokens = np.random.default_rng(0).integers(0, 4, (B, 2, L))
    lengths = np.array([[4, 1], [3, 0], [2, 2]])
    both = score_toy(toy, tokens, lengths)
    for k in range(2):
        one = score_toy(toy, tokens[:, k], lengths[:, k])
        np.testing.assert_allclose(both.log_probs[:, k], one.log_probs, rtol=1e-6)
        np.testing.assert_allclose(both.token_log_probs[:, k], one.token_log_probs, rtol=1e-6)


def test_without_lengths_all_slots_are_tokens():
    toy, tokens = make_toy(4), np.random.default_rng(0).integers(0, 4, (B, 2, L))
    state = initial(toy)
    found = score(step_of(toy), state, tokens, begin=BEGIN, end=END)
    want = score_toy(toy, tokens, np.full((B, 2), L))
    np.testing.assert_array_equal(found.token_log_probs, want.token_log_probs)


@pytest.mark.quick()
def test_score_has_a_gradient():
    toy, lengths = make_toy(4), jnp.array([2, 3, 4])
    tokens = jnp.array([[1, 2, 0, 0], [3, 2, 1, 0], [1, 1, 2, 3]])

    def loss(out, tokens=tokens):
        step = step_of(toy._replace(out=out))
        return score(
            step, initial(toy), tokens, lengths=lengths, begin=BEGIN, end=END
        ).log_probs.sum()

    slope = jax.grad(loss)(toy.out)
    change = 1e-2
    for index in ((0, 0), (2, 3)):
        up, down = (loss(toy.out.copy() + s * change * _one_hot(index)) for s in (1, -1))
        np.testing.assert_allclose(slope[index], (up - down) / (2 * change), rtol=2e-2, atol=1e-3)
    dirty = jax.grad(loss)(toy.out, tokens.at[0, 2:].set(jnp.array([-1, 99])))
    np.testing.assert_array_equal(dirty, slope)


def _one_hot(index):
    found = np.zeros_like(make_toy().out)
    found[index] = 1.0
    return found


def test_score_of_a_token_that_is_none():
    toy, tokens = make_toy(), np.array([[1, 4], [1, 2], [1, -1]])
    lengths = np.array([2, 2, 1])
    with pytest.raises(ValueError, match=r"tokens: expected values in \[0, 3\] .* got 4"):
        score(step_of(toy), initial(toy), tokens, lengths=lengths, begin=BEGIN, end=END)
    scored = score_toy(toy, tokens, lengths)
    assert np.isnan(scored.log_probs).tolist() == [True, False, False]


def test_tokens_in_bytes():
    def step(tokens, state):
        return jnp.zeros((len(tokens), 256)), state

    for tokens in (jnp.array([[255, 1]], jnp.uint8), jnp.array([[255, 1]])):
        scored = score(step, jnp.zeros((1, 1)), tokens, lengths=[2], begin=0, end=1)
        np.testing.assert_allclose(scored.log_probs, -2 * np.log(256), rtol=1e-6)
