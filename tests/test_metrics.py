"""Metrics: means that merge to exactly what one pass over all the data would give."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from seqjax import losses, metrics
from seqjax.metrics import Mean

LOGITS = np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, (6, 4))
MASK = np.random.default_rng(2).uniform(size=(6, 4)) < 0.5


def _accumulate(metric, splits):
    """The merged mean over batches that end at the given rows, the last with the rest."""
    mean = Mean()
    for rows in np.split(np.arange(6), sorted(splits)):
        mean = mean.merge(metric(LOGITS[rows], LABELS[rows], mask=MASK[rows]))
    return mean


@pytest.mark.quick()
@given(splits=st.lists(st.integers(0, 6), max_size=4))
def test_merge_is_the_mean_over_everything(splits):
    """Empty batches among them, and whatever the number of real positions of each."""
    accuracy = _accumulate(metrics.accuracy, splits)
    hits = (LOGITS.argmax(-1) == LABELS)[MASK]
    assert (float(accuracy.total), int(accuracy.count)) == (hits.sum(), hits.size)
    entropy = _accumulate(metrics.cross_entropy, splits)
    assert entropy.count == MASK.sum()
    whole = losses.cross_entropy(LOGITS, LABELS, mask=MASK)
    np.testing.assert_allclose(entropy.value(), whole, rtol=1e-6)


def test_merge_is_not_the_mean_of_means():
    one, three = Mean.of(jnp.array([8.0])), Mean.of(jnp.array([0.0, 0.0, 0.0]))
    assert one.merge(three).value() == three.merge(one).value() == 2


def test_count_stays_exact_beyond_float32():
    many = Mean(jnp.float32(0), jnp.int32(2**24))
    assert many.merge(Mean.of(jnp.ones(1))).count == 2**24 + 1


def test_merge_on_the_host_counts_without_bound():
    half = Mean(total=2e9, count=2**31)
    whole = half.merge(half)
    assert whole.count == 2**32
    np.testing.assert_allclose(whole.value(), 4e9 / 2**32, rtol=1e-6)


def test_mean_as_a_scan_carry():
    def step(mean, batch):
        return mean.merge(metrics.accuracy(*batch)), None

    batches = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    scanned, _ = jax.jit(lambda mean: jax.lax.scan(step, mean, batches))(Mean())
    assert scanned == metrics.accuracy(LOGITS, LABELS)


@pytest.mark.parametrize("mask_shape", [(), (2,), (2, 3), (2, 3, 4)])
def test_mean_of_counts_elements(mask_shape):
    values = np.arange(24.0).reshape(2, 3, 4)
    mask = np.ones(mask_shape, bool)
    mask.flat[-1] = False
    real = values[mask].ravel()
    mean = Mean.of(values, mask=mask)
    assert (mean.total, mean.count) == (real.sum(), real.size)
    assert jnp.result_type(mean.total) == jnp.float32
    assert jnp.result_type(mean.count) == jnp.int32


def test_mean_of_without_a_mask_counts_alike():
    values = np.arange(24.0).reshape(2, 3, 4)
    assert Mean.of(values) == Mean.of(values, mask=np.ones(2, bool)) == Mean(276.0, 24)


def test_mean_of_takes_lengths():
    values = np.arange(24.0).reshape(2, 3, 4)
    assert Mean.of(values, lengths=np.array([3, 1])) == Mean(
        values[0].sum() + values[1, :1].sum(), 16
    )
    with pytest.raises(ValueError, match="lengths: expected 0 to 3"):
        Mean.of(values, lengths=np.array([3, 4]))


def test_mean_of_half_precision_sums_in_float32():
    mean = Mean.of(jnp.ones(5000, jnp.bfloat16))
    assert jnp.result_type(mean.total) == jnp.float32 and mean.total == 5000


def test_mean_of_integers_and_bools():
    assert Mean.of(np.array([1, 2, 6])).value() == 3
    assert Mean.of(np.array([True, False])).value() == 0.5


def test_mean_of_keeps_garbage_out_of_the_gradient():
    mask = np.array([True, False])
    gradient = jax.grad(lambda x: Mean.of(x, mask=mask).value())(jnp.array([2.0, jnp.nan]))
    assert gradient.tolist() == [1, 0]


def test_empty_mean():
    empty = Mean.of(jnp.full(3, jnp.nan), mask=np.zeros(3, bool))
    assert empty.value() == Mean().value() == 0
    assert metrics.perplexity(empty) == 1
    assert empty.merge(Mean.of(jnp.array([3.0]))).value() == 3


def test_adding_means_is_refused():
    with pytest.raises(TypeError, match="merge"):
        Mean() + Mean()


@pytest.mark.parametrize("masked", [False, True])
def test_accuracy(masked):
    hits = [
        LOGITS[index].argmax() == LABELS[index]
        for index in np.ndindex(LABELS.shape)
        if MASK[index] or not masked
    ]
    mean = metrics.accuracy(LOGITS, LABELS, mask=MASK if masked else None)
    assert (mean.total, mean.count) == (sum(hits), len(hits))


def test_accuracy_of_whole_sequences_ignores_filler():
    logits = jnp.array([[0.0, 1.0], [1.0, 0.0], [jnp.nan, 0.0]])
    mean = metrics.accuracy(logits, jnp.array([1, 1, -7]), mask=jnp.array([True, True, False]))
    assert mean == Mean(1.0, 2)


def test_accuracy_takes_the_first_of_equals():
    assert metrics.accuracy(jnp.zeros((2, 3)), jnp.array([0, 1])).value() == 0.5


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_accuracy_of_half_precision(dtype):
    logits = jnp.array([[1.0, 1.0078125]], dtype)
    assert metrics.accuracy(logits, jnp.array([1])).value() == 1


def test_out_of_range_labels_are_nan_under_tracing():
    """Never a plain miss: an accuracy of 0 would look like a bad model."""
    wrong = np.array([-1, 3])
    with pytest.raises(ValueError, match="labels"):
        metrics.accuracy(jnp.zeros((2, 3)), wrong)
    found = jax.jit(metrics.accuracy)(jnp.zeros((2, 3)), wrong)
    assert np.isnan(found.total) and found.count == 2
    hidden = jax.jit(metrics.accuracy)(jnp.zeros((2, 3)), wrong, mask=np.array([False, False]))
    assert hidden == Mean(0.0, 0)
    wrong = np.array([-3.0, 2.0])
    with pytest.raises(ValueError, match="labels"):
        metrics.binary_accuracy(jnp.array([-1.0, 1.0]), wrong)
    found = jax.jit(metrics.binary_accuracy)(jnp.array([-1.0, 1.0]), wrong)
    assert np.isnan(found.total) and found.count == 2


def test_binary_accuracy():
    logits = jnp.array([[2.0, -0.1], [0.0, 3.0], [jnp.nan, 1.0]])
    labels = jnp.array([[1, 1], [0, 1], [1, 1]])
    mask = jnp.array([True, True, False])
    assert metrics.binary_accuracy(logits, labels, mask=mask) == Mean(3.0, 4)
    assert metrics.binary_accuracy(jnp.array([1.0, -1.0]), jnp.array([0.9, 0.5])) == Mean(2.0, 2)


def test_counts_of_element_metrics():
    """Frames of 3 numbers: a masked and an unmasked batch weigh alike in a merge."""
    ones, mask = jnp.ones((2, 4, 3)), jnp.ones((2, 4), bool)
    errors = (metrics.mean_squared_error, metrics.mean_absolute_error)
    for metric in (*errors, metrics.binary_cross_entropy):
        masked, plain = metric(ones, ones, mask=mask), metric(ones, ones)
        assert masked.count == plain.count == 24
        np.testing.assert_allclose(masked.total, plain.total, rtol=1e-6)


def test_perplexity():
    mean = metrics.cross_entropy(LOGITS, LABELS, mask=MASK)
    probability = np.exp(LOGITS.astype(np.float64))
    probability /= probability.sum(-1, keepdims=True)
    of_labels = np.take_along_axis(probability, LABELS[..., None], -1)[..., 0][MASK]
    np.testing.assert_allclose(
        metrics.perplexity(mean), np.prod(of_labels) ** (-1 / MASK.sum()), rtol=1e-5
    )


def written_out(a, b):
    """The recurrence of the distance, row by row."""
    row = list(range(len(b) + 1))
    for i, r in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, h in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (r != h))
    return row[-1]


def test_edit_distance_equals_its_definition():
    rng = np.random.default_rng(0)
    # Among them are numbers of one hash, -1 and -2, and a character beside its code.
    tokens = [0, -1, -2, "a", 97, "ab", ("a",), None, 2.5, 2**61, frozenset([1])]
    for _ in range(200):
        a, b = (
            [tokens[i] for i in rng.integers(0, len(tokens), rng.integers(0, 9))] for _ in range(2)
        )
        assert metrics.edit_distance(a, b) == written_out(a, b)
    a, b = rng.integers(0, 5, (2, 300))
    assert metrics.edit_distance(a, b) == written_out(a.tolist(), b.tolist())
    assert metrics.edit_distance(jnp.array(a), b.tolist()) == written_out(a.tolist(), b.tolist())
    long = rng.integers(0, 50, (2, 3000))
    assert 0 < metrics.edit_distance(*long) < 3000


def test_tokens_that_are_equal():
    assert metrics.edit_distance([1, 1.0, True], np.array([1, 1, 1], np.int32)) == 0
    assert metrics.edit_distance([1, 0], np.array([True, False])) == 0
    assert metrics.edit_distance([-1], [-2]) == 1 and metrics.edit_distance(["a"], [97]) == 1
    assert metrics.edit_distance([1], ["1"]) == 1 and metrics.edit_distance("abc", list("abc")) == 0
    assert metrics.edit_distance([np.int64(3), np.float32(2)], (3, 2)) == 0
    assert metrics.edit_distance(b"ab", [97, 98]) == 0 and metrics.edit_distance("", []) == 0
    assert metrics.edit_distance("naïve 你好", "naive 你们好") == 2


def test_mistakes_of_edit_distance():
    with pytest.raises(TypeError, match="hypothesis: expected hashable tokens, got unhashable"):
        metrics.edit_distance("ab", [["a"]])
    with pytest.raises(TypeError, match=r"reference: expected a sequence .*\(2, 2\)"):
        metrics.edit_distance(np.zeros((2, 2)), [1])
    some: list[Any] = [3, None, {1, 2}, iter([1]), {"a": 1}, np.array(1)]
    for wrong in some:
        with pytest.raises(TypeError, match="hypothesis: expected a sequence of tokens or an arr"):
            metrics.edit_distance([1], wrong)
    both: list[tuple[Any, Any]] = [
        ("abc", b"abc"),
        (["a"], [b"a"]),
        (b"abc", ["abc"]),
        (np.array(["a"]), np.array([b"a"])),
    ]
    for a, b in both:
        with pytest.raises(TypeError, match="expected text or bytes in both, got text and bytes"):
            metrics.edit_distance(a, b)
        with pytest.raises(TypeError, match="expected text or bytes in both, got text and bytes"):
            metrics.edit_distance(b, a)
    assert metrics.edit_distance(b"abc", b"ab") == metrics.edit_distance([b"a"], [b"b"]) == 1
    masked = np.ma.array([1, 2], mask=[False, True])
    with pytest.raises(TypeError, match="reference: expected a sequence of tokens or an array"):
        metrics.edit_distance(masked, [1, 2])


def test_edit_distance_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(ImportError, match=r'rapidfuzz: pip install "seqjax\[text\]"'):
        metrics.edit_distance("a", "b")


@pytest.mark.parametrize("jit", [False, True])
def test_nan_logits_are_neither_right_nor_wrong(jit):
    logits = np.array([[1.0, 2.0], [np.nan, 0.0]], np.float32)

    def values(logits):
        labels, real = np.array([1, 0]), np.array([True, False])
        return (
            metrics.accuracy(logits, labels).value(),
            metrics.accuracy(logits, labels, mask=real).value(),
            metrics.binary_accuracy(logits[:, 0], labels).value(),
            metrics.binary_accuracy(logits[:, 0], labels, mask=real).value(),
        )

    found = (jax.jit(values) if jit else values)(logits)
    np.testing.assert_array_equal(found, [np.nan, 1.0, np.nan, 1.0])
    # An infinite logit decides, and is no NaN.
    infinite = np.array([[np.inf, 0.0], [-np.inf, 0.0]], np.float32)
    assert float(metrics.accuracy(infinite, np.array([0, 1])).value()) == 1.0


def test_a_mean_of_wide_integers_is_not_cut():
    wide: list[Any] = [
        np.array([2**40] * 4),
        np.array([2**31]),
        np.array([2**63], np.uint64),
        [-(2**40)],
    ]
    found = [float(Mean.of(values).value()) for values in wide]
    assert found == [2.0**40, 2.0**31, 2.0**63, -(2.0**40)]


def untyped(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mean.of(1j), "values: expected real numbers, got complex"),
        (lambda: Mean.of(jnp.array([1j])), "values: expected real numbers, got complex"),
        (lambda: Mean.of(untyped(["a"])), "values: expected numbers, got 'a'"),
        (lambda: Mean.of(untyped(None)), "values: expected numbers, got None"),
        (lambda: metrics.perplexity(untyped(3.0)), "mean: expected a seqjax.metrics.Mean, got 3.0"),
        (lambda: Mean().merge(untyped((1, 2))), "other: expected a Mean"),
        (lambda: sum(untyped([Mean(), Mean()])), r"Mean: merge two means with a.merge\(b\)"),
    ],
)
def test_what_is_no_mean_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_lists_of_arrays_and_variables_are_arrays():
    def mean(a):
        return Mean.of(untyped([a, 2 * a])).value()

    assert float(jax.jit(mean)(2.0)) == 3.0
    assert float(Mean.of(untyped(nnx.Param(jnp.array([1.0, 2.0])))).value()) == 1.5


def test_accuracies_without_implicit_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        hits = metrics.accuracy(jnp.array([[[1.0, 2.0], [3.0, 0.0]]]), jnp.array([[1, 1]]))
        both = metrics.binary_accuracy(jnp.array([3.0, -1.0, 2.0, 1.0]), jnp.array([1, 1, 1, 1]))
    assert hits.value() == 0.5 and both.value() == 0.75


def test_ragged_lengths_are_refused():
    ragged: Any = [[1], [1, 2]]
    with pytest.raises(TypeError, match=r"lengths: expected integers, got \[\[1\], \[1, 2\]\]"):
        metrics.cross_entropy(jnp.zeros((2, 3, 4)), np.zeros((2, 3), int), lengths=ragged)
