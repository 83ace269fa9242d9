"""CTC decoding against the enumeration of all paths, and a search over a dictionary."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.ctc import ctc_beam_search, ctc_greedy, ctc_loss
from tests.ctc.helpers import (
    GREEDY,
    LOSS,
    SEARCH,
    B,
    T,
    V,
    draw,
    every_labelling,
    labels_of,
    log_softmax,
)

seeds = st.integers(0, 2**20)


@pytest.mark.quick("[02]")
@pytest.mark.parametrize("blank", range(V))
@given(seed=seeds)
def test_greedy_is_the_best_path(seed, blank):
    rng, logits = draw(seed)
    lengths = rng.integers(0, T + 1, B)
    tokens, counts, log_probs, _ = GREEDY(logits, lengths, blank)
    for b in range(B):
        path = logits[b, : lengths[b]].argmax(axis=1)
        name = labels_of(path.tolist(), blank)
        assert tokens[b, 0].tolist() == [*name, *[blank] * (T - len(name))]
        assert counts[b, 0] == len(name)
        expected = log_softmax(logits[b, : lengths[b]]).max(axis=1).sum() if lengths[b] else 0
        np.testing.assert_allclose(log_probs[b, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.quick("1")
@pytest.mark.parametrize("blank", range(V))
@given(seed=seeds, scale=st.sampled_from([0.3, 2.0]))
def test_wide_search_is_enumeration(seed, blank, scale):
    rng, logits = draw(seed, scale=scale)
    lengths = rng.integers(0, T + 1, B)
    tokens, counts, log_probs, _ = SEARCH(logits, lengths, 64, blank, n_best=6)
    for b in range(B):
        found = every_labelling(logits[b], lengths[b], blank)
        best = sorted(found.items(), key=lambda item: -item[1])[:6]
        for k, (name, p) in enumerate(best):
            np.testing.assert_allclose(log_probs[b, k], math.log(p), rtol=1e-4, atol=1e-5)
            got = tuple(tokens[b, k, : counts[b, k]].tolist())
            assert got == name or math.isclose(found[got], p, rel_tol=1e-4)
            assert (tokens[b, k, counts[b, k] :] == blank).all()
        assert (log_probs[b, len(found) :] == -np.inf).all()


def prefix_loop(logits, width, blank, n):
    """The search over a dictionary of prefixes."""
    p = np.exp(log_softmax(logits))
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    for p_t in p:
        new: dict[tuple[int, ...], list[float]] = {}
        for prefix, (in_blank, in_label) in beam.items():
            entry = new.setdefault(prefix, [0.0, 0.0])
            entry[0] += (in_blank + in_label) * p_t[blank]
            for label in range(len(p_t)):
                if label == blank:
                    continue
                grown = new.setdefault((*prefix, label), [0.0, 0.0])
                if prefix and label == prefix[-1]:
                    entry[1] += in_label * p_t[label]
                    grown[1] += in_blank * p_t[label]
                else:
                    grown[1] += (in_blank + in_label) * p_t[label]
        kept = sorted(new, key=lambda prefix: -sum(new[prefix]))[:width]
        beam = {prefix: (new[prefix][0], new[prefix][1]) for prefix in kept}
    return [(prefix, math.log(sum(beam[prefix]))) for prefix in list(beam)[:n]]


@pytest.mark.quick()
@pytest.mark.parametrize("width", [1, 3])
@given(seed=seeds)
def test_narrow_search_is_the_loop(seed, width):
    """Prefixes that leave the beam and come back are joined again, over many frames."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(2, 12, 4)) * 0.7).astype(np.float32)
    tokens, counts, log_probs, _ = SEARCH(logits, np.array([12, 7]), width, 0, n_best=width)
    for b, length in enumerate((12, 7)):
        for k, (name, log_prob) in enumerate(prefix_loop(logits[b, :length], width, 0, width)):
            assert tuple(tokens[b, k, : counts[b, k]].tolist()) == name
            np.testing.assert_allclose(log_probs[b, k], log_prob, rtol=1e-4)


@pytest.mark.quick()
def test_search_agrees_with_the_loss():
    rng = np.random.default_rng(5)
    logits = (rng.normal(size=(4, 8, 5)) * 3).astype(np.float32)
    lengths = np.array([8, 8, 3, 6])
    tokens, counts, log_probs, _ = SEARCH(logits, lengths, 200, 0)
    loss = LOSS(logits, lengths, tokens[:, 0], counts[:, 0], 0)
    np.testing.assert_allclose(-loss, log_probs[:, 0], rtol=1e-3)
    assert (log_probs[:, 0] >= GREEDY(logits, lengths, 0).log_probs[:, 0] - 1e-5).all()


@pytest.mark.quick()
def test_search_alone_is_search_in_a_batch():
    _, logits = draw(8)
    dirty, lengths = logits.copy(), np.array([3, 5, 0])
    dirty[0, 3:], dirty[2] = np.nan, np.inf
    together = SEARCH(dirty, lengths, 4, 0, n_best=4)
    for b, length in enumerate(lengths):
        alone = SEARCH(logits[b : b + 1, :length], np.array([length]), 4, 0, n_best=4)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[b, :, :length])
        np.testing.assert_allclose(alone.log_probs[0], together.log_probs[b], rtol=1e-5)


@pytest.mark.quick()
def test_ruled_out_labels_do_not_occur():
    _, logits = draw(9)
    logits[:, :, 2] = -np.inf
    decoded = SEARCH(logits, np.full(B, T), 64, 0, n_best=6)
    assert not np.isnan(decoded.log_probs).any() and (decoded.tokens != 2).all()
    # Labels 1 alone: none, 1, 1 1, 1 1 1.
    np.testing.assert_array_equal(np.isfinite(decoded.log_probs), [[True] * 4 + [False] * 2] * B)
    assert (decoded.lengths[:, 4:] == 0).all()


@pytest.mark.quick()
def test_strict_promotion():
    _, logits = draw(9)
    want = SEARCH(logits, np.full(B, T), 4, 0), GREEDY(logits, np.full(B, T), 0)
    with jax.numpy_dtype_promotion("strict"):
        got = SEARCH(logits, np.full(B, T), 4, 0), GREEDY(logits, np.full(B, T), 0)
    for strict, usual in zip(got, want, strict=True):
        np.testing.assert_array_equal(strict.tokens, usual.tokens)


@pytest.mark.quick()
def test_wide_types(x64):
    _, logits = draw(9)
    decoded = SEARCH(logits.astype(np.float64), np.full(B, T), 64, 0)
    assert decoded.log_probs.dtype == jnp.float64 and decoded.tokens.dtype == jnp.int32
    best = max(every_labelling(logits[0], T, 0).values())
    np.testing.assert_allclose(decoded.log_probs[0, 0], math.log(best), rtol=1e-12)
    assert GREEDY(logits, np.full(B, T), 0).tokens.dtype == jnp.int32
    labels = np.ones((B, 1), int)
    exact = LOSS(logits.astype(np.float64), np.full(B, T), labels, np.ones(B, int), 0)
    p = every_labelling(logits[0], T, 0)[1,]
    np.testing.assert_allclose(exact[0], -math.log(p), rtol=1e-10)


def test_search_refuses():
    logits, lengths = np.zeros((2, 4, 3), np.float32), np.array([4, 2])
    with pytest.raises(ValueError, match="beam_width: expected a positive integer, got 0"):
        ctc_beam_search(logits, lengths=lengths, beam_width=0)
    with pytest.raises(ValueError, match="n_best: expected at most beam_width=2, got 3"):
        ctc_beam_search(logits, lengths=lengths, beam_width=2, n_best=3)
    with pytest.raises(ValueError, match="blank: expected a class below V=3, got 7"):
        ctc_greedy(logits, lengths=lengths, blank=7)


@pytest.mark.quick()
def test_frames_on_both_sides_of_a_hole_are_neighbours():
    """A mask with holes against the same frames without them; the loss, too."""
    rng, logits = draw(5)
    mask = rng.random((B, T)) < 0.6
    mask[:, :2] = [True, False]
    labels, counts = np.array([[1, 2], [2, 2], [1, 1]]), np.array([1, 1, 0])
    dirty = np.where(mask[..., None], logits, np.nan)
    greedy = jax.jit(ctc_greedy)(dirty, mask=mask)
    search = jax.jit(lambda z: ctc_beam_search(z, mask=mask, beam_width=8, n_best=3))(dirty)
    options = {"mask": mask, "label_lengths": counts, "per_sequence": True}
    loss = jax.jit(lambda z: ctc_loss(z, labels, **options))(dirty)
    for b in range(B):
        real = logits[b : b + 1, mask[b]]
        length = np.array([mask[b].sum()])
        for found, alone in (
            (greedy, GREEDY(real, length, 0)),
            (search, SEARCH(real, length, 8, 0, n_best=3)),
        ):
            np.testing.assert_array_equal(found.lengths[b], alone.lengths[0])
            width = alone.tokens.shape[2]
            np.testing.assert_array_equal(found.tokens[b, :, :width], alone.tokens[0])
            np.testing.assert_allclose(found.log_probs[b], alone.log_probs[0], rtol=1e-5)
        alone = LOSS(real, length, labels[b : b + 1], counts[b : b + 1], 0)
        np.testing.assert_allclose(loss[b], alone[0], rtol=1e-5)
    with pytest.raises(ValueError, match="lengths, mask: expected one of them, got both"):
        ctc_greedy(logits, lengths=np.full(B, T), mask=mask)
