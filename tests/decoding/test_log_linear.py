"""Weighted sums of models in the decoders, against all outputs enumerated in float64."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import decoding

V, L, END, BEGIN = 4, 4, 0, 1


def table(seed):
    """Log p `[previous token, next token]` of a random model without memory."""
    logits = np.random.default_rng(seed).normal(size=(V, V)) * 1.5
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def step_of(log_p):
    return lambda tokens, state: (jnp.asarray(log_p, jnp.float32)[tokens], state)


def every_score(tables, weights, bonus, alpha):
    """The score of all finished outputs of up to L tokens, and of all others of L tokens."""
    found = {}
    for length in range(1, L + 1):
        for output in itertools.product(range(V), repeat=length):
            if END in output[:-1] or (output[-1] != END and length < L):
                continue
            pairs = list(zip((BEGIN, *output[:-1]), output, strict=True))
            sums = [
                w * sum(t[pair] for pair in pairs) for t, w in zip(tables, weights, strict=True)
            ]
            found[output] = (sum(sums) + bonus * length) / ((5 + length) / 6) ** alpha
    return found


@pytest.mark.quick("0.8--0.5")
@pytest.mark.parametrize("bonus", [-0.5, 0.0, 2.5])
@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_beam_search_ranks_by_the_weighted_sum(bonus, alpha):
    tables, weights = [table(0), table(1)], [1.0, 0.6]
    fused = decoding.LogLinear([*map(step_of, tables)], weights, bonus)

    @jax.jit
    def search():
        return decoding.beam_search(
            fused, ((), ()), begin=jnp.array([BEGIN]), end=END, max_length=L, beam_width=V**L,
            n_best=6, length_penalty=alpha,
        )  # fmt: skip

    decoded = jax.device_get(search())
    every = every_score(tables, weights, bonus, alpha)
    for k, score in enumerate(sorted(every.values(), reverse=True)[:6]):
        np.testing.assert_allclose(decoded.scores[0, k], score, rtol=1e-5)
        length = decoded.lengths[0, k] + int(decoded.finished[0, k])
        output = tuple(map(int, decoded.tokens[0, k, :length]))  # one of those of equal score
        np.testing.assert_allclose(every[output], score, rtol=1e-12)


@pytest.mark.quick()
def test_a_narrow_beam_goes_on_while_bonuses_can_win():
    """With a bonus above all costs, the longest output wins, although a short one ends first."""
    log_p = np.log(np.array([[0.25] * 4, [0.9, 0.04, 0.03, 0.03], [0.25] * 4, [0.25] * 4]))
    fused = decoding.LogLinear([step_of(log_p)], length_bonus=4.0)
    decoded = decoding.beam_search(
        fused, ((),), begin=jnp.array([BEGIN]), end=END, max_length=L, beam_width=3
    )
    wanted = max(every_score([log_p], [1.0], 4.0, 0.0).values())
    np.testing.assert_allclose(decoded.scores[0, 0], wanted, rtol=1e-5)


@pytest.mark.quick()
def test_sampling_scoring_and_nesting():
    tables = [table(2), table(3)]
    geometric = decoding.LogLinear([*map(step_of, tables)], [0.5, 0.5])
    nested = decoding.LogLinear([geometric], [2.0], 1.0)
    scores, _ = nested(jnp.array([2]), (((), ()),))
    np.testing.assert_allclose(scores[0], tables[0][2] + tables[1][2] + 1.0, rtol=1e-5)
    assert nested.gain_bound == 1.0
    tokens, lengths = jnp.array([[2, 3, END]]), jnp.array([2])
    scored = decoding.score(
        geometric, ((), ()), tokens, lengths=lengths, begin=jnp.array([BEGIN]), end=END
    )
    pairs = [(BEGIN, 2), (2, 3), (3, END)]
    wanted = sum(0.5 * (tables[0][pair] + tables[1][pair]) for pair in pairs)
    np.testing.assert_allclose(scored.log_probs[0], wanted, rtol=1e-5)
    drawn = decoding.sample(
        geometric, ((), ()), begin=jnp.array([BEGIN]), end=END, max_length=1,
        key=jax.random.key(0), num_samples=4000,
    )  # fmt: skip
    share = np.bincount(np.asarray(drawn.tokens).ravel(), minlength=V) / 4000
    p = np.exp(0.5 * (tables[0][BEGIN] + tables[1][BEGIN]))
    np.testing.assert_allclose(share, p / p.sum(), atol=0.03)


def test_a_weight_of_zero_forbids_nothing():
    forbids = step_of(np.full((V, V), -np.inf))
    fused = decoding.LogLinear([step_of(table(0)), forbids], [1.0, 0.0])
    scores, _ = fused(jnp.array([1]), ((), ()))
    np.testing.assert_allclose(scores[0], table(0)[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), ValueError, "steps: expected at least one"),
        (([3],), TypeError, "steps: expected functions, got 3"),
        (([step_of(table(0))], [1.0, 2.0]), ValueError, "weights: expected 1 numbers"),
        (
            ([step_of(table(0))], [-1.0]),
            ValueError,
            "weights: expected a number of at least 0",
        ),
        (([step_of(table(0))], [1.0], np.inf), ValueError, "length_bonus: expected a finite"),
    ],
)
def test_refuses(arguments: Any, error, message):
    with pytest.raises(error, match=message):
        decoding.LogLinear(*(arguments or ([],)))


@pytest.mark.quick()
def test_weights_may_be_traced():
    """One program serves for all weights, also for 0, and searches end no sooner than they may."""
    tables = [table(4), table(5)]

    @jax.jit
    def search(weight, bonus):
        fused = decoding.LogLinear([*map(step_of, tables)], [1.0, weight], bonus)
        return decoding.beam_search(
            fused, ((), ()), begin=jnp.array([BEGIN]), end=END, max_length=L, beam_width=3
        )

    for weight, bonus in [(0.0, 0.0), (0.6, -0.5), (0.3, 4.0)]:
        fixed = decoding.LogLinear([*map(step_of, tables)], [1.0, weight], bonus)
        wanted = decoding.beam_search(
            fixed, ((), ()), begin=jnp.array([BEGIN]), end=END, max_length=L, beam_width=3
        )
        found = search(weight, bonus)
        np.testing.assert_array_equal(found.tokens, wanted.tokens)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)
    forbids = step_of(np.full((V, V), -np.inf))
    scores = jax.jit(
        lambda weight: decoding.LogLinear([forbids], [weight])(jnp.array([1]), ((),))[0]
    )
    assert (scores(0.0) == 0.0).all() and np.isneginf(scores(0.5)).all()
    with pytest.raises(TypeError, match="weights: expected a number, got"):
        jax.jit(lambda weight: decoding.LogLinear([forbids], [weight]).weights)(np.ones(2))


@pytest.mark.parametrize("seed", range(3))
def test_hotwords_count_occurrences(seed):
    rng = np.random.default_rng(seed)
    phrases = [list(rng.integers(1, V, rng.integers(1, 4))) for _ in range(4)]
    words = decoding.Hotwords(phrases, vocabulary_size=V, bonus=0.5)
    outputs = rng.integers(1, V, (50, 9))
    outputs[:, -1] = END  # no phrase contains it, so that no bonus stays open

    def run(node, pair):
        before, token = pair
        gains, node = words(before, node)
        return node, jnp.take_along_axis(gains, token[:, None], axis=1)[:, 0]

    before = np.concatenate([np.full((50, 1), -1), outputs[:, :-1]], axis=1)
    _, gains = jax.jit(lambda pairs: jax.lax.scan(run, words.initial_state(50), pairs))(
        (before.T, outputs.T)
    )
    assert float(gains.max()) <= words.gain_bound + 1e-6
    for row, total in zip(outputs, np.asarray(gains).sum(axis=0), strict=True):
        found = sum(
            len(phrase)
            for phrase in {tuple(map(int, phrase)) for phrase in phrases}
            for at in range(len(row))
            if tuple(row[at : at + len(phrase)]) == phrase
        )
        np.testing.assert_allclose(total, 0.5 * found, atol=1e-5)


@pytest.mark.parametrize(
    ("phrases", "error", "message"),
    [
        ([], ValueError, "at least one phrase"),
        ([[]], ValueError, "non-empty phrases"),
        ([["a"]], TypeError, "lists of integers"),
        ([[1, V]], ValueError, r"phrases: expected values in \[0, 3\]"),
        ([[1, [2]]], TypeError, "lists of integers"),
    ],
)
def test_hotwords_refuse(phrases: Any, error, message):
    with pytest.raises(error, match=message):
        decoding.Hotwords(phrases, vocabulary_size=V)


@pytest.mark.quick()
def test_positive_sums_are_bounded_by_the_next_length():
    """The second token wins, although 30 tokens divide the sum by far more than two."""
    with np.errstate(divide="ignore"):
        log_p = np.log(np.array([[1.0, 0, 0, 0], [0.5, 0, 0.5, 0], [1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
    decoded = decoding.beam_search(
        decoding.LogLinear([step_of(log_p)], length_bonus=2.0), ((),), begin=jnp.array([BEGIN]),
        end=END, max_length=30, beam_width=2, length_penalty=3.0,
    )  # fmt: skip
    wanted = (np.log(0.5) + 4.0) / (7 / 6) ** 3
    np.testing.assert_allclose(decoded.scores[0, 0], wanted, rtol=1e-5)


def test_a_completed_phrase_owes_nothing():
    words = decoding.Hotwords([[2, 3], [2, 3, 1, 1]], vocabulary_size=V, bonus=0.5)
    node, gained = words.initial_state(1), []
    for before, token in [(-1, 2), (2, 3), (3, 1), (1, 2)]:
        gains, node = words(jnp.array([before]), node)
        gained.append(float(gains[0, token]))
    # The second phrase has three of its tokens after the third step, and is then left.
    np.testing.assert_allclose(gained, [0.5, 0.5, 1.5, -1.0])


def test_a_compiled_combination_has_the_same_scores():
    log_p = jnp.log(jnp.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.8, 0.1, 0.1]]))
    names = decoding.Hotwords([[2, 1]], vocabulary_size=3, bonus=1.0)
    fused = decoding.LogLinear([step_of(log_p), names], [1.0, 1.0], 0.5)
    state = (jnp.zeros(1), names.initial_state(1))

    @functools.wraps(fused)
    def wrapped(tokens, state):
        return fused(tokens, state)

    def search(step, state):
        return decoding.beam_search(
            step, state, begin=0, end=0, max_length=4, beam_width=30, n_best=3
        )

    wanted = search(fused, state)
    nested = decoding.LogLinear([jax.jit(fused)])
    for step, start in ((jax.jit(fused), state), (wrapped, state), (nested, (state,))):
        found = search(step, start)
        np.testing.assert_array_equal(found.tokens, wanted.tokens)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-6)
    inside = decoding.LogLinear([jax.jit(names)]).initial_state(2)
    np.testing.assert_array_equal(inside[0], names.initial_state(2))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_gradient_of_a_weight_is_finite_if_a_token_is_forbidden(weight):
    steps = [step_of([[0.0, 0.0]]), step_of([[1.0, 0.0]]), step_of([[0.0, -np.inf]])]

    def score(weights):
        fused = decoding.LogLinear(steps, [1.0, weights[0], weights[1]])
        return fused(jnp.zeros(1, jnp.int32), ((), (), ()))[0][0, 0]

    gradient = jax.grad(score)(jnp.array([weight, weight]))
    np.testing.assert_allclose(gradient, [1.0 - np.log(1.0 + np.e), 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "state", "error", "message"),
    [
        (np.array([1.0]), [0], TypeError, "tokens: expected integers .N., got dtype float"),
        (np.array(1), [0], ValueError, r"tokens: expected integers \[N\], got \(\)"),
        (
            np.array([1, 1]),
            [0],
            ValueError,
            r"state: expected .* N=2 as in tokens, got \(1,\)",
        ),
        (np.array([1]), [0.0], TypeError, r"state: expected integers \[N\], got dtype float"),
    ],
)
def test_language_models_refuse_other_arguments(tokens, state: Any, error, message):
    model = decoding.NGram.fit([[2, 1]], order=2, vocabulary_size=V, begin=0, end=0)
    letters = decoding.WordNGram(model, [None, [1], [2], [3]], vocabulary_size=V, space=0, begin=0)
    state = np.array(state)
    for step, given in (
        (decoding.Hotwords([[1]], vocabulary_size=V), state), (model, state),
        (letters, (state, state)),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            step(tokens, given)
