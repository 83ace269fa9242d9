"""CTC over 100,000 frames, against the recursions in float64."""

import jax
import numpy as np
import pytest

from seqjax.ctc import ctc_beam_search, ctc_greedy, ctc_loss
from tests.ctc.helpers import LOSS, log_softmax

STEPS = 100_000


def forward(log_p, labels):
    """-log p of labels, blank 0, by the recursion in float64."""
    extended = [0]
    for label in labels:
        extended += [int(label), 0]
    alpha = np.full(len(extended), -np.inf)
    alpha[:2] = log_p[0, extended[:2]]
    skips = [s > 1 and extended[s] not in (0, extended[s - 2]) for s in range(len(extended))]
    skip, emitted = np.array(skips), log_p[:, extended]
    with np.errstate(all="ignore"):
        for t in range(1, len(log_p)):
            one = np.concatenate([[-np.inf], alpha[:-1]])
            two = np.where(skip, np.concatenate([[-np.inf] * 2, alpha[:-2]]), -np.inf)
            alpha = np.logaddexp(np.logaddexp(alpha, one), two) + emitted[t]
        return -np.logaddexp(alpha[-1], alpha[-2])


@pytest.mark.quick()
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
def test_loss(scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(1, STEPS, 4))).astype(np.float32)
    labels = np.array([[1, 2, 2, 3]])
    found = LOSS(logits, np.array([STEPS]), labels, np.array([4]), 0)
    np.testing.assert_allclose(found[0], forward(log_softmax(logits[0]), labels[0]), rtol=1e-6)


@pytest.mark.quick()
def test_loss_of_confident_frames():
    """Each frame is right with probability 1 - 6e-9, which float32 rounds to 1."""
    path = np.repeat([0, 1, 0, 2], STEPS // 4)
    logits = 20 * np.eye(4, dtype=np.float32)[path][None]
    labels = np.array([[1, 2]])
    run = jax.jit(jax.value_and_grad(lambda z: ctc_loss(z, labels)))
    found, slope = run(logits)
    expected = forward(log_softmax(logits[0]), [1, 2])
    assert 4e-4 < expected < 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isfinite(slope).all() and np.abs(slope).max() < 1e-4


@pytest.mark.quick()
def test_score_of_the_best_path():
    logits = np.random.default_rng(1).normal(size=(1, STEPS, 3)).astype(np.float32)
    greedy = jax.jit(ctc_greedy)(logits)
    expected = log_softmax(logits[0]).max(-1).sum()
    np.testing.assert_allclose(greedy.log_probs[0, 0], expected, rtol=1e-6)


@pytest.mark.quick()
def test_search_of_confident_frames():
    path = np.repeat([0, 1, 0, 2], STEPS // 4)
    logits = 20 * np.eye(4, dtype=np.float32)[path][None]
    found = jax.jit(lambda z: ctc_beam_search(z, beam_width=4))(logits)
    assert found.tokens[0, 0, : int(found.lengths[0, 0])].tolist() == [1, 2]
    # The paths of these labels that the search sums are almost all there are.
    expected = -forward(log_softmax(logits[0]), [1, 2])
    np.testing.assert_allclose(found.log_probs[0, 0], expected, rtol=1e-4)
