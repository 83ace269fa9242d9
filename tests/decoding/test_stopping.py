"""When the loops stop: as soon as nothing better can come, and never past max_length."""

from typing import Any

import hypothesis
import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.decoding import beam_search, greedy
from tests.decoding.helpers import (
    BEGIN,
    END,
    B,
    Oracle,
    Rules,
    assert_outputs,
    beam_loop,
    initial,
    make_toy,
    step_of,
)

seeds = st.integers(0, 2**20)


@pytest.fixture(scope="module")
def counting():
    """A decoder that counts its steps; compiled once for each of its options."""
    count = []
    compiled: dict[Any, Any] = {}

    def run(decoder, toy, **options):
        def call(toy):
            step = step_of(toy)

            def counted(tokens, state):
                jax.debug.callback(lambda: count.append(1))
                return step(tokens, state)

            return decoder(counted, initial(toy), begin=BEGIN, end=END, **options)

        name = (decoder, *sorted(options.items()))
        call = compiled.setdefault(name, jax.jit(call))
        count.clear()
        decoded = jax.block_until_ready(call(toy))
        jax.effects_barrier()
        return decoded, len(count)

    return run


@pytest.mark.quick()
@given(seed=seeds, alpha=st.sampled_from([0.0, 0.5]), bias=st.sampled_from([1.0, 3.0, 6.0]))
@hypothesis.settings(max_examples=60)
def test_stops_as_soon_as_nothing_better_can_come(counting, seed, alpha, bias):
    toy = make_toy(seed, bias=bias)
    options = {"max_length": 8, "beam_width": 2, "n_best": 2, "length_penalty": alpha}
    decoded, steps = counting(beam_search, toy, **options)
    expected = []
    for b in range(B):
        oracle = Oracle(toy, b)
        outputs, enough = beam_loop(oracle, Rules(max_length=8, length_penalty=alpha), 2, 2)
        assert_outputs(decoded, b, outputs, oracle)
        expected.append(enough)
    assert steps == max(expected)


def test_stops_early_at_all(counting):
    toy = make_toy(bias=9.0)
    _, steps = counting(beam_search, toy, max_length=50, beam_width=2, length_penalty=1.0)
    assert steps < 5
    walked, steps = counting(greedy, toy, max_length=50, min_length=3)
    assert walked.finished.all() and steps == walked.lengths.max() + 1 == 4


def test_never_runs_past_max_length(counting):
    for decoder in (greedy, beam_search):
        decoded, steps = counting(decoder, make_toy(ruled_out=[END]), max_length=7)
        assert steps == 7
        assert (decoded.lengths == 7).all() and not decoded.finished.any()
