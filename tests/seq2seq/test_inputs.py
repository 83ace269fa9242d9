"""What users give to `generate`, models and exported programs: checked on the host."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from seqjax import export, seq2seq
from seqjax.seq2seq._decoder import Features
from tests.seq2seq.helpers import translator


@functools.cache
def model():
    return translator(embed_size=4, hidden_size=5)


@functools.cache
def frames():
    """A model of sequences of four numbers."""
    return seq2seq.Seq2Seq(target_vocabulary=9, embed_size=4, hidden_size=5, rngs=nnx.Rngs(0))


@functools.cache
def copying():
    return translator(copy=True, embed_size=4, hidden_size=5)


OPTIONS: Any = {"begin": 2, "end": 3, "max_length": 3, "beam_width": 2}

BAD = {
    "too large": (ValueError, r"sources\[1\]: .*\[0, 6\], got 9", {"sources": [[1], [1, 9]]}),
    "negative": (ValueError, r"sources\[0\]: .*\[0, 6\], got -1", {"sources": [[1, -1]]}),
    "int64": (ValueError, r"got 4294967297", {"sources": [np.array([2**32 + 1])]}),
    "huge": (TypeError, r"sources\[0\]: expected integers", {"sources": [[2**70]]}),
    "floats": (TypeError, "got float64", {"sources": [[1.0, 2.0]]}),
    "bools": (TypeError, "got bool", {"sources": [[True]]}),
    "text": (TypeError, r"sources\[0\]: .*'cat'", {"sources": ["cat"]}),
    "one text": (TypeError, "sources: expected a list", {"sources": "cat"}),
    "bytes": (TypeError, r"sources\[0\]: .*list\(", {"sources": [b"\1\2"]}),
    "missing": (TypeError, r"sources\[0\]", {"sources": [[1, None]]}),
    "masked": (ValueError, r"sources\[0\]: .*masked",
               {"sources": [np.ma.masked_equal([1, 2], 2)]}),
    "masked deep": (ValueError, r"sources\[0\]: .*masked",
                    {"sources": [[np.ma.masked_equal(1, 1), 2]]}),
    "nothing": (TypeError, r"sources\[1\]", {"sources": [[1], None]}),
    "none": (TypeError, "sources: expected a list", {"sources": None}),
    "mapping": (TypeError, "sources: expected a list", {"sources": {0: [1]}}),
    "table": (TypeError, "pass one of its columns", {"sources": pd.DataFrame({"x": [[1]]})}),
    "not wrapped": (ValueError, r"sources\[0\]: .*shape \(\)", {"sources": [1, 2]}),
    "two axes": (ValueError, r"sources\[0\]: .*shape \(1, 2\)", {"sources": [[[1, 2]]]}),
    "ragged": (TypeError, r"sources\[0\]: expected integers", {"sources": [[[1], [1, 2]]]}),
    "empty": (ValueError, "sources: expected at least one", {"sources": []}),
    "begin": (ValueError, "begin: expected a token from 0 to 8, got 9", {"begin": 9}),
    "begin negative": (ValueError, "begin: expected .* got -1", {"begin": -1}),
    "begin several": (TypeError, "begin: expected an integer", {"begin": [2]}),
    "end": (ValueError, "end: expected a token from 0 to 8 .* got 9", {"end": (3, 9)}),
    "model": (TypeError, "model: expected", {"model": lambda: nnx.Linear(1, 1, rngs=nnx.Rngs(0))}),
    "ids": (
        ValueError, r"source_ids\[0\]: .*\[0, 9\], got 10",
        {"model": copying, "source_ids": [[10]]},
    ),
    "ids short": (
        ValueError, r"source_ids\[0\]: expected 1 ids", {"model": copying, "source_ids": [[1, 1]]},
    ),
    "ids missing": (
        ValueError, "source_ids: expected one for each of 1 sources, got 0",
        {"model": copying, "source_ids": []},
    ),
    "frames": (ValueError, r"sources\[0\]: expected finite numbers, got nan",
               {"model": frames, "sources": [np.full((2, 4), np.nan)]}),
    "frames shape": (ValueError, r"sources\[0\]: expected floats \[s, 4\], got shape \(2, 3\)",
                     {"model": frames, "sources": [np.zeros((2, 3))]}),
    "frames of tokens": (TypeError, "expected floats", {"model": frames, "sources": [[1, 2]]}),
}  # fmt: skip


@pytest.mark.parametrize(("error", "message", "given"), BAD.values(), ids=BAD)
def test_generate_refuses(error, message, given):
    given = {"model": model, "sources": [[1]]} | OPTIONS | given
    with pytest.raises(error, match=message):
        seq2seq.generate(given.pop("model")(), given.pop("sources"), **given)


def test_generate_takes_lists_of_any_kind():
    wanted = seq2seq.generate(model(), [[1, 6], [4]], **OPTIONS)
    column = pd.Series([[4], [1, 6]], index=[5, 3]).sort_index()
    for sources in (
        column,
        iter([[1, 6], [4]]),
        [np.array([1, 6], object), np.array([4], np.uint8)],
    ):
        found = seq2seq.generate(model(), sources, **OPTIONS)
        assert [f.tokens.tolist() for f in found] == [w.tokens.tolist() for w in wanted]


@pytest.mark.quick()
def test_generate_says_which_token_ended_an_output():
    found = seq2seq.generate(model(), [[1, 6], [4]], **OPTIONS | {"end": range(9)})
    assert all(output.finished and output.end in range(9) for output in found)
    assert all(
        len(output.tokens) == 0 and np.asarray(output.attention).shape[0] == 1 for output in found
    )
    [cut] = seq2seq.generate(model(), [[1]], **OPTIONS, min_length=3)
    assert cut.end is None and not cut.finished and len(cut.tokens) == 3


@pytest.mark.quick()
@pytest.mark.parametrize("weights", ["constants", "argument"])
def test_exported_programs_refuse(weights):
    artifact = export.export_decoding(
        model(), begin=2, end=[3, 5], max_length=3, weights=weights, platforms=["cpu"]
    )
    found = artifact(np.array([[1, 6], [4, 99]], np.int32), np.array([2, 1], np.int32))
    for row, length in enumerate(np.asarray(found["lengths"])):
        assert length == 3 or found["tokens"][row, length] in (3, 5)
    for source, lengths, message in (
        ([[1, 9]], [2], r"source: expected values in \[0, 6\] .* got 9"),
        ([[1, -1]], [2], r"source: .* got -1"),
        ([[1, 1]], [3], r"lengths: expected values in \[0, 2\] .* got 3"),
        ([[1, 1]], [-1], r"lengths: .* got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            artifact(source, lengths)
    traced = jax.jit(lambda *inputs: artifact(*inputs))(
        jnp.array([[1, -1], [1, 2]]), jnp.array([2, 2])
    )
    assert np.isnan(traced["log_probs"]).tolist() == [True, False]


def test_export_refuses():
    for given, message in (
        ({"begin": 9}, "begin: expected a token from 0 to 8, got 9"),
        ({"begin": -1}, "begin: expected .* got -1"),
        ({"end": [3, 9]}, "end: expected a token from 0 to 8"),
        ({"max_length": 0}, "max_length: expected a positive integer, got 0"),
    ):
        options: Any = {"begin": 2, "end": 3, "max_length": 3} | given
        with pytest.raises(ValueError, match=message):
            export.export_decoding(model(), **options)


@pytest.mark.quick()
def test_unknown_tokens_are_nan_under_tracing():
    run = jax.jit(lambda source, tokens: model()(source, tokens))
    source = jnp.array([[1, 2], [1, 2], [1, 2]])
    nan = np.isnan(run(source.at[0, 1].set(-1).at[1, 1].set(7), jnp.full((3, 1), 2))).any((1, 2))
    assert nan.tolist() == [True, True, False]
    tokens = jnp.array([[2, -1, 4], [2, 9, 4], [2, 4, -1]])
    nan = np.isnan(run(source, tokens)).any(-1)
    assert nan.tolist() == [[False, True, True], [False, True, True], [False] * 3]
    with pytest.raises(ValueError, match="tokens: expected negative numbers only as padding"):
        model()(source, tokens)


@pytest.mark.quick()
def test_what_cannot_be_copied_is_impossible():
    """Token 10 is not in the source: its log-probability is -inf, with finite gradients."""
    graph, state = nnx.split(copying())
    source, ids = jnp.array([[1, 2]]), jnp.array([[4, 9]])

    def logits(state, ids=ids):
        model = nnx.merge(graph, state)
        return model(source, jnp.array([[2, 5]]), source_ids=ids)

    found = jax.jit(logits)(state)
    assert np.isneginf(found[..., 10]).all() and np.isfinite(found[..., :10]).all()
    np.testing.assert_allclose(jnp.exp(found).sum(-1), 1.0, rtol=1e-5)
    slope = jax.jit(jax.grad(lambda state, token: logits(state)[..., token].sum()))
    for token in (4, 9, 10):
        slopes = slope(state, token)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    with pytest.raises(ValueError, match=r"source_ids: .* got 11"):
        logits(state, jnp.array([[4, 11]]))
    assert np.isnan(jax.jit(logits)(state, jnp.array([[4, 11]]))).any()


def test_copying_has_no_floor():
    """A saturated gate leaves log-probabilities far below log 1e-20."""
    decoder = copying().decoder
    features = Features(jnp.full((1, 10), 1e4), jnp.array([[1.0, 0.0]]), jnp.array([-1e4]))
    found = jax.jit(lambda f: decoder.logits(f, jnp.array([[4, 4]])))(features)
    others = np.delete(np.asarray(found[0, :9], np.float64), 4)
    assert found[0, 4] == 0.0 and (others <= -1e4).all() and np.isfinite(others).all()


@pytest.mark.quick()
def test_options_of_equal_value_and_another_type_are_refused_after_a_call():
    """A compiled search is found again by ==, by which 2.0 is 2 and True is 1."""
    good = {"beam_width": 2, "min_length": 1, "no_repeat_ngram": 1, "length_penalty": 1.0}
    options = {**OPTIONS, **good}
    seq2seq.generate(model(), [[1, 2]], **options)
    for name, wrong in {
        "beam_width": 2.0, "min_length": True, "no_repeat_ngram": 1.0, "length_penalty": True,
    }.items():  # fmt: skip
        with pytest.raises(TypeError, match=f"{name}: expected"):
            seq2seq.generate(model(), [[1, 2]], **{**options, name: wrong})


@pytest.mark.quick()
def test_options_in_arrays():
    (expected,) = seq2seq.generate(model(), [[1, 2]], **{**OPTIONS, "min_length": 1})
    (found,) = seq2seq.generate(
        model(), [[1, 2]], **{**OPTIONS, "beam_width": jnp.array(2), "min_length": np.array(1)}
    )
    assert found.tokens.tolist() == expected.tokens.tolist() and found.score == expected.score
    for name, wrong in {
        "length_penalty": jnp.float32(0.5), "coverage_penalty": np.array(0.5),
        "no_repeat_ngram": [1],
    }.items():  # fmt: skip
        with pytest.raises(TypeError, match=f"{name}: expected"):
            seq2seq.generate(model(), [[1, 2]], **{**OPTIONS, name: wrong})


def test_frames_beyond_float32():
    huge = np.full((2, 4), 1e39)
    with pytest.raises(ValueError, match=r"sources\[0\]: .*1e\+39, which does not fit"):
        seq2seq.generate(frames(), [huge], **OPTIONS)
    with pytest.raises(ValueError, match=r"source: .*1e\+39, which does not fit"):
        frames().encoder(huge[None])


def test_nothing_to_attend_to():
    with pytest.raises(ValueError, match="sources: expected at least one position"):
        seq2seq.generate(model(), [[], []], padded=False, **OPTIONS)


def test_a_class_is_no_model():
    with pytest.raises(TypeError, match=r"model: .*, got the class Seq2Seq"):
        seq2seq.generate(seq2seq.Seq2Seq, [[1]], **OPTIONS)


def test_parameters_are_drawn_from_rngs_or_from_a_key():
    sizes: Any = {"source_vocabulary": 5, "target_vocabulary": 6, "embed_size": 3, "hidden_size": 4}
    key = jax.random.key(1)
    from_key, from_rngs = (
        nnx.state(seq2seq.Seq2Seq(**sizes, rngs=rngs), nnx.Param) for rngs in (key, nnx.Rngs(key))
    )
    for a, b in zip(jax.tree.leaves(from_key), jax.tree.leaves(from_rngs), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [leaf for leaf in jax.tree.leaves(from_key) if leaf.ndim == 2]
    assert len({leaf.tobytes() for leaf in map(np.asarray, kernels)}) == len(kernels)
    wrong: Any = None
    with pytest.raises(TypeError, match=r"rngs: expected nnx.Rngs\(0\) or a random key, got None"):
        seq2seq.Seq2Seq(**sizes, rngs=wrong)
