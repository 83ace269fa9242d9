"""Beam search: every output enumerated, and the same search as a loop over lists."""

from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.decoding import beam_search, greedy
from seqjax.decoding._problem import make_problem
from tests.decoding.helpers import (
    BEGIN,
    END,
    L,
    Oracle,
    Rules,
    S,
    assert_outputs,
    beam_loop,
    decode,
    every_output,
    gaps,
    initial,
    make_toy,
    rows,
    step_of,
    weights_of,
)

B = 3
MASK = np.array([[True, True, True], [True, True, False], [True, False, False]])
PREFIX, PREFIX_LENGTHS = np.array([[2, 1], [3, -1], [-1, 9]]), np.array([2, 1, 0])
seeds = st.integers(0, 2**20)

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


@given(seed=seeds, rules=st.sampled_from(list(RULES.values())), width=st.sampled_from([1, 3]))
@hypothesis.settings(max_examples=60)
def test_search_is_the_loop_without_early_stop(seed, rules, width):
    toy = make_toy(seed)
    decoded, each = search(toy, width, width, **rules)
    for b in range(B):
        oracle = Oracle(toy, b)
        expected, _ = beam_loop(oracle, each[b], width, width)
        assert_outputs(decoded, b, expected, oracle)


@given(seed=seeds, alpha=st.sampled_from([0.0, 1.0]))
def test_fewer_are_the_best_of_more(seed, alpha):
    toy = make_toy(seed)
    several, _ = search(toy, 3, 3, length_penalty=alpha)
    one, _ = search(toy, 3, 1, length_penalty=alpha)
    np.testing.assert_array_equal(one.tokens[:, 0], several.tokens[:, 0])
    np.testing.assert_array_equal(one.scores[:, 0], several.scores[:, 0])


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


@pytest.mark.parametrize("decoder", [greedy, beam_search])
def test_a_broken_neighbour_changes_nothing(decoder):
    toy = make_toy(5)
    good = decode(toy, decoder)
    toy.h[1] = np.nan
    bad = decode(toy, decoder)
    for got, expected in zip(bad[:5], good[:5], strict=True):
        np.testing.assert_array_equal(got[[0, 2]], expected[[0, 2]])
    assert np.isnan(bad.log_probs[1]).all() and not bad.finished[1].any()


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


# Stopping


@pytest.fixture(scope="module")
def counting():
    """A search that counts its steps; compiled once a length penalty."""
    count = []
    compiled: dict[Any, Any] = {}

    def run(toy, alpha, **options):
        def call(toy):
            step = step_of(toy)

            def counted(tokens, state):
                jax.debug.callback(lambda: count.append(1))
                return step(tokens, state)

            return beam_search(
                counted, initial(toy), begin=BEGIN, end=END, length_penalty=alpha, **options
            )

        name = (alpha, *sorted(options.items()))
        call = compiled.setdefault(name, jax.jit(call))
        count.clear()
        decoded = jax.block_until_ready(call(toy))
        jax.effects_barrier()
        return decoded, len(count)

    return run


@given(seed=seeds, alpha=st.sampled_from([0.0, 0.5]), bias=st.sampled_from([1.0, 3.0, 6.0]))
@hypothesis.settings(max_examples=60)
def test_stops_as_soon_as_nothing_better_can_come(counting, seed, alpha, bias):
    toy = make_toy(seed, bias=bias)
    decoded, steps = counting(toy, alpha, max_length=8, beam_width=2, n_best=2)
    expected = []
    for b in range(B):
        oracle = Oracle(toy, b)
        outputs, enough = beam_loop(oracle, Rules(max_length=8, length_penalty=alpha), 2, 2)
        assert_outputs(decoded, b, outputs, oracle)
        expected.append(enough)
    assert steps == max(expected)


def test_stops_early_at_all(counting):
    _, steps = counting(make_toy(bias=9.0), 1.0, max_length=50, beam_width=2)
    assert steps < 5


def test_never_runs_past_max_length(counting):
    decoded, steps = counting(make_toy(ruled_out=[END]), 0.0, max_length=7, beam_width=2)
    assert steps == 7
    assert (decoded.lengths == 7).all() and not decoded.finished.any()


# Impossible tokens


def test_ruled_out_tokens_do_not_occur():
    toy = make_toy(ruled_out=[2])
    decoded, each = search(toy, 108, 8)
    assert not np.isnan(decoded.scores).any() and (decoded.tokens != 2).all()
    for b in range(B):
        oracle = Oracle(toy, b)
        assert_outputs(decoded, b, every_output(oracle, each[b])[:8], oracle)


@pytest.mark.parametrize("decoder", [greedy, beam_search])
def test_no_output_is_reported(decoder):
    everything = make_toy(ruled_out=range(4))
    decoded = decode(everything, decoder)
    assert (decoded.log_probs == -np.inf).all() and (decoded.scores == -np.inf).all()
    assert (decoded.lengths == 0).all() and (decoded.tokens == END).all()
    assert not decoded.finished.any()
    # The end is all there is, and is forbidden.
    decoded = decode(make_toy(ruled_out=[1, 2, 3]), decoder, min_length=1)
    assert (decoded.log_probs == -np.inf).all() and (decoded.lengths == 0).all()


def test_fewer_outputs_than_asked_for():
    toy = make_toy(vocabulary=2)
    decoded = decode(toy, beam_width=6, n_best=6, max_length=2, alignment=weights_of)
    # End; 1, end; 1, 1.
    np.testing.assert_array_equal(np.isfinite(decoded.scores), [[True] * 3 + [False] * 3] * B)
    np.testing.assert_allclose(np.exp(decoded.log_probs).sum(axis=1), 1.0, rtol=1e-5)
    assert (decoded.lengths[:, 3:] == 0).all() and (decoded.alignments[:, 3:] == 0).all()
    assert not decoded.finished[:, 3:].any()


def test_a_vocabulary_of_the_end_alone():
    decoded = decode(make_toy(vocabulary=1), beam_width=3, n_best=2)
    assert decoded.finished[:, 0].all() and not decoded.finished[:, 1].any()
    np.testing.assert_allclose(decoded.log_probs[:, 0], 0.0, atol=1e-6)


def test_a_prefix_that_ends():
    arrays = {"prefix": np.array([[1, END, 2]] * B)}
    for decoder in (greedy, beam_search):
        decoded = decode(make_toy(), decoder, arrays=arrays, min_length=3)
        assert decoded.tokens[:, 0].tolist() == [[1, END, END, END]] * B
        assert decoded.finished.all() and (decoded.lengths == 1).all()


def test_a_prefix_may_repeat_itself():
    arrays = {"prefix": np.array([[1, 1, 1]] * B)}
    decoded = decode(make_toy(), arrays=arrays, no_repeat_ngram=1, beam_width=2)
    assert (decoded.tokens[:, 0, :3] == 1).all() and (decoded.tokens[:, 0, 3] != 1).all()


# The state


def test_what_a_step_does_not_change_is_not_reordered():
    toy = make_toy()
    problem = make_problem(step_of(toy), initial(toy), begin=BEGIN, end=END, max_length=L, copies=2)
    assert problem.constant == (False, True, False)
    state = problem.reorder(problem.state, jnp.ones((B, 2), jnp.int32))
    assert state.memory is problem.state.memory

    def changed(tokens, state):  # the same, but not to be seen
        logits, state = step_of(toy)(tokens, state)
        return logits, state._replace(memory=state.memory * 1.0)

    options: dict[str, Any] = {
        "begin": BEGIN,
        "end": END,
        "max_length": L,
        "beam_width": 3,
        "n_best": 3,
    }
    seen = beam_search(step_of(toy), initial(toy), **options)
    unseen = beam_search(changed, initial(toy), **options)
    np.testing.assert_array_equal(seen.tokens, unseen.tokens)
    np.testing.assert_array_equal(seen.scores, unseen.scores)


def test_a_state_of_any_arrays():
    """Integers, keys and the tokens so far follow their hypotheses; None is no leaf."""

    def step(tokens, state):
        count, said, keys, none = state
        said = jnp.where(jnp.arange(L)[None] == count[:, None], tokens[:, None], said)
        noise = jax.vmap(lambda k, s: jax.random.normal(jax.random.fold_in(k, s.sum()), (4,)))
        return noise(keys, said * jnp.array([1, 10, 100, 1000])), (count + 1, said, keys, none)

    keys = jax.random.split(jax.random.key(0), 2)
    state = (jnp.zeros(2, jnp.int32), jnp.zeros((2, L), jnp.int32), keys, None)
    read = lambda state: state[1].astype(jnp.float32)  # noqa: E731
    decoded: Any = beam_search(
        step, state, begin=1, end=0, max_length=L, beam_width=4, n_best=4, alignment=read,
        length_penalty=2.0,
    )  # fmt: skip
    longest = decoded.lengths.max()
    assert longest >= 3
    b, k = np.argwhere(np.asarray(decoded.lengths) == longest)[0]
    fed = decoded.alignments[b, k, longest - 1, :longest]  # begin and all tokens but the last
    assert fed.tolist() == [1, *decoded.tokens[b, k, : longest - 1].tolist()]
