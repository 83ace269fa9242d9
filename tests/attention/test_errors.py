"""Bad calls: each mistake is met by an exception that names the argument and says what came."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import attention as attentions
from tests.attention.cases import M, Q, S, params_of, registered

B = 2
MEMORY = np.ones((B, S, M), np.float32)
QUERY = np.ones((B, Q), np.float32)
MASK = np.ones((B, S), bool)
EITHER = (TypeError, ValueError)

OPTIONS: list[tuple[str, dict[str, Any], Any, str]] = [
    ("additive", {"query_size": 0}, ValueError, "query_size: expected a positive integer, got 0"),
    ("additive", {"memory_size": 2.5}, TypeError, "memory_size: expected a positive integer"),
    ("additive", {"units": 0}, ValueError, "units: expected a positive integer, got 0"),
    ("additive", {"units": "many"}, TypeError, "units: expected a positive integer"),
    ("additive", {"temperature": 0}, ValueError, "temperature: expected a positive"),
    ("additive", {"temperature": -1.0}, ValueError, "temperature: expected a positive"),
    ("additive", {"temperature": float("nan")}, ValueError, "temperature: expected a finite"),
    ("additive", {"temperature": "warm"}, TypeError, "temperature: expected a number"),
    ("additive", {"kernel_init": "glorot"}, ValueError, "kernel_init: expected one of"),
    ("dot", {}, ValueError, "memory_size: expected query_size=3"),
    ("scaled_dot", {}, ValueError, "memory_size: expected query_size=3"),
    ("local_p", {"window": 0}, ValueError, "window: expected a positive integer, got 0"),
    ("location_aware", {"filters": 0}, ValueError, "filters: expected a positive integer"),
    ("location_aware", {"kernel_size": 1.0}, TypeError, "kernel_size: expected a positive"),
    ("monotonic", {"mode": "parallel"}, ValueError, "mode: expected one of soft, hard"),
    ("monotonic", {"score_bias_init": None}, TypeError, "score_bias_init: expected a number"),
    ("mocha", {"chunk_width": 0}, ValueError, "chunk_width: expected a positive integer"),
    ("multi_head", {"heads": 0}, ValueError, "heads: expected a positive integer, got 0"),
    ("multi_head", {"head_size": -1}, ValueError, "head_size: expected a positive integer"),
]


@pytest.mark.parametrize("name, options, error, message", OPTIONS)
def test_bad_options(name, options, error, message):
    sizes = {"query_size": Q, "memory_size": M}
    with pytest.raises(error) as caught:
        attentions.ATTENTIONS[name](**(sizes | options))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "memory, mask, error, name",
    [
        (MEMORY[..., 1:], MASK, ValueError, "memory"),
        (MEMORY[0, 0], None, ValueError, "memory"),
        (np.float32(1), None, ValueError, "memory"),
        (MEMORY.astype(int), MASK, TypeError, "memory"),
        (None, MASK, EITHER, "memory"),
        ("memory", MASK, TypeError, "memory"),
        (MEMORY, MASK.astype(np.float32), TypeError, "mask"),
        (MEMORY, MASK.astype(np.int32), TypeError, "mask"),
        (MEMORY, MASK[:, 1:], ValueError, "mask"),
        (MEMORY, MASK[0], ValueError, "mask"),
        (MEMORY, MASK.T, ValueError, "mask"),
        (MEMORY, MASK[..., None], ValueError, "mask"),
    ],
)
def test_bad_memory(memory, mask, error, name):
    attention = attentions.Additive(Q, M)
    with pytest.raises(error, match=f"^{name}: expected"):
        attention.precompute(params_of(attention), memory, mask=mask)


@pytest.mark.parametrize(
    "query, error",
    [
        (QUERY[:, 1:], ValueError),
        (QUERY[0], ValueError),
        (QUERY[:1], ValueError),
        (QUERY[None], ValueError),
        (QUERY.astype(int), TypeError),
        (None, EITHER),
    ],
)
@registered
def test_bad_query(case, query, error):
    attention, params = case.attention, params_of(case.attention)
    if case.query_size != Q and getattr(query, "shape", ())[-1:] == (Q,):
        query = np.concatenate([query, query[..., : case.query_size - Q]], axis=-1)
    memory = attention.precompute(params, MEMORY)
    with pytest.raises(error, match=r"^query: expected"):
        attention.attend(params, query, memory, attention.initial_state(memory))


@registered
def test_a_memory_that_was_not_precomputed(case):
    attention = case.attention
    with pytest.raises(TypeError, match=r"^memory: expected the result of precompute, got"):
        not_one: Any = MEMORY
        attention.attend(params_of(attention), np.ones((B, case.query_size)), not_one, ())


@registered
def test_bad_state(case):
    attention, params = case.attention, params_of(case.attention)
    memory = attention.precompute(params, MEMORY)
    query = np.ones((B, case.query_size), np.float32)
    good = attention.initial_state(memory)
    bad: list[Any] = [None, np.ones((B, S + 1), np.float32), (QUERY, QUERY)]
    if jax.tree.leaves(good):
        bad += [(), good.astype(int), good[0]]
    for state in bad:
        with pytest.raises(EITHER, match=r"^state: expected"):
            attention.attend(params, query, memory, state)


@pytest.mark.parametrize("name", ["monotonic", "mocha"])
def test_bad_noise(name):
    attention: Any = attentions.ATTENTIONS[name](Q, M)
    params = params_of(attention)
    memory = attention.precompute(params, MEMORY)
    state = attention.initial_state(memory)
    for noise in (np.ones((B, 1), np.float32), np.ones((B, S), int), jnp.float32(1), "loud"):
        with pytest.raises(EITHER, match=r"^noise: expected"):
            attention.attend(params, QUERY, memory, state, noise)


@registered
def test_bad_params(case):
    attention, params = case.attention, params_of(case.attention)
    if not jax.tree.leaves(params):
        return
    kind = type(params).__name__
    larger = jax.tree.map(lambda leaf: jnp.ones((*leaf.shape, 2)), params)
    bad = [((), TypeError, f"{kind} as from init"), (larger, ValueError, "shapes .* as from init")]
    for given, error, expected in bad:
        with pytest.raises(error, match=f"^params: expected {expected}, got"):
            attention.precompute(given, MEMORY)


def test_scores_and_weights_of_an_own_mechanism_have_a_shape():
    class Scores(attentions.Additive):
        def scores(self, params, query, memory, state):
            return super().scores(params, query, memory, state)[..., None]

    class Weights(attentions.Additive):
        def align(self, params, query, memory, state):
            return jnp.ones((B, S + 1)), state

    for kind, message in [
        (Scores, rf"scores: expected shape \({B}, {S}\), .*, got \({B}, {S}, 1\)"),
        (Weights, rf"align: expected weights of shape \({B}, {S}\), .*, got \({B}, {S + 1}\)"),
    ]:
        attention = kind(Q, M)
        params = params_of(attention)
        memory = attention.precompute(params, MEMORY)
        with pytest.raises(ValueError, match=message):
            attention.attend(params, QUERY, memory, ())


@registered
def test_bad_init(case):
    if not jax.tree.leaves(params_of(case.attention)):
        return
    with pytest.raises(TypeError, match=r"^key: expected a random key"):
        case.attention.init(0)
    with pytest.raises(TypeError, match=r"^dtype: expected a floating-point dtype"):
        case.attention.init(jax.random.key(0), jnp.int32)
