"""The state of a beam: any arrays, which go with their hypotheses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding import beam_search
from seqjax.decoding._problem import make_problem
from tests.decoding.helpers import (
    BEGIN,
    END,
    B,
    L,
    initial,
    make_toy,
    step_of,
)


@pytest.mark.quick()
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
    run = lambda step: jax.jit(lambda: beam_search(step, initial(toy), **options))()  # noqa: E731
    seen, unseen = run(step_of(toy)), run(changed)
    np.testing.assert_array_equal(seen.tokens, unseen.tokens)
    np.testing.assert_array_equal(seen.scores, unseen.scores)


@pytest.mark.quick()
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
    options: Any = {"beam_width": 4, "n_best": 4, "alignment": read, "length_penalty": 2.0}
    run = jax.jit(lambda: beam_search(step, state, begin=1, end=0, max_length=L, **options))
    decoded: Any = run()
    longest = decoded.lengths.max()
    assert longest >= 3
    b, k = np.argwhere(np.asarray(decoded.lengths) == longest)[0]
    fed = decoded.alignments[b, k, longest - 1, :longest]  # begin and all tokens but the last
    assert fed.tolist() == [1, *decoded.tokens[b, k, : longest - 1].tolist()]
