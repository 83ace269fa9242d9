"""Bad calls of decoders: the argument is named, with what was expected and what came."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax.cells import GRU
from seqjax.decoding import beam_search, ensemble, greedy, sample, score
from tests.decoding.helpers import BEGIN, END, L, initial, make_toy, step_of, weights_of

B, S = 3, 3
TOY = make_toy()
STEP, STATE = step_of(TOY), initial(TOY)
BROKEN: Any = None
WANTS_COVERAGE = {"coverage_penalty": 0.1}


def changed(**fields):
    """A step whose new state differs from the old."""
    return lambda tokens, state: (STEP(tokens, state)[0], state._replace(**fields))


def logits_of(shape, dtype=jnp.float32):
    return lambda tokens, state: (jnp.zeros(shape, dtype), state)


BAD = {
    "step": (TypeError, "function", {"step": 3}),
    "step without a state": (TypeError, "return .logits, state., got", {"step": lambda t, s: t}),
    "step rows": (ValueError, r"N=\d+, got \(2, 4\)", {"step": logits_of((2, 4))}),
    "step rank": (ValueError, r"logits \[N, V\]", {"step": logits_of((3,))}),
    "step int": (TypeError, "floating-point logits", {"step": logits_of((3, 4), jnp.int32)}),
    "step state shape": (ValueError, r"float32\(\d+, 5\)", {"step": changed(h=jnp.zeros((3, 2)))}),
    "step state dtype": (
        ValueError, r"bfloat16\(3, 5\)", {"step": changed(h=jnp.zeros((3, 5), jnp.bfloat16))},
    ),
    "step state structure": (ValueError, "got", {"step": changed(h=None)}),
    "state": (TypeError, "arrays", {"state": "nothing"}),
    "state, begin: sizes": (ValueError, r"\(3,\).*\(2,\)", {"state": (np.ones(3), np.ones(2))}),
    "state, begin: scalar": (ValueError, "leading axis", {"state": np.ones(())}),
    "state, begin: none": (ValueError, "leading axis", {"state": ()}),
    "state, begin: begin": (ValueError, r"\(2,\)", {"begin": np.array([1, 2])}),
    "begin": (TypeError, "float", {"begin": 0.5}),
    "end": (ValueError, "vocabulary of 4 tokens, got 4", {"end": 4}),
    "end negative": (ValueError, "at least 0", {"end": -1}),
    "max_length": (ValueError, "positive", {"max_length": 0}),
    "max_length float": (TypeError, "integer", {"max_length": 2.0}),
    "min_length": (ValueError, "at most max_length=4, got 5", {"min_length": 5}),
    "prefix": (ValueError, r"B=3.*got \(2, 1\)", {"prefix": np.ones((2, 1), int)}),
    "prefix long": (ValueError, "max_length=4", {"prefix": np.ones((3, 5), int)}),
    "prefix float": (TypeError, "float", {"prefix": np.ones((3, 1))}),
    "prefix token": (ValueError, "0 to 3, got 1 to 4", {"prefix": np.array([[1], [4], [1]])}),
    "prefix_lengths": (
        ValueError, "0 to 1", {"prefix": np.ones((3, 1), int), "prefix_lengths": np.full(3, 2)},
    ),
    "prefix_lengths shape": (
        ValueError, r"\(3,\), got \(2,\)",
        {"prefix": np.ones((3, 1), int), "prefix_lengths": np.ones(2, int)},
    ),
    "prefix_lengths alone": (ValueError, "without a prefix", {"prefix_lengths": np.ones(3, int)}),
    "alignment": (TypeError, "function", {"alignment": 1}),
    "alignment shape": (ValueError, r"weights \[N, S\]", {"alignment": lambda s: s.h[0]}),
}  # fmt: skip
BEAM = {
    "beam_width": (ValueError, "positive", {"beam_width": 0}),
    "n_best": (ValueError, "at most beam_width=5, got 6", {"n_best": 6}),
    "length_penalty": (ValueError, "at least 0, got -1", {"length_penalty": -1.0}),
    "length_penalty nan": (ValueError, "finite number, got nan", {"length_penalty": float("nan")}),
    "length_penalty text": (TypeError, "number", {"length_penalty": "1"}),
    "coverage_penalty": (ValueError, "at least 0", {"coverage_penalty": -0.1}),
    "alignment missing": (
        ValueError, "coverage_penalty", WANTS_COVERAGE | {"source_mask": np.ones((B, S), bool)},
    ),
    "source_mask": (ValueError, "coverage_penalty", WANTS_COVERAGE | {"alignment": weights_of}),
    "source_mask shape": (
        ValueError, r"\(3, 3\), got \(3, 2\)",
        {"alignment": weights_of, "source_mask": np.ones((B, 2), bool)},
    ),
    "source_mask dtype": (
        TypeError, "bool", {"alignment": weights_of, "source_mask": np.ones((B, S))},
    ),
    "no_repeat_ngram": (ValueError, "at least 0", {"no_repeat_ngram": -1}),
}  # fmt: skip
SAMPLE = {
    "key": (TypeError, "random key", {"key": 3}),
    "temperature": (ValueError, "greedy", {"temperature": 0.0}),
    "top_k": (ValueError, "positive", {"top_k": 0}),
    "top_p": (ValueError, r"\(0, 1\], got 1.5", {"top_p": 1.5}),
    "top_p zero": (ValueError, r"\(0, 1\]", {"top_p": 0.0}),
    "num_samples": (ValueError, "positive", {"num_samples": 0}),
}


def assert_refused(name, error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    text = str(caught.value)
    argument = name.partition(":")[0] if ":" in name else name.partition(" ")[0]
    assert re.match(rf"{argument}: expected ", text), text
    assert len(text) < 600


def call(decoder, arguments):
    given = {"step": STEP, "state": STATE, "begin": BEGIN, "end": END, "max_length": L} | arguments
    positional = [given.pop("step"), given.pop("state")]
    if decoder is sample:
        positional.append(given.pop("key", jax.random.key(0)))
    return decoder(*positional, **given)


@pytest.mark.parametrize("decoder", [greedy, sample, beam_search])
@pytest.mark.parametrize(("name", "row"), BAD.items(), ids=BAD)
def test_decoders_refuse(decoder, name, row):
    error, message, arguments = row
    assert_refused(name, error, message, lambda: call(decoder, arguments))


@pytest.mark.parametrize(("name", "row"), BEAM.items(), ids=BEAM)
def test_beam_search_refuses(name, row):
    error, message, arguments = row
    assert_refused(name, error, message, lambda: call(beam_search, arguments))


@pytest.mark.parametrize(("name", "row"), SAMPLE.items(), ids=SAMPLE)
def test_sample_refuses(name, row):
    error, message, arguments = row
    assert_refused(name, error, message, lambda: call(sample, arguments))


@pytest.mark.parametrize(
    ("name", "tokens", "lengths", "error", "message"),
    [
        ("tokens", np.ones(3, int), np.ones(3, int), ValueError, r"\[B, L\] or \[B, n, L\]"),
        ("tokens", np.ones((3, 2)), np.ones(3, int), TypeError, "float"),
        ("tokens", np.ones((2, 2), int), np.ones(2, int), ValueError, r"B=3.*got \(2, 2\)"),
        ("lengths", np.ones((3, 2), int), np.full(3, 3), ValueError, "0 to 2"),
        ("lengths", np.ones((3, 2), int), np.ones((3, 2), int), ValueError, r"\(3,\)"),
        ("lengths", np.ones((3, 2, 4), int), np.ones(3, int), ValueError, r"\(3, 2\)"),
    ],
)
def test_score_refuses(name, tokens, lengths, error, message):
    run = lambda: score(STEP, STATE, tokens, lengths=lengths, begin=BEGIN, end=END)  # noqa: E731
    assert_refused(name, error, message, run)


def test_ensemble_refuses():
    assert_refused("steps", ValueError, "got none", lambda: ensemble([]))
    assert_refused("steps", TypeError, "functions", lambda: ensemble([STEP, BROKEN]))
    tokens, both = jnp.zeros(3, jnp.int32), ensemble([STEP, STEP])
    assert_refused("state", ValueError, "2 models, got 1", lambda: both(tokens, (STATE,)))
    assert_refused("state", TypeError, "tuple", lambda: both(tokens, [STATE, STATE]))
    mixed = ensemble([STEP, logits_of((3, 7))])
    assert_refused("steps", ValueError, r"one shape", lambda: mixed(tokens, (STATE, STATE)))


def test_random_streams_are_no_key():
    def step(tokens, state):
        return jnp.zeros((len(tokens), 3)), state

    with pytest.raises(TypeError, match=r"key: expected a random key.*got Rngs; pass rngs.params"):
        sample(step, jnp.zeros((1, 1)), nnx.Rngs(0), begin=0, end=1, max_length=2)
    with pytest.raises(TypeError, match=r"key: expected a random key.*got RngStream; pass stream"):
        GRU(2, 3).init(nnx.Rngs(0).params)


@pytest.mark.parametrize("decoder", [greedy, sample, beam_search])
def test_known_arguments_may_be_constants_of_a_compiled_function(decoder):
    arguments: Any = {
        "begin": jnp.full(3, BEGIN), "prefix": jnp.ones((3, 1), jnp.int32),
        "prefix_lengths": jnp.array([1, 0, 1]),
    }  # fmt: skip
    found = jax.jit(lambda state: call(decoder, arguments | {"state": state}))(STATE)
    np.testing.assert_array_equal(found.tokens, call(decoder, arguments).tokens)
    for name, value in (("begin", -1), ("prefix_lengths", 2)):
        wrong = arguments | {name: jnp.full(3, value)}
        with pytest.raises(ValueError, match=f"{name}: expected .* got"):
            jax.jit(lambda state, wrong=wrong: call(decoder, wrong | {"state": state}))(STATE)


def test_score_takes_a_constant_begin_in_a_compiled_function():
    begin, tokens = jnp.full(3, BEGIN), np.ones((3, 2), int)
    run = lambda state: score(STEP, state, tokens, begin=begin, end=END).log_probs  # noqa: E731
    np.testing.assert_allclose(jax.jit(run)(STATE), run(STATE), rtol=1e-6)
