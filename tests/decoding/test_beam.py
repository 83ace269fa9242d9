"""Beam search: every output enumerated, and the same search as a loop over lists."""

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.decoding import beam_search, greedy
from tests.decoding.helpers import (
    END,
    B,
    L,
    Oracle,
    Rules,
    S,
    assert_outputs,
    beam_loop,
    decode,
    every_output,
    gaps,
    make_toy,
    rows,
    weights_of,
)

seeds = st.integers(0, 2**20)


MASK = np.array([[True, True, True], [True, True, False], [True, False, False]])
PREFIX, PREFIX_LENGTHS = np.array([[2, 1], [3, -1], [-1, 9]]), np.array([2, 1, 0])

RULES = {
    "plain": {},
    "length": {"length_penalty": 1.0},
    "strong length": {"length_penalty": 4.0},
    "min length": {"min_length": 2},
    "whole length": {"min_length": L, "length_penalty": 1.0},
    "no unigram twice": {"no_repeat_ngram": 1},
    "no bigram twice": {"no_repeat_ngram": 2},
    "long n-gram": {"no_repeat_ngram": 9},
    "prefix": {"prefix": True},
    "coverage": {"coverage_penalty": 0.7},
    "all": {
        "length_penalty": 0.6, "min_length": 1, "no_repeat_ngram": 2, "prefix": True,
        "coverage_penalty": 0.3,
    },
}  # fmt: skip
SOME = ("plain", "strong length", "no unigram twice", "all")
each_rule = pytest.mark.parametrize("rules", RULES.values(), ids=RULES)


def search(toy, width, n, **rules):
    """The search under rules, and these for each sentence."""
    arrays: dict[str, Any] = {}
    given = dict(rules)
    prefixes, masks = [()] * B, [(True,) * S] * B
    if given.pop("prefix", False):
        arrays |= {"prefix": PREFIX, "prefix_lengths": PREFIX_LENGTHS}
        prefixes = [tuple(p[:m]) for p, m in zip(PREFIX.tolist(), PREFIX_LENGTHS, strict=True)]
    if "coverage_penalty" in given:
        arrays["source_mask"] = MASK
        masks = [tuple(mask) for mask in MASK.tolist()]
    decoded = decode(toy, beam_width=width, n_best=n, alignment=weights_of, arrays=arrays, **given)
    each = [Rules(**given, prefix=p, source=m) for p, m in zip(prefixes, masks, strict=True)]
    return decoded, each


@pytest.mark.quick("plain", "all")
@each_rule
def test_exhaustive_search_is_enumeration(rules):
    toy = make_toy(3)
    decoded, each = search(toy, 108, 8, **rules)
    for b in range(B):
        oracle = Oracle(toy, b)
        outputs = every_output(oracle, each[b])
        assert gaps(outputs[:9]) > 1e-5, "choose another seed"
        assert_outputs(decoded, b, outputs[:8], oracle)
        assert len(outputs) >= 8 or (decoded.scores[b, len(outputs) :] == -np.inf).all()


@pytest.mark.quick()
@given(
    seed=seeds, rules=st.sampled_from([RULES[name] for name in SOME]), width=st.sampled_from([1, 3])
)
@hypothesis.settings(max_examples=60)
def test_search_is_the_loop_without_early_stop(seed, rules, width):
    toy = make_toy(seed)
    decoded, each = search(toy, width, width, **rules)
    for b in range(B):
        oracle = Oracle(toy, b)
        expected, _ = beam_loop(oracle, each[b], width, width)
        assert_outputs(decoded, b, expected, oracle)


@pytest.mark.quick()
@given(seed=seeds, alpha=st.sampled_from([0.0, 1.0]))
def test_fewer_are_the_best_of_more(seed, alpha):
    toy = make_toy(seed)
    several, _ = search(toy, 3, 3, length_penalty=alpha)
    one, _ = search(toy, 3, 1, length_penalty=alpha)
    np.testing.assert_array_equal(one.tokens[:, 0], several.tokens[:, 0])
    np.testing.assert_array_equal(one.scores[:, 0], several.scores[:, 0])


@pytest.mark.quick()
@given(seed=seeds, min_length=st.sampled_from([0, 2]))
def test_width_one_is_greedy(seed, min_length):
    toy = make_toy(seed)
    options = {"min_length": min_length, "alignment": weights_of}
    narrow, walked = decode(toy, beam_width=1, **options), decode(toy, greedy, **options)
    for got, expected in zip(narrow, walked, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@given(seed=seeds)
def test_results_are_sorted_and_distinct(seed):
    decoded, _ = search(make_toy(seed), 5, 5, length_penalty=1.0)
    assert (np.diff(decoded.scores, axis=1) <= 0).all()
    for b in range(B):
        outputs = zip(decoded.tokens[b].tolist(), decoded.lengths[b], strict=True)
        assert len({(*tokens, length) for tokens, length in outputs}) == 5


@pytest.mark.quick()
@given(seed=seeds)
def test_a_sentence_alone_is_the_sentence_in_a_batch(seed):
    toy = make_toy(seed)
    together, _ = search(toy, 3, 3, length_penalty=1.0)
    for b in range(B):
        alone = decode(
            rows(toy, [b]), beam_width=3, n_best=3, length_penalty=1.0, alignment=weights_of
        )
        for got, expected in zip(alone, together, strict=True):
            np.testing.assert_allclose(got[0], expected[b], rtol=1e-5, atol=1e-6)


@pytest.mark.quick("beam_search")
@pytest.mark.parametrize("decoder", [greedy, beam_search])
def test_a_broken_neighbour_changes_nothing(decoder):
    toy = make_toy(5)
    good = decode(toy, decoder)
    toy.h[1] = np.nan
    bad = decode(toy, decoder)
    for got, expected in zip(bad[:5], good[:5], strict=True):
        np.testing.assert_array_equal(got[[0, 2]], expected[[0, 2]])
    assert np.isnan(bad.log_probs[1]).all() and not bad.finished[1].any()


@pytest.mark.quick()
@given(seed=seeds)
def test_more_room_changes_nothing_once_finished(seed):
    toy = make_toy(seed, bias=2.0)
    short, longer = (decode(toy, beam_width=3, n_best=2, max_length=n) for n in (L, 2 * L))
    done = short.finished.all(axis=1)
    hypothesis.assume(done.any())
    np.testing.assert_array_equal(longer.tokens[done, :, :L], short.tokens[done])
    np.testing.assert_array_equal(longer.tokens[done, :, L:], END)
    np.testing.assert_allclose(longer.scores[done], short.scores[done], rtol=1e-6)
    assert longer.finished[done].all()
