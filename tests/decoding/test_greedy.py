"""Greedy decoding and scoring against loops; ensembles; how all decoders are called."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.decoding import beam_search, ensemble, greedy, sample, score
from tests.decoding.helpers import (
    BEGIN,
    END,
    L,
    Oracle,
    Rules,
    assert_outputs,
    decode,
    greedy_loop,
    initial,
    make_toy,
    rows,
    step_of,
    weights_of,
)

B = 3
seeds = st.integers(0, 2**20)
DECODERS = {
    "greedy": (greedy, {}),
    "sample": (sample, {"key": jax.random.key(3), "num_samples": 3, "temperature": 2.0}),
    "beam_search": (beam_search, {"beam_width": 3, "n_best": 3, "length_penalty": 1.0}),
}
each_decoder = pytest.mark.parametrize(("decoder", "options"), DECODERS.values(), ids=DECODERS)


@given(seed=seeds, min_length=st.sampled_from([0, 2]), forced=st.booleans())
def test_greedy_is_a_loop(seed, min_length, forced):
    toy = make_toy(seed)
    prefix, lengths = np.array([[2, 3], [1, -1], [9, 9]]), [2, 1, 0]
    arrays = {"prefix": prefix, "prefix_lengths": np.array(lengths)} if forced else {}
    decoded = decode(toy, greedy, alignment=weights_of, min_length=min_length, arrays=arrays)
    assert decoded.tokens.shape == (B, 1, L)
    for b in range(B):
        start = tuple(prefix[b, : lengths[b]].tolist()) if forced else ()
        oracle = Oracle(toy, b)
        output = greedy_loop(oracle, Rules(min_length=min_length, prefix=start))
        assert_outputs(decoded, b, [output], oracle)


@functools.cache
def _scorer():
    def run(toy, tokens, lengths):
        return score(step_of(toy), initial(toy), tokens, lengths, begin=BEGIN, end=END)

    return jax.jit(run)


@each_decoder
@given(seed=seeds)
def test_scoring_is_decoding(decoder, options, seed):
    toy = make_toy(seed)
    decoded = decode(toy, decoder, **options)
    scored = _scorer()(toy, decoded.tokens, decoded.lengths)
    np.testing.assert_allclose(scored.log_probs, decoded.log_probs, rtol=1e-5, atol=1e-6)
    assert scored.token_log_probs.shape == decoded.tokens.shape


def test_score_is_a_loop():
    toy = make_toy(4)
    tokens = np.array([[1, 2, 3, 1], [3, -1, 99, 7], [0, 1, 2, 0]])  # an end token may stand inside
    lengths = np.array([4, 1, 3])
    scored = score(step_of(toy), initial(toy), tokens, lengths, begin=BEGIN, end=END)
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
    both = _scorer()(toy, tokens, lengths)
    for k in range(2):
        one = _scorer()(toy, tokens[:, k], lengths[:, k])
        np.testing.assert_allclose(both.log_probs[:, k], one.log_probs, rtol=1e-6)
        np.testing.assert_allclose(both.token_log_probs[:, k], one.token_log_probs, rtol=1e-6)


def test_score_has_a_gradient():
    toy, lengths = make_toy(4), jnp.array([2, 3, 4])
    tokens = jnp.array([[1, 2, 0, 0], [3, 2, 1, 0], [1, 1, 2, 3]])

    def loss(out, tokens=tokens):
        step = step_of(toy._replace(out=out))
        return score(step, initial(toy), tokens, lengths, begin=BEGIN, end=END).log_probs.sum()

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
    with pytest.raises(ValueError, match="tokens: expected values from 0 to 3"):
        score(step_of(toy), initial(toy), tokens, lengths, begin=BEGIN, end=END)
    scored = _scorer()(toy, tokens, lengths)
    assert np.isnan(scored.log_probs).tolist() == [True, False, False]


# Ensembles


def test_ensemble_of_a_model_with_itself_is_the_model():
    toy = make_toy(6)
    step = step_of(toy)
    options: dict[str, Any] = {"begin": BEGIN, "end": END, "max_length": L, "beam_width": 3}
    alone = beam_search(step, initial(toy), **options)
    twice = beam_search(ensemble([step, step]), (initial(toy),) * 2, **options)
    np.testing.assert_array_equal(twice.tokens, alone.tokens)
    np.testing.assert_allclose(twice.log_probs, alone.log_probs, rtol=1e-5)


def test_ensemble_averages_probabilities():
    toys = [make_toy(1), make_toy(2, ruled_out=[2])]
    step = ensemble([step_of(toy) for toy in toys])
    states, tokens = tuple(map(initial, toys)), jnp.full(B, BEGIN)
    logits, new = step(tokens, states)
    for b in range(B):
        each = [np.exp(Oracle(toy, b)(())[0]) for toy in toys]
        np.testing.assert_allclose(np.exp(logits[b]), np.mean(each, axis=0), rtol=1e-5)
    each_new = tuple(step_of(toy)(tokens, initial(toy))[1] for toy in toys)
    jax.tree.map(np.testing.assert_array_equal, new, each_new)
    nothing = [step_of(make_toy(ruled_out=[2])), step_of(make_toy(1, ruled_out=[2]))]
    logits, _ = ensemble(nothing)(tokens, states)
    assert (logits[:, 2] == -np.inf).all() and np.isfinite(logits[:, [0, 1, 3]]).all()


def test_ensemble_of_dtypes():
    def half(tokens, state):
        return jnp.zeros((len(tokens), 2), jnp.bfloat16), state

    def single(tokens, state):
        return jnp.zeros((len(tokens), 2)), state

    with jax.numpy_dtype_promotion("strict"):
        logits, _ = ensemble([half, single])(jnp.zeros(1, jnp.int32), ((), ()))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, np.log(0.5), rtol=1e-6)


# All decoders


def _call(decoder, options, toy, step=None, **others):
    given = dict(options)
    keys = (given.pop("key"),) if "key" in given else ()
    settings = {"begin": BEGIN, "end": END, "max_length": L} | given | others
    return decoder(step or step_of(toy), initial(toy), *keys, **settings)


@each_decoder
def test_traced_once(decoder, options):
    traces = []

    @jax.jit
    def run(toy):
        traces.append(1)
        return _call(decoder, options, toy)

    run(make_toy(0))
    run(make_toy(1))
    assert len(traces) == 1


@each_decoder
def test_one_loop(decoder, options):
    """One while loop around one step, whatever the number of steps."""
    sizes = []
    for steps in (5, 50):
        jaxpr = jax.make_jaxpr(
            functools.partial(_call, decoder, options, max_length=steps, min_length=1)
        )(make_toy())
        text = str(jaxpr)
        assert text.count("while[") == 1 and text.count("tanh") == 1
        sizes.append(len(text.splitlines()))
    assert sizes[0] == sizes[1]


@each_decoder
def test_strict_promotion(decoder, options):
    others = {"alignment": weights_of, "min_length": 1, "prefix": np.array([[1]] * B)}
    if decoder is beam_search:
        others |= {
            "coverage_penalty": 0.5, "source_mask": np.ones((B, 3), bool), "no_repeat_ngram": 2,
        }  # fmt: skip
    if decoder is sample:
        others |= {"top_k": 3, "top_p": 0.9}
    toy = jax.tree.map(jnp.asarray, make_toy())
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        decoded = _call(decoder, options, toy, **others)
        score(step_of(toy), initial(toy), decoded.tokens, decoded.lengths, begin=BEGIN, end=END)
    assert np.isfinite(decoded.log_probs).all()


@each_decoder
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes(decoder, options, dtype):
    with jax.enable_x64(dtype == "float64"):
        toy = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), make_toy())
        start = initial(toy)._replace(weights=jnp.zeros(toy.memory.shape[:2], dtype))
        given = {name: value for name, value in options.items() if name != "key"}
        keys = (options["key"],) if "key" in options else ()
        decoded = decoder(
            step_of(toy), start, *keys, begin=BEGIN, end=END, max_length=L, alignment=weights_of,
            **given,
        )  # fmt: skip
        expected = "float32" if dtype == "bfloat16" else dtype
        assert decoded.log_probs.dtype == decoded.scores.dtype == expected
        assert decoded.tokens.dtype == decoded.lengths.dtype == jnp.int32
        assert decoded.alignments.dtype == dtype and decoded.finished.dtype == bool
        scored = score(step_of(toy), start, decoded.tokens, decoded.lengths, begin=BEGIN, end=END)
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(scored.log_probs, decoded.log_probs, rtol=tolerance)


@each_decoder
def test_no_sentences(decoder, options):
    decoded = _call(decoder, options, rows(make_toy(), []), alignment=weights_of)
    n = 1 if decoder is greedy else 3
    assert decoded.tokens.shape == (0, n, L) and decoded.alignments.shape == (0, n, L, 3)


@each_decoder
def test_one_begin_each(decoder, options):
    toy = make_toy()
    one = _call(decoder, options, toy, begin=2)
    each = _call(decoder, options, toy, begin=np.array([1, 2, 3], np.uint8))
    np.testing.assert_array_equal(each.tokens[1], one.tokens[1])
    np.testing.assert_allclose(each.log_probs[1], one.log_probs[1], rtol=1e-6)
    assert (each.log_probs[2] != one.log_probs[2]).all()


def test_a_large_batch_in_one_call():
    toy = make_toy(batch=64, bias=1.0)
    decoded = decode(toy, beam_width=5, n_best=5, max_length=20)
    assert decoded.tokens.shape == (64, 5, 20) and np.isfinite(decoded.scores).all()
    for b in (0, 63):
        alone = decode(rows(toy, [b]), beam_width=5, n_best=5, max_length=20)
        np.testing.assert_array_equal(alone.tokens[0], decoded.tokens[b])
