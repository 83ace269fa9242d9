"""The CTC loss against the sum over all paths; what is padding, impossible or wrong."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.ctc import ctc_greedy, ctc_loss
from tests.ctc.helpers import LOSS, B, T, V, draw, every_labelling, log_softmax

seeds = st.integers(0, 2**20)


@pytest.mark.quick("[02]")
@pytest.mark.parametrize("blank", range(V))
@given(seed=seeds)
def test_loss_is_the_sum_over_paths(seed, blank):
    rng, logits = draw(seed)
    lengths, counts = rng.integers(0, T + 1, B), rng.integers(0, 4, B)
    labels = rng.choice([v for v in range(V) if v != blank], (B, 3))
    loss = LOSS(logits, lengths, labels, counts, blank)
    for b in range(B):
        name = tuple(labels[b, : counts[b]].tolist())
        p = every_labelling(logits[b], lengths[b], blank).get(name)
        expected = math.inf if p is None else -math.log(p)
        np.testing.assert_allclose(loss[b], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.quick()
def test_garbage_in_padding_changes_nothing():
    _, logits = draw(0)
    lengths, labels, counts = np.array([3, 5, 0]), np.array([[1, 2], [2, 2], [1, 1]]), [2, 1, 0]
    dirty, dirty_labels = logits.copy(), labels.copy()
    dirty[0, 3:], dirty[2] = np.nan, np.inf
    dirty_labels[1, 1], dirty_labels[2] = 99, [-1, 0]

    def run(logits, labels):
        return LOSS(logits, lengths, labels, np.array(counts), 0).sum()

    slope_of = jax.jit(jax.value_and_grad(run))
    value, slope = slope_of(logits, labels)
    got, dirty_slope = slope_of(dirty, dirty_labels)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    np.testing.assert_allclose(dirty_slope, slope, rtol=1e-5, atol=1e-6)
    assert (dirty_slope[0, 3:] == 0).all() and (dirty_slope[2] == 0).all()


def test_gradient():
    """By central differences of the enumeration, in its logits."""
    _, logits = draw(3, batch=1)
    run = lambda logits: ctc_loss(logits, np.array([[1, 1]]), lengths=np.array([4]))  # noqa: E731
    slope = jax.jit(jax.grad(run))(jnp.asarray(logits))
    for index in np.ndindex(T, V):
        sides = []
        for sign in (1, -1):
            moved = logits[0].astype(np.float64)
            moved[index] += sign * 1e-4
            sides.append(-math.log(every_labelling(moved, 4, 0)[1, 1]))
        np.testing.assert_allclose(slope[0][index], (sides[0] - sides[1]) / 2e-4, atol=2e-5)


@pytest.mark.quick()
def test_impossible_labels_have_no_gradient():
    _, logits = draw(1)
    labels, counts = np.array([[1, 1, 2], [1, 1, 2], [1, 2, 1]]), np.array([3, 3, 3])
    lengths = np.array([3, 4, 2])  # 1 1 2 needs four frames
    options: Any = {"lengths": lengths, "label_lengths": counts}
    loss = LOSS(logits, lengths, labels, counts, 0)
    assert np.isposinf(loss).tolist() == [True, False, True]
    assert ctc_loss(logits, labels, **options) == np.inf
    zero = lambda z: ctc_loss(z, labels, zero_infinity=True, **options)  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(zero))(jnp.asarray(logits))
    np.testing.assert_allclose(value, loss[1] / 3, rtol=1e-6)
    assert (slope[0] == 0).all() and (slope[2] == 0).all() and (slope[1, :4] != 0).all()


@pytest.mark.quick()
def test_mean_over_the_sequences_that_are_not_filler():
    _, logits = draw(4)
    lengths, labels, counts = np.array([4, 0, 2]), np.array([[1], [1], [2]]), np.array([1, 0, 0])
    each = LOSS(logits, lengths, labels, counts, 0)
    mean = ctc_loss(logits, labels, lengths=lengths, label_lengths=counts)
    np.testing.assert_allclose(mean, (each[0] + each[2]) / 2, rtol=1e-6)
    labels_without_frames = ctc_loss(
        logits, labels, lengths=lengths, label_lengths=[1, 1, 0], zero_infinity=True
    )
    np.testing.assert_allclose(labels_without_frames, (each[0] + each[2]) / 3, rtol=1e-6)
    assert ctc_loss(logits, labels, lengths=[0, 0, 0], label_lengths=[0, 0, 0]) == 0


def test_loss_is_never_negative():
    """Where all is certain, rounding must not make a probability greater than 1."""
    rng = np.random.default_rng(0)
    logits = np.zeros((200, 12, 5), np.float32)
    logits[:, :, 1] = rng.uniform(10, 40, (200, 1))
    logits[:, :, 0] = logits[:, :, 1] * rng.uniform(0, 1, (200, 1))
    loss = LOSS(logits, np.full(200, 12), np.ones((200, 1), int), np.ones(200, int), 0)
    assert (loss >= 0).all() and (loss < 1e-6).any()


@pytest.mark.quick("3-0")
@pytest.mark.parametrize(("steps", "most"), [(0, 2), (3, 0), (0, 0)])
def test_empty_axes(steps, most):
    logits, labels = np.zeros((2, steps, V), np.float32), np.ones((2, most), int)
    counts = np.array([0, min(most, 1)])
    loss = LOSS(logits, np.full(2, steps), labels, counts, 0)
    assert np.isfinite(loss).tolist() == [True, counts[1] <= steps]
    np.testing.assert_allclose(loss[0], steps * math.log(V), rtol=1e-6, atol=1e-6)
    nobody: Any = {"lengths": [], "label_lengths": []}
    assert ctc_loss(logits[:0], labels[:0], **nobody) == 0
    assert ctc_loss(logits[:0], labels[:0], per_sequence=True, **nobody).shape == (0,)


@pytest.mark.quick()
def test_ruled_out_classes():
    _, logits = draw(2)
    logits[:, :, 2] = -np.inf
    labels, counts = np.array([[1, 1], [1, 2], [1, 1]]), np.array([1, 2, 0])
    options: Any = {"label_lengths": counts, "per_sequence": True}
    loss = jax.jit(lambda z: ctc_loss(z, labels, **options))(logits)
    for b in (0, 2):
        p = every_labelling(logits[b], T, 0)[tuple(labels[b, : counts[b]].tolist())]
        np.testing.assert_allclose(loss[b], -math.log(p), rtol=1e-5)
    assert np.isposinf(loss[1])
    slope = jax.jit(jax.grad(lambda z: ctc_loss(z, labels, **options).sum()))(jnp.asarray(logits))
    assert np.isfinite(slope).all()


@pytest.mark.quick()
def test_long_and_unlikely():
    """Above 1e5, optax's own infinity, going around the labels must not come cheaper."""
    rng = np.random.default_rng(0)
    steps, classes = 1000, 4
    logits = rng.normal(size=(1, steps, classes)).astype(np.float32)
    logits[:, :, 0] += 300.0
    labels = rng.integers(1, classes, (1, 400))
    loss = LOSS(logits, np.array([steps]), labels, np.array([400]), 0)

    log_p, extended = log_softmax(logits[0]), [0]
    for label in labels[0]:
        extended += [int(label), 0]
    alpha = np.full(len(extended), -np.inf)
    alpha[0], alpha[1] = log_p[0, 0], log_p[0, extended[1]]
    skip = np.array(
        [s > 1 and extended[s] not in (0, extended[s - 2]) for s in range(len(extended))]
    )
    for t in range(1, steps):
        one = np.concatenate([[-np.inf], alpha[:-1]])
        two = np.where(skip, np.concatenate([[-np.inf] * 2, alpha[:-2]]), -np.inf)
        alpha = np.logaddexp(np.logaddexp(alpha, one), two) + log_p[t, extended]
    expected = -np.logaddexp(alpha[-1], alpha[-2])
    assert expected > 1.1e5
    np.testing.assert_allclose(loss[0], expected, rtol=1e-5)


@pytest.mark.quick()
def test_loss_strict_and_half():
    _, logits = draw(0)
    labels, counts = np.ones((B, 2), int), np.array([1, 2, 0])
    whole = ctc_loss(logits, labels, label_lengths=counts)
    with jax.numpy_dtype_promotion("strict"):
        half = ctc_loss(jnp.asarray(logits, jnp.bfloat16), labels, label_lengths=counts)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, whole, rtol=2e-2, atol=2e-2)


GOOD = {
    "logits": np.zeros((2, 4, 3), np.float32),
    "lengths": np.array([4, 2]),
    "labels": np.array([[1, 2], [1, 0]]),
    "label_lengths": np.array([2, 1]),
}
BAD = [
    ("logits", np.zeros((4, 3), np.float32), ValueError, r"\[B, T, V\], got \(4, 3\)"),
    ("logits", np.zeros((2, 4, 0), np.float32), ValueError, r"\[B, T, V\], got \(2, 4, 0\)"),
    ("logits", np.zeros((2, 4, 3), int), TypeError, "float array"),
    ("lengths", np.array([4, 5]), ValueError, "0 to 4"),
    ("lengths", np.array([4.0, 2.0]), TypeError, "integers"),
    ("labels", np.array([1, 2]), ValueError, r"\[B, N\] with B=2, got \(2,\)"),
    ("labels", np.array([[1, 3], [1, 0]]), ValueError, "classes from 0 to 2 except blank=0"),
    ("labels", np.array([[1, 0], [1, 0]]), ValueError, "blank=0"),
    ("label_lengths", np.array([3, 1]), ValueError, "0 to 2"),
    ("blank", 3, ValueError, "below V=3, got 3"),
    ("zero_infinity", 1, TypeError, "bool"),
    ("per_sequence", "mean", TypeError, "bool"),
]


@pytest.mark.quick("[!p]*")
@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_loss_refuses(name, value, error, message):
    with pytest.raises(error, match=rf"^{name}: expected .*{message}"):
        ctc_loss(**GOOD | {name: value})


@pytest.mark.quick()
def test_a_blank_alone_is_certain():
    logits = np.random.default_rng(0).normal(size=(2, 4, 1)).astype(np.float32)
    loss = ctc_loss(logits, np.zeros((2, 0), int), per_sequence=True)
    np.testing.assert_array_equal(loss, [0, 0])
    assert ctc_greedy(logits).lengths.tolist() == [[0], [0]]


def test_wrong_label_under_tracing_is_nan():
    labels = np.array([[1, 3], [1, 0]])
    loss = LOSS(GOOD["logits"], GOOD["lengths"], labels, GOOD["label_lengths"], 0)
    assert np.isnan(loss).tolist() == [True, False]


@pytest.mark.quick()
def test_finite_scores_are_never_cut_off():
    """A label of very small probability costs what it costs."""
    logits = jnp.array([[[0.0, -2e5], [0.0, -3e5]]])
    np.testing.assert_allclose(ctc_loss(logits, jnp.array([[1]])), 2e5)


@pytest.mark.quick()
def test_a_frame_that_forbids_all_classes_makes_labels_impossible():
    logits = np.zeros((2, 3, 3), np.float32)
    logits[0, 1] = -np.inf
    labels = np.array([[1], [1]])
    run = jax.value_and_grad(lambda z: ctc_loss(z, labels, zero_infinity=True))
    value, slope = jax.jit(run)(logits)
    expected = -math.log(every_labelling(logits[1], 3, 0)[(1,)])
    np.testing.assert_allclose(value, expected / 2, rtol=1e-5)
    assert (slope[0] == 0).all() and np.isfinite(slope).all()
    assert np.isposinf(ctc_loss(logits, labels, per_sequence=True)).tolist() == [True, False]
    assert ctc_greedy(logits).log_probs[0, 0] == -np.inf


@pytest.mark.quick()
@pytest.mark.parametrize("function", [ctc_loss, jax.jit(ctc_loss, static_argnames="blank")])
def test_labels_in_bytes(function):
    labels = np.array([[200]], np.uint8)
    for blank in (0, 299):  # three paths of two frames, each of probability 1 / 300²
        loss = function(jnp.zeros((1, 2, 300)), labels, blank=blank)
        np.testing.assert_allclose(loss, 2 * math.log(300) - math.log(3), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_of_another_class_that_is_no_number_makes_the_loss_nan(value):
    logits = np.zeros((3, 3, 4), np.float32)
    logits[0, :, 3] = logits[1, 1, 3] = logits[2, 2, 3] = value  # class 3 is not a label
    loss = functools.partial(ctc_loss, labels=np.array([[1, 2]] * 3), lengths=np.array([3, 3, 2]))
    found = loss(logits, per_sequence=True)
    assert jnp.isnan(found).tolist() == [True, True, False]
    np.testing.assert_allclose(found[2], 2 * np.log(4), rtol=1e-6)  # only the path 1 2
    gradient = jax.grad(lambda logits: loss(logits, per_sequence=True)[1])(logits)
    assert jnp.isnan(gradient[1]).any()
