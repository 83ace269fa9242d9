"""The CTC beam search with a second model, against all label sequences enumerated in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import decoding
from seqjax.ctc import ctc_beam_search
from tests.ctc.helpers import V, draw, every_labelling, log_softmax
from tests.decoding.fusion import BLANK, assert_best, second, total

LENGTHS = np.array([5, 4, 0])


@pytest.mark.parametrize("end", [None, BLANK])
def test_equals_the_definition(end):
    _, logits = draw(3)
    scores, step = second()
    fused = decoding.LogLinear([step], [0.7], 0.3)

    @jax.jit
    def search(logits, lengths):
        return ctc_beam_search(
            logits, lengths=lengths, beam_width=64, n_best=4, blank=BLANK, fusion=fused,
            fusion_state=(jnp.zeros(3, jnp.int32),), end=end,
        )  # fmt: skip

    found = jax.device_get(search(logits, LENGTHS))
    for b, length in enumerate(LENGTHS):
        every = {
            labels: (np.log(p), total(scores, labels, end, 0.3))
            for labels, p in every_labelling(logits[b, :length], length, BLANK).items()
        }
        assert_best(found, b, every, 4)
    assert np.isneginf(found.scores[2, 1:]).all()  # without frames, only the empty output exists


@pytest.mark.quick()
def test_without_a_second_model_scores_are_log_probs():
    _, logits = draw(5)
    found = ctc_beam_search(logits, beam_width=4, n_best=2)
    np.testing.assert_array_equal(found.scores, found.log_probs)


@pytest.mark.quick()
def test_hotwords_change_the_winner():
    """A phrase that the frames find a little less probable wins with a bonus, and only then."""
    p = jnp.log(jnp.array([[[0.02, 0.54, 0.44], [0.96, 0.02, 0.02], [0.02, 0.9, 0.08]]]))
    words = decoding.Hotwords([[2, 1]], vocabulary_size=3, bonus=0.2)
    plain = ctc_beam_search(p, beam_width=8)
    found = ctc_beam_search(
        p, beam_width=8, fusion=words, fusion_state=words.initial_state(1), end=0
    )
    assert plain.tokens[0, 0, :2].tolist() == [1, 1]
    assert found.tokens[0, 0, :2].tolist() == [2, 1]
    np.testing.assert_allclose(found.scores - found.log_probs, 0.4, rtol=1e-4)
    for fusion in (words, decoding.LogLinear([words])):  # both know their first state
        same = ctc_beam_search(p, beam_width=8, fusion=fusion, end=0)
        np.testing.assert_array_equal(same.tokens, found.tokens)


def test_refuses():
    logits = jnp.zeros((2, 3, V))
    with pytest.raises(ValueError, match="end: expected None without `fusion`, got 0"):
        ctc_beam_search(logits, end=0)
    with pytest.raises(TypeError, match="fusion: expected a step function, got 3"):
        ctc_beam_search(logits, fusion=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fusion: expected scores \[N, V\] with N=8 and V=3"):
        ctc_beam_search(
            logits, beam_width=4, fusion=lambda tokens, state: (jnp.zeros((8, 5)), state)
        )
    with pytest.raises(ValueError, match=r"fusion_state: expected arrays \[B, …\] with B=2"):
        ctc_beam_search(logits, fusion=second()[1], fusion_state=jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="end: expected a class below V=3, got 3"):
        ctc_beam_search(logits, fusion=second()[1], fusion_state=jnp.zeros(2, jnp.int32), end=3)
    with pytest.raises(TypeError, match="steps: expected models with a method initial_state"):
        ctc_beam_search(logits, fusion=decoding.LogLinear([second()[1]]))


def prefix_loop(logits, scores, width):
    """The search over a dictionary of prefixes, with the second model."""
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    rank = lambda prefix, parts: np.log(sum(parts)) + total(scores, prefix, None, 0.0)  # noqa: E731
    for p_t in np.exp(log_softmax(logits)):
        new: dict[tuple[int, ...], list[float]] = {}
        for prefix, (in_blank, in_label) in beam.items():
            entry = new.setdefault(prefix, [0.0, 0.0])
            entry[0] += (in_blank + in_label) * p_t[BLANK]
            for label in set(range(V)) - {BLANK}:
                grown = new.setdefault((*prefix, label), [0.0, 0.0])
                again = bool(prefix) and label == prefix[-1]
                entry[1] += in_label * p_t[label] if again else 0.0
                grown[1] += (in_blank if again else in_blank + in_label) * p_t[label]
        kept = sorted(new, key=lambda prefix: -rank(prefix, new[prefix]))[:width]
        beam = {prefix: (new[prefix][0], new[prefix][1]) for prefix in kept}
    return [(prefix, rank(prefix, parts)) for prefix, parts in beam.items()]


@pytest.mark.quick()
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("seed", [6, 7])
def test_a_narrow_beam_is_the_loop(seed):
    logits = np.random.default_rng(seed).normal(size=(2, 12, V)).astype(np.float32)
    scores, step = second()
    fused = decoding.LogLinear([step], [0.7])
    found = ctc_beam_search(
        logits, beam_width=3, n_best=3, blank=BLANK, fusion=fused,
        fusion_state=(jnp.zeros(2, jnp.int32),),
    )  # fmt: skip
    for b in range(2):
        for k, (labels, score) in enumerate(prefix_loop(logits[b], scores, 3)):
            assert tuple(np.asarray(found.tokens[b, k, : found.lengths[b, k]])) == labels
            np.testing.assert_allclose(found.scores[b, k], score, rtol=1e-4, atol=1e-5)


def test_the_end_must_be_that_of_the_language_models():
    logits = np.zeros((1, 2, 3), np.float32)
    names = decoding.Hotwords([[1, 2]], vocabulary_size=3)
    ended, endless = (
        decoding.NGram.fit([[1, 2]], order=2, vocabulary_size=3, begin=0, end=end)
        for end in (0, None)
    )
    for fusion, end, message in (
        (names, None, "end: expected a token that is in no phrase .* got None"),
        (names, 2, "end: expected a token that is in no phrase .* got 2"),
        (decoding.LogLinear([ended, names]), None, "end: expected a token that is in no phrase"),
        (endless, 0, "end: expected None, the end of the NGram, got 0"),
        (ended, 1, "end: expected 0, the end of the NGram, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ctc_beam_search(logits, fusion=fusion, end=end)
    ctc_beam_search(logits, fusion=ended)  # the text may go on


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_have_no_score(value):
    """Only in the sequence that has them, and only at real frames."""
    logits = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    logits[0, 1, 2] = logits[1, 3, 0] = value
    found = ctc_beam_search(logits, lengths=[4, 3, 4], n_best=2)
    for scores in (found.log_probs, found.scores):
        assert jnp.isnan(scores).tolist() == [[True] * 2, [False] * 2, [False] * 2]


def nan_after(label, rows):
    """A model with scores NaN after a label, and the state of `rows` sequences."""
    step = lambda tokens, state: (  # noqa: E731
        jnp.where((tokens == label)[:, None] & state[:, None], jnp.nan, jnp.zeros(V)),
        state,
    )
    return step, jnp.arange(rows) == 0


@pytest.mark.parametrize("label", [BLANK, 2])
def test_scores_that_are_no_numbers_give_nan_in_their_sequence(label):
    """At the start, or after a label that is not in the best output."""
    logits = np.array([[[5.0, 0, 1], [0, 5.0, 1], [0, 5.0, 0]]] * 2, np.float32)
    step, state = nan_after(label, 2)
    found = ctc_beam_search(logits, blank=BLANK, fusion=step, fusion_state=state, n_best=2)
    for scores in (found.log_probs, found.scores):
        assert jnp.isnan(scores).tolist() == [[True] * 2, [False] * 2]
    alone = ctc_beam_search(logits[1:], blank=BLANK, fusion=step, fusion_state=state[1:])
    np.testing.assert_allclose(found.scores[1, 0], alone.scores[0, 0], rtol=1e-6)


def test_the_score_of_the_blank_is_not_used():
    logits = np.zeros((1, 2, V), np.float32)
    scores = jnp.zeros(V).at[BLANK].set(jnp.nan)
    always: Any = lambda tokens, state: (jnp.tile(scores, (len(tokens), 1)), state)  # noqa: E731
    always.gain_bound = 0.0
    assert jnp.isfinite(ctc_beam_search(logits, blank=BLANK, fusion=always).scores).all()
    assert jnp.isnan(ctc_beam_search(logits, blank=BLANK, fusion=always, end=BLANK).scores).all()


@pytest.mark.parametrize(
    ("new", "error", "message"),
    [
        (lambda s: (s, s), ValueError, r"float32\(8,\), got \('float32\(8,\)', 'float32\(8,\)'\)"),
        (lambda s: s[:, None], ValueError, r"float32\(8,\), got float32\(8, 1\)"),
        (lambda s: s.astype(jnp.float16), ValueError, r"float32\(8,\), got float16\(8,\)"),
        (None, TypeError, r"fusion: expected it to return \(scores, state\), got"),
    ],
)
def test_refuses_steps_that_return_another_state(new, error, message):
    def step(tokens, state):
        scores = jnp.zeros((len(tokens), V))
        return scores if new is None else (scores, new(state))

    with pytest.raises(error, match=message):
        ctc_beam_search(jnp.zeros((2, 3, V)), beam_width=4, fusion=step, fusion_state=jnp.zeros(2))


def test_a_compiled_step_has_the_attributes_of_the_step():
    names = decoding.Hotwords([[2, 0]], vocabulary_size=V, bonus=1.0)
    logits = np.random.default_rng(3).normal(size=(1, 4, V)).astype(np.float32)
    options: dict[str, Any] = {"blank": BLANK, "end": BLANK}
    wanted = ctc_beam_search(logits, fusion=names, **options)
    found = ctc_beam_search(logits, fusion=jax.jit(names), **options)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-6)
    with pytest.raises(ValueError, match="end: expected a token that is in no phrase"):
        ctc_beam_search(logits, blank=BLANK, fusion=jax.jit(names))
