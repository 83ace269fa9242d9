"""What holds for every decoder: how it is traced, its dtypes, its log-probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.decoding import beam_search, greedy, sample, score
from tests.decoding.helpers import (
    BEGIN,
    END,
    B,
    L,
    decode,
    initial,
    make_toy,
    rows,
    score_toy,
    step_of,
    weights_of,
)

seeds = st.integers(0, 2**20)
DECODERS = {
    "greedy": (greedy, {}),
    "sample": (sample, {"key": jax.random.key(3), "num_samples": 3, "temperature": 2.0}),
    "beam_search": (beam_search, {"beam_width": 3, "n_best": 3, "length_penalty": 1.0}),
}
each_decoder = pytest.mark.parametrize(("decoder", "options"), DECODERS.values(), ids=DECODERS)


@pytest.mark.quick("beam_search")
@each_decoder
@given(seed=seeds)
def test_scoring_is_decoding(decoder, options, seed):
    toy = make_toy(seed)
    decoded = decode(toy, decoder, **options)
    scored = score_toy(toy, decoded.tokens, decoded.lengths)
    np.testing.assert_allclose(scored.log_probs, decoded.log_probs, rtol=1e-5, atol=1e-6)
    assert scored.token_log_probs.shape == decoded.tokens.shape


def _call(decoder, options, toy, step=None, **others):
    given = dict(options)
    keys = (given.pop("key"),) if "key" in given else ()
    settings = {"begin": BEGIN, "end": END, "max_length": L} | given | others
    run = lambda state: decoder(step or step_of(toy), state, *keys, **settings)  # noqa: E731
    return jax.jit(run)(initial(toy))


@pytest.mark.quick("beam_search")
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
        sizes.append(text.count(" = "))
    assert sizes[0] == sizes[1]


@pytest.mark.quick()
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
        score(
            step_of(toy),
            initial(toy),
            decoded.tokens,
            lengths=decoded.lengths,
            begin=BEGIN,
            end=END,
        )
    assert np.isfinite(decoded.log_probs).all()


@pytest.mark.quick()
@each_decoder
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes(decoder, options, dtype):
    with jax.enable_x64(dtype == "float64"):
        toy = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), make_toy())
        decoded = _call(decoder, options, toy, alignment=weights_of)
        expected = "float32" if dtype == "bfloat16" else dtype
        assert decoded.log_probs.dtype == decoded.scores.dtype == expected
        assert decoded.tokens.dtype == decoded.lengths.dtype == jnp.int32
        assert decoded.alignments.dtype == dtype and decoded.finished.dtype == bool
        scored = score_toy(toy, decoded.tokens, decoded.lengths)
        # In half precision the compiler rounds where it likes, not alike in two programs.
        tolerance = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}[dtype]
        np.testing.assert_allclose(scored.log_probs, decoded.log_probs, rtol=tolerance)


@each_decoder
def test_no_sentences(decoder, options):
    decoded = _call(decoder, options, rows(make_toy(), []), alignment=weights_of)
    n = 1 if decoder is greedy else 3
    assert decoded.tokens.shape == (0, n, L) and decoded.alignments.shape == (0, n, L, 3)


@pytest.mark.quick()
@each_decoder
def test_one_begin_each(decoder, options):
    toy = make_toy()
    one = _call(decoder, options, toy, begin=2)
    each = _call(decoder, options, toy, begin=np.array([1, 2, 3], np.uint8))
    np.testing.assert_array_equal(each.tokens[1], one.tokens[1])
    np.testing.assert_allclose(each.log_probs[1], one.log_probs[1], rtol=1e-6)
    assert (each.log_probs[2] != one.log_probs[2]).all()


@pytest.mark.quick()
def test_a_large_batch_in_one_call():
    toy = make_toy(batch=64, bias=1.0)
    decoded = decode(toy, beam_width=5, n_best=5, max_length=20)
    assert decoded.tokens.shape == (64, 5, 20) and np.isfinite(decoded.scores).all()
    for b in (0, 63):
        alone = decode(rows(toy, [b]), beam_width=5, n_best=5, max_length=20)
        np.testing.assert_array_equal(alone.tokens[0], decoded.tokens[b])
