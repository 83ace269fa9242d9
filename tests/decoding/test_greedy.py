"""Greedy decoding against a loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqjax.decoding import greedy
from tests.decoding.helpers import (
    B,
    L,
    Oracle,
    Rules,
    assert_outputs,
    decode,
    greedy_loop,
    make_toy,
    weights_of,
)

seeds = st.integers(0, 2**20)


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
