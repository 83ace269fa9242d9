"""Models of words for decoders of letters, against the definition over whole texts."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.ctc import ctc_beam_search
from seqjax.decoding import NGram, WordNGram

LETTERS = [None, "a", " ", "b"]  # the blank, which is also the end, and the space in the middle
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-1.5 <unk>
-99 <s> -0.4
-0.7 a -0.2
-0.9 ab -0.1
-1.3 bba
-0.8 </s>

\\2-grams:
-0.3 <s> ab
-0.6 a ab
-0.5 ab </s>
-0.45 ab a

\\end\\
""".splitlines()
ONE = {"a": -0.7, "ab": -0.9, "bba": -1.3, "</s>": -0.8}
TWO = {("<s>", "ab"): -0.3, ("a", "ab"): -0.6, ("ab", "</s>"): -0.5, ("ab", "a"): -0.45}
BACKOFF = {"<s>": -0.4, "a": -0.2, "ab": -0.1}


def defined(text, unknown, bonus, end):
    """The score of a text, from its words."""
    total, before = 0.0, "<s>"
    for word in [*text.split(), *(["</s>"] if end else [])]:
        if word in ONE:
            log_p = TWO.get((before, word), BACKOFF.get(before, 0.0) + ONE[word])
            total += log_p * math.log(10)
        else:
            total += unknown
        total += 0.0 if word == "</s>" else bonus
        before = word
    return total


def texts_of(length):
    return [list(row) for row in itertools.product([1, 2, 3], repeat=length)]


@pytest.mark.quick()
@pytest.mark.parametrize(("unknown", "bonus"), [(-math.inf, 0.0), (-4.5, 0.3)])
def test_scores_are_those_of_the_words(unknown, bonus):
    model = WordNGram.from_arpa(ARPA, LETTERS, space=2, end=0, unknown=unknown, bonus=bonus)
    rows = np.array(texts_of(6))

    @jax.jit
    def run(tokens):
        def read(state, pair):
            scores, state = model(pair[0], state)
            return state, (jnp.take_along_axis(scores, pair[1][:, None], axis=1)[:, 0], scores)

        before = jnp.concatenate([jnp.zeros_like(tokens[:, :1]), tokens], axis=1)
        after = jnp.concatenate([tokens, jnp.zeros_like(tokens[:, :1])], axis=1)
        _, (gains, scores) = jax.lax.scan(
            read, model.initial_state(len(tokens)), (before.T, after.T)
        )
        return gains.sum(axis=0), scores

    start = model.initial_state(1)
    first, _ = model(np.array([0]), start)
    # "bba" is the only word that begins with b, and "a" the most likely one with a.
    np.testing.assert_allclose(first[0, [1, 3]] / np.log(10), [-0.7, -1.3], rtol=1e-5)
    sums, scores = run(rows)
    assert not np.isnan(scores).any() and scores.max() <= model.gain_bound + 1e-6
    wanted = [defined("".join(str(LETTERS[x]) for x in row), unknown, bonus, True) for row in rows]
    np.testing.assert_allclose(sums, wanted, rtol=1e-5, atol=1e-5)
    assert 0 < np.isfinite(wanted).sum() <= len(wanted)


@pytest.mark.quick()
def test_a_search_finds_only_listed_words_and_prefers_likely_ones():
    model = WordNGram.from_arpa(ARPA, LETTERS, space=2, end=0)
    logits = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    found = jax.jit(
        lambda x: ctc_beam_search(
            x, beam_width=125, n_best=5, fusion=model, fusion_state=model.initial_state(2), end=0
        )
    )(logits)
    plain = jax.jit(lambda x: ctc_beam_search(x, beam_width=125, n_best=125))(logits)
    for b in range(2):
        every = {}
        for row, length, log_p in zip(
            plain.tokens[b], plain.lengths[b], np.asarray(plain.log_probs[b]), strict=True
        ):
            if np.isfinite(log_p):
                labels = tuple(np.asarray(row[:length]).tolist())
                text = "".join(str(LETTERS[x]) for x in labels)
                every[labels] = log_p + defined(text, -math.inf, 0.0, True)
        best = sorted(every.items(), key=lambda item: -item[1])[:5]
        for k, (labels, score) in enumerate(best):
            assert tuple(np.asarray(found.tokens[b, k, : found.lengths[b, k]])) == labels
            np.testing.assert_allclose(found.scores[b, k], score, rtol=1e-4)


def test_letters_in_the_wrong_case_are_an_error():
    with pytest.raises(ValueError, match=r"letters: expected .*lack those of \['a', 'ab', 'bba'\]"):
        WordNGram.from_arpa(ARPA, [None, "A", " ", "B"], space=2)


NGRAM = NGram.fit([[1, 2]], order=2, vocabulary_size=3, begin=0, end=0)
GOOD: dict[str, Any] = {
    "model": NGRAM, "spellings": [None, [1], [3, 1]], "vocabulary_size": 4, "space": 2, "begin": 0
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": 3}, TypeError, "model: expected an NGram, got 3"),
        ({"space": 4}, ValueError, "space: expected an id below V=4, got 4"),
        ({"end": 0}, ValueError, "letter_end: expected both or none"),
        (
            {"end": 0, "letter_end": 2},
            ValueError,
            "letter_end: expected another letter",
        ),
        ({"unknown": 1.0}, ValueError, "unknown: expected at most 0, got 1.0"),
        ({"bonus": math.inf}, ValueError, "bonus: expected a finite number"),
        ({"spellings": [[1]]}, ValueError, "spellings: expected 3, one for each token"),
        ({"spellings": [None] * 3}, ValueError, "spellings: expected at least one word"),
        ({"spellings": [None, [], None]}, ValueError, "spellings: expected non-empty spellings"),
        ({"spellings": [None, [1, 2], None]}, ValueError, "words without the space 2"),
        ({"spellings": [None, ["a"], None]}, TypeError, "spellings: expected lists of integers"),
    ],
)
def test_refuses(changes, error, message):
    WordNGram(**GOOD)
    with pytest.raises(error, match=message):
        WordNGram(**(GOOD | changes))


def test_the_end_of_a_file_is_no_space():
    with pytest.raises(ValueError, match="end: expected an id of no letter, got 2, that of ' '"):
        WordNGram.from_arpa(ARPA, [None, "a", " ", "b"], space=2, end=2)
