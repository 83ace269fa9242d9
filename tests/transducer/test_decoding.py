"""Greedy decoding and beam search against loops and the enumeration of all paths."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.transducer import transducer_beam_search, transducer_greedy
from tests.transducer.helpers import (
    GREEDY,
    LOSS,
    SEARCH,
    E,
    Networks,
    P,
    V,
    every_labelling,
    functions,
    greedy_loop,
    search_loop,
)

B, T = 3, 4
seeds = st.integers(0, 2**20)


def draw(seed, scale=2.0):
    rng = np.random.default_rng(seed)
    return rng, Networks(seed, scale), rng.normal(size=(B, T, E)).astype(np.float32)


def labels_of(decoded, b, k):
    return tuple(decoded.tokens[b, k, : decoded.lengths[b, k]].tolist())


@pytest.mark.quick("1-1")
@pytest.mark.parametrize(("blank", "most"), list(itertools.product(range(V), (1, 2, 3))))
@given(seed=seeds)
def test_greedy_is_the_loop(seed, blank, most):
    rng, networks, frames = draw(seed)
    lengths = rng.integers(0, T + 1, B)
    decoded = GREEDY(networks.arrays(), frames, lengths, blank=blank, max_symbols=most)
    assert decoded.tokens.shape == (B, 1, T * most)
    for b in range(B):
        labels, log_p = greedy_loop(networks, frames[b, : lengths[b]], blank, most)
        assert labels_of(decoded, b, 0) == tuple(labels)
        assert (decoded.tokens[b, 0, len(labels) :] == blank).all()
        np.testing.assert_allclose(decoded.log_probs[b, 0], log_p, rtol=1e-4, atol=1e-5)


@pytest.mark.quick("1")
@pytest.mark.parametrize("blank", range(V))
@given(seed=seeds, scale=st.sampled_from([0.3, 2.0]))
def test_wide_search_is_enumeration(seed, blank, scale):
    rng, networks, frames = draw(seed, scale)
    frames, lengths = frames[:, :3], rng.integers(0, 4, B)
    options = {"beam_width": 128, "n_best": 9, "blank": blank}
    decoded = SEARCH(networks.arrays(), frames, lengths, **options)
    for b in range(B):
        found = every_labelling(networks, frames[b, : lengths[b]], blank, 2)
        best = sorted(found.items(), key=lambda item: -item[1])[:9]
        for k, (name, p) in enumerate(best):
            np.testing.assert_allclose(decoded.log_probs[b, k], math.log(p), rtol=1e-4, atol=1e-5)
            got = labels_of(decoded, b, k)
            assert got == name or math.isclose(found[got], p, rel_tol=1e-4)
            assert (decoded.tokens[b, k, len(got) :] == blank).all()
        assert (decoded.log_probs[b, len(found) :] == -np.inf).all()
        assert (decoded.lengths[b, len(found) :] == 0).all()


@pytest.mark.quick()
@pytest.mark.parametrize("width", [1, 3])
@given(seed=seeds)
def test_narrow_search_is_the_loop(seed, width):
    _, networks, _ = draw(seed, 1.0)
    frames = np.random.default_rng(seed).normal(size=(2, 9, E)).astype(np.float32)
    decoded = SEARCH(
        networks.arrays(), frames, np.array([9, 5]), beam_width=width, n_best=width, max_symbols=3
    )
    for b, length in enumerate((9, 5)):
        loop = search_loop(networks, frames[b, :length], 0, 3, width)
        for k, (name, log_p) in enumerate(loop.items()):
            assert labels_of(decoded, b, k) == name
            np.testing.assert_allclose(decoded.log_probs[b, k], log_p, rtol=1e-4)


@pytest.mark.quick()
def test_search_agrees_with_the_loss():
    """No path of these labels has more than `max_symbols` labels at a frame."""
    _, networks, frames = draw(5)
    joint, predict = functions(networks.arrays())
    decoded = SEARCH(networks.arrays(), frames, None, beam_width=512, n_best=20, max_symbols=3)

    @jax.jit
    def logits(frames, labels):
        state, outputs = jnp.zeros((B, P)), []
        for u in range(4):
            label = jnp.zeros(B, int) if u == 0 else labels[:, u - 1]
            predicted, state = predict(label, state)
            outputs.append(predicted)
        return joint(frames[:, :, None], jnp.stack(outputs, axis=1)[:, None])

    short = 0
    for k in range(20):
        labels, counts = decoded.tokens[:, k, :3], decoded.lengths[:, k]
        loss = LOSS(logits(frames, labels), labels, np.full(B, T), np.minimum(counts, 3))
        for b in np.flatnonzero(counts <= 3):
            short += 1
            np.testing.assert_allclose(-loss[b], decoded.log_probs[b, k], rtol=1e-4)
    assert short > 20


@pytest.mark.quick()
def test_frames_on_both_sides_of_a_hole_are_neighbours():
    """Padding may be NaN."""
    rng, networks, frames = draw(8)
    mask = rng.random((B, T)) < 0.6
    mask[:, :2], mask[2] = [True, False], False
    dirty = np.where(mask[..., None], frames, np.nan)
    arrays = networks.arrays()
    options: Any = {"beam_width": 4, "n_best": 4}
    found = GREEDY(arrays, dirty, None, mask), SEARCH(arrays, dirty, None, mask, **options)
    joined, lengths = np.full_like(frames, np.nan), mask.sum(axis=1)
    for b in range(B):
        joined[b, : lengths[b]] = frames[b, mask[b]]
    without = GREEDY(arrays, joined, lengths), SEARCH(arrays, joined, lengths, **options)
    for hole, none in zip(found, without, strict=True):
        np.testing.assert_array_equal(hole.lengths, none.lengths)
        np.testing.assert_array_equal(hole.tokens, none.tokens)
        np.testing.assert_allclose(hole.log_probs, none.log_probs, rtol=1e-5)
        assert (hole.lengths > 0).any()


@pytest.mark.quick()
def test_forbidden_labels_do_not_occur():
    _, networks, frames = draw(9)
    networks.shift[2] = -np.inf
    decoded = SEARCH(networks.arrays(), frames[:, :2], beam_width=8, n_best=8)
    assert not np.isnan(decoded.log_probs).any() and (decoded.tokens != 2).all()
    # Labels 1 alone: none to four of them.
    np.testing.assert_array_equal(np.isfinite(decoded.log_probs), [[True] * 5 + [False] * 3] * B)


@pytest.mark.quick()
def test_types(x64):
    _, networks, frames = draw(9)
    arrays = jax.tree.map(jnp.asarray, vars(networks))
    decoded = SEARCH(arrays, frames.astype(np.float64), beam_width=256, n_best=1)
    assert decoded.log_probs.dtype == jnp.float64 and decoded.tokens.dtype == jnp.int32
    best = max(every_labelling(networks, frames[0], 0, 2).values())
    assert best > 0
    with jax.numpy_dtype_promotion("strict"):
        half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), arrays)
        joint, predict = functions(half)
        state = jnp.zeros((B, P), jnp.bfloat16)
        for run in (transducer_greedy, transducer_beam_search):
            found = jax.jit(lambda x, run=run: run(joint, predict, x, state))(
                jnp.asarray(frames, jnp.bfloat16)
            )
            assert found.log_probs.dtype == jnp.float32 and found.lengths.dtype == jnp.int32


@pytest.mark.quick()
def test_no_frames_and_no_sequences():
    _, networks, frames = draw(0)
    for run in (GREEDY, SEARCH):
        empty = run(networks.arrays(), frames[:, :0])
        assert empty.tokens.shape == (B, 1, 0) and (empty.log_probs == 0).all()
        assert run(networks.arrays(), frames[:0]).tokens.shape == (0, 1, 2 * T)


JOINT, PREDICT = functions(Networks(0).arrays())
FRAMES = np.zeros((2, 4, E), np.float32)
GOOD = {"joint": JOINT, "predict": PREDICT, "encoded": FRAMES, "state": FRAMES[:, 0, :P]}
BAD = [
    ("joint", None, TypeError, "joint: expected a function"),
    ("predict", None, TypeError, "predict: expected a function"),
    ("predict", lambda labels, state: state, TypeError, r"return \(predicted, state\)"),
    ("predict", lambda labels, state: (state, state[0]), ValueError, "a state like the given one"),
    ("joint", lambda f, g: f[:, 0], ValueError, r"logits \[N, V\] with N=2, got \(2,\)"),
    ("encoded", FRAMES[0], ValueError, r"encoded: expected \[B, T, E\], got \(4, 4\)"),
    ("encoded", FRAMES.astype(int), TypeError, "encoded: expected a float array"),
    ("state", FRAMES[0, :3, :P], ValueError, "state: expected arrays with leading axis B=2"),
    ("lengths", np.array([4, 5]), ValueError, "0 to 4"),
    ("mask", np.ones((2, 3), bool), ValueError, "mask: expected"),
    ("blank", V, ValueError, "blank: expected a class below V=3, got 3"),
    ("blank", -1, ValueError, "blank: expected"),
    ("max_symbols", 0, ValueError, "max_symbols: expected a positive integer, got 0"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_decoders_refuse(name, value, error, message):
    given: Any = GOOD | {name: value}
    for run in (transducer_greedy, transducer_beam_search):
        with pytest.raises(error, match=message):
            run(**given)


def test_search_refuses():
    with pytest.raises(ValueError, match="beam_width: expected a positive integer, got 0"):
        transducer_beam_search(**GOOD, beam_width=0)
    with pytest.raises(ValueError, match="n_best: expected at most beam_width=2, got 3"):
        transducer_beam_search(**GOOD, beam_width=2, n_best=3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_have_no_score(value):
    """Only in the sequence that has them, and only at real frames."""
    frames = np.tile(np.array([1.5, 0.0, 0.5], np.float32), (3, 2, 1))
    frames[0, 0, 2] = frames[1, 1, 2] = value
    joint, predict = lambda f, g: f + g, lambda y, s: (jnp.zeros((len(y), 3)), s)
    for decode in (transducer_greedy, transducer_beam_search):
        found = decode(joint, predict, frames, jnp.zeros((3, 1)), lengths=np.array([2, 1, 2]))
        for scores in (found.log_probs, found.scores):
            assert jnp.isnan(scores).tolist() == [[True], [False], [False]]


def test_a_joint_network_that_gives_nan_after_a_label_has_no_score():
    """Even if this label is not in the best output."""
    frames = np.array([[[4.0, 2.0, 0.0]]] * 2, np.float32)
    predict = lambda y, s: (  # noqa: E731
        jnp.where((y == 1)[:, None] & s, jnp.nan, jnp.zeros((len(y), 3))),
        s,
    )
    state = jnp.array([[True], [False]])
    found = transducer_beam_search(lambda f, g: f + g, predict, frames, state, n_best=2)
    assert jnp.isnan(found.scores).tolist() == [[True] * 2, [False] * 2]


def test_the_state_of_the_prediction_network_keeps_its_dtype():
    predict = lambda y, s: (jnp.zeros((len(y), 3)), s + 0.5)  # noqa: E731
    with pytest.raises(ValueError, match=r"predict: .* int32\(1, 1\), got float32\(1, 1\)"):
        transducer_greedy(
            lambda f, g: f + g, predict, jnp.zeros((1, 2, 3)), jnp.zeros((1, 1), jnp.int32)
        )
