"""Ensembles: probabilities are averaged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding import beam_search, ensemble
from tests.decoding.helpers import (
    BEGIN,
    END,
    B,
    L,
    Oracle,
    initial,
    make_toy,
    step_of,
)


@pytest.mark.quick()
def test_ensemble_of_a_model_with_itself_is_the_model():
    toy = make_toy(6)
    step = step_of(toy)
    options: dict[str, Any] = {"begin": BEGIN, "end": END, "max_length": L, "beam_width": 3}
    alone = beam_search(step, initial(toy), **options)
    twice = beam_search(ensemble([step, step]), (initial(toy),) * 2, **options)
    np.testing.assert_array_equal(twice.tokens, alone.tokens)
    np.testing.assert_allclose(twice.log_probs, alone.log_probs, rtol=1e-5)


@pytest.mark.quick()
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
