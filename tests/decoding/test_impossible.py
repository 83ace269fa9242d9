"""Tokens that are ruled out, outputs that do not exist, prefixes that leave no choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding import beam_search, greedy
from tests.decoding.helpers import (
    END,
    B,
    Oracle,
    Rules,
    assert_outputs,
    decode,
    every_output,
    make_toy,
    weights_of,
)


def test_ruled_out_tokens_do_not_occur():
    toy = make_toy(ruled_out=[2])
    decoded = decode(toy, beam_width=108, n_best=8)
    assert not np.isnan(decoded.scores).any() and (decoded.tokens != 2).all()
    for b in range(B):
        oracle = Oracle(toy, b)
        assert_outputs(decoded, b, every_output(oracle, Rules())[:8], oracle)


@pytest.mark.quick()
@pytest.mark.parametrize("decoder", [greedy, beam_search])
def test_no_output_is_reported(decoder):
    everything = make_toy(ruled_out=range(4))
    decoded = decode(everything, decoder)
    assert (decoded.log_probs == -np.inf).all() and (decoded.scores == -np.inf).all()
    assert (decoded.lengths == 0).all() and (decoded.tokens == END).all()
    assert not decoded.finished.any()
    # Something, and then nothing.
    arrays = {"prefix": np.array([[1, 2]] * B)}
    decoded = decode(make_toy(ruled_out=[2]), decoder, arrays=arrays, alignment=weights_of)
    assert (decoded.log_probs == -np.inf).all() and (decoded.tokens == END).all()
    assert (decoded.lengths == 0).all() and (decoded.alignments == 0).all()
    # The end is all there is, and is forbidden.
    decoded = decode(make_toy(ruled_out=[1, 2, 3]), decoder, min_length=1)
    assert (decoded.log_probs == -np.inf).all() and (decoded.lengths == 0).all()


@pytest.mark.quick("beam_search-1.0", "greedy-1.0")
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("decoder", [greedy, beam_search])
def test_nan_is_not_hidden(decoder, sign):
    """NaN has a sign, by which it is sorted; -inf - -inf is -NaN."""

    def step(tokens, state):
        broken = state[:, None] & (tokens == 1)[:, None]
        return jnp.where(broken, jnp.copysign(jnp.nan, sign), jnp.array([[0.0, 1.0, 0.9]])), state

    run = jax.jit(lambda state: decoder(step, state, begin=2, end=0, max_length=4))
    decoded = run(jnp.array([True, False]))
    assert np.isnan(decoded.log_probs[0, 0]) and decoded.lengths[0, 0] == 0
    assert np.isfinite(decoded.log_probs[1, 0])


@pytest.mark.quick()
def test_fewer_outputs_than_asked_for():
    toy = make_toy(vocabulary=2)
    decoded = decode(toy, beam_width=6, n_best=6, max_length=2, alignment=weights_of)
    # End; 1, end; 1, 1.
    np.testing.assert_array_equal(np.isfinite(decoded.scores), [[True] * 3 + [False] * 3] * B)
    np.testing.assert_allclose(np.exp(decoded.log_probs).sum(axis=1), 1.0, rtol=1e-5)
    assert (decoded.lengths[:, 3:] == 0).all() and (decoded.alignments[:, 3:] == 0).all()
    assert not decoded.finished[:, 3:].any()


@pytest.mark.quick()
def test_a_vocabulary_of_the_end_alone():
    decoded = decode(make_toy(vocabulary=1), beam_width=3, n_best=2)
    assert decoded.finished[:, 0].all() and not decoded.finished[:, 1].any()
    np.testing.assert_allclose(decoded.log_probs[:, 0], 0.0, atol=1e-6)


@pytest.mark.quick()
def test_a_prefix_that_ends():
    arrays = {"prefix": np.array([[1, END, 2]] * B)}
    for decoder in (greedy, beam_search):
        decoded = decode(make_toy(), decoder, arrays=arrays, min_length=3)
        assert decoded.tokens[:, 0].tolist() == [[1, END, END, END]] * B
        assert decoded.finished.all() and (decoded.lengths == 1).all()


@pytest.mark.quick()
def test_a_prefix_may_repeat_itself():
    arrays = {"prefix": np.array([[1, 1, 1]] * B)}
    decoded = decode(make_toy(), arrays=arrays, no_repeat_ngram=1, beam_width=2)
    assert (decoded.tokens[:, 0, :3] == 1).all() and (decoded.tokens[:, 0, 3] != 1).all()
