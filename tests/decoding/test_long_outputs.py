"""Totals of long outputs, and close races, against float64; scores of any magnitude."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding import beam_search, greedy, sample, score

STEPS = 100_000
LOGITS = np.random.default_rng(0).normal(size=(97, 3)).astype(np.float32) * 2
LOGITS[:, 0] = -30.0  # the end token


def step(tokens, state):
    return jnp.asarray(LOGITS)[state % 97], state + 1


def gains():
    z = LOGITS.astype(np.float64)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def test_a_long_total_is_that_of_float64():
    start = jnp.zeros(1, jnp.int32)
    options: Any = {"begin": 1, "end": 0}
    wanted = np.resize(gains().max(axis=1), STEPS).sum()
    decoded = jax.jit(lambda s: greedy(step, s, **options, max_length=STEPS))(start)
    assert abs(decoded.log_probs[0, 0] / wanted - 1) < 2e-7
    scored = jax.jit(lambda t, n: score(step, start, t, lengths=n, **options))(
        decoded.tokens[:, 0], decoded.lengths[:, 0]
    )
    assert abs(scored.log_probs[0] / wanted - 1) < 2e-7
    drawn = jax.jit(lambda key: sample(step, start, key, **options, max_length=STEPS))(
        jax.random.key(0)
    )
    tokens = np.asarray(drawn.tokens[0, 0])
    wanted = gains()[np.arange(STEPS) % 97, tokens].sum()
    assert abs(drawn.log_probs[0, 0] / wanted - 1) < 2e-7


@pytest.mark.quick("1.0")
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_close_race_after_a_large_total(alpha):
    """Two outputs whose totals near -2e6 differ by less than a float32 there can tell."""
    steps, large = 6, -4e5

    def raced(tokens, state):
        t = state
        first = jnp.array([[-jnp.inf, 0.0, -1e-3, -jnp.inf]])  # two ways, 0.001 apart
        # Log-probabilities that only fall: all of the rest goes to a token that is ruled out later.
        low = jnp.array([[-jnp.inf, large, -jnp.inf, 0.0]])
        end = jnp.array([[0.0, -jnp.inf, -jnp.inf, -jnp.inf]])
        logits = jnp.where((t == steps - 2)[:, None], first, low)
        logits = jnp.where((t == steps - 1)[:, None], end, logits)
        return logits, t + 1

    prefix = np.full((1, steps - 2), 1)
    decoded = jax.jit(
        lambda s: beam_search(
            raced, s, begin=1, end=0, max_length=steps, beam_width=2, n_best=2, prefix=prefix,
            length_penalty=alpha,
        )
    )(jnp.zeros(1, jnp.int32))  # fmt: skip
    assert decoded.tokens[0, :, steps - 2].tolist() == [1, 2]
    np.testing.assert_allclose(decoded.log_probs[0], large * (steps - 2), rtol=1e-6)


def test_outputs_of_different_lengths_race_closely():
    """Log p / lp of a short and a long output, equal in float32 and different in float64."""
    alpha, steps = 1.0, 6
    lp = lambda n: ((5 + n) / 6) ** alpha  # noqa: E731

    @jax.jit
    def search(large, rest):
        """Outputs of 2 and of 5 tokens; all but them leads nowhere."""

        def raced(tokens, state):
            t = state[:, None]
            opening = jnp.array([[-jnp.inf, 0.0, 0.0]]).at[0, 1].set(large)
            choice = jnp.array([[0.0, 0.0, -jnp.inf]])  # end or go on, equally probable
            falling = jnp.array([[-jnp.inf, 0.0, 0.0]]).at[0, 1].set(rest)
            logits = jnp.where(t == 0, opening, jnp.array([[-jnp.inf, 0.0, -jnp.inf]]))
            logits = jnp.where(t == 1, choice, logits)
            logits = jnp.where(t == 2, falling, logits)
            logits = jnp.where(t == 4, jnp.array([[0.0, -jnp.inf, -jnp.inf]]), logits)
            return jnp.where((tokens == 2)[:, None], -jnp.inf, logits), state + 1

        return beam_search(
            raced, jnp.zeros(1, jnp.int32), begin=1, end=0, max_length=steps, beam_width=3,
            n_best=2, length_penalty=alpha,
        )  # fmt: skip

    winners = set()
    for large in -np.linspace(7e5, 1.3e6, 20).round().astype(np.float32):
        short = np.float64(large) - np.log(2)
        rest = np.float32(short * (lp(5) / lp(2) - 1))
        exact_short, exact_long = short / lp(2), (short + np.float64(rest)) / lp(5)
        assert 1e-6 < abs(exact_long - exact_short) < 0.06  # the steps of float32 there
        winner = 5 if exact_long > exact_short else 2
        assert int(search(large, rest).lengths[0, 0]) + 1 == winner
        winners.add(winner)
    assert winners == {2, 5}


@pytest.mark.quick()
@pytest.mark.parametrize("scale", [1e6, 1e35])
def test_logits_of_any_magnitude(scale):
    table = jnp.array([[-jnp.inf, 0.0, 1.0], [0.5, -1.0, -jnp.inf], [0.0, -2.0, -3.0]]) * scale

    def huge(tokens, state):
        return table[tokens], state

    start = jnp.zeros((1, 1))
    for decoder in (greedy, beam_search):
        decoded = jax.jit(lambda d=decoder: d(huge, start, begin=0, end=0, max_length=4))()
        assert decoded.tokens[0, 0].tolist() == [2, 0, 0, 0] and decoded.log_probs[0, 0] == 0.0
    prefix = np.array([[1]])
    drawn = jax.jit(
        lambda key: sample(
            huge, start, key, begin=0, end=0, max_length=4, temperature=1e-6, prefix=prefix
        )
    )(jax.random.key(0))
    assert drawn.tokens[0, 0].tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(drawn.log_probs[0, 0], -scale, rtol=1e-6)
    with pytest.raises(ValueError, match="temperature: expected a finite number of at least"):
        sample(huge, start, jax.random.key(0), begin=0, end=0, max_length=4, temperature=1e-40)

    def loss(table, tokens):
        step = lambda tokens, state: (table[tokens], state)  # noqa: E731
        return score(step, start, tokens, lengths=[1], begin=0, end=0).log_probs.sum()

    slopes = jax.jit(jax.value_and_grad(loss))
    value, slope = slopes(table, jnp.array([[1, 0]]))
    np.testing.assert_allclose(value, -scale, rtol=1e-6)
    assert np.isfinite(slope).all()
    impossible, slope = slopes(table, jnp.array([[0, 0]]))
    assert np.isneginf(impossible) and np.isfinite(slope).all()
