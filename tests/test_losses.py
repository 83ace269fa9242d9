"""Losses: values and gradients against float64 loops, and nothing of what is masked."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqjax import losses, metrics

Reference = Callable[[np.ndarray, Any], tuple[float, np.ndarray]]


def cross_entropy_reference(z, y, label_smoothing=0.0):
    """One position: -Σ_c q_c log p_c and its gradient p - q."""
    top = max(z)
    normaliser = top + math.log(sum(math.exp(value - top) for value in z))
    q = [(1 - label_smoothing) * (c == y) + label_smoothing / len(z) for c in range(len(z))]
    value = -sum(q_c * (z_c - normaliser) for q_c, z_c in zip(q, z, strict=True))
    return value, np.array(
        [math.exp(z_c - normaliser) - q_c for q_c, z_c in zip(q, z, strict=True)]
    )


def binary_cross_entropy_reference(z, y):
    """One element: -y log p - (1 - y) log(1 - p) and its gradient p - y."""
    p = 1 / (1 + math.exp(-z))
    return -y * math.log(p) - (1 - y) * math.log(1 - p), np.array(p - y)


def squared_error_reference(prediction, target):
    """One element: (ŷ - y)² and its gradient 2 (ŷ - y)."""
    return (prediction - target) ** 2, np.array(2 * (prediction - target))


def absolute_error_reference(prediction, target):
    """One element: |ŷ - y| and its gradient, the sign of ŷ - y."""
    return abs(prediction - target), np.array(math.copysign(1, prediction - target))


class Case(NamedTuple):
    """A loss on inputs of one shape, its mask of another, and the reference for one element."""

    loss: Callable[..., jax.Array]
    reference: Reference
    shape: tuple[int, ...]
    mask_shape: tuple[int, ...]
    targets: str
    label_smoothing: float | None = None

    @property
    def options(self):
        return {} if self.label_smoothing is None else {"label_smoothing": self.label_smoothing}

    def draw(self, seed=0):
        """Float64 predictions, targets and a mask with both values in it."""
        rng = np.random.default_rng(seed)
        predictions = rng.normal(size=self.shape) * 2
        targets = {
            "classes": lambda: rng.integers(0, self.shape[-1], self.shape[:-1]),
            "bits": lambda: rng.integers(0, 2, self.shape),
            "probabilities": lambda: rng.uniform(size=self.shape),
            "reals": lambda: rng.normal(size=self.shape),
        }[self.targets]()
        mask = rng.uniform(size=self.mask_shape) < 0.6
        mask.flat[0], mask.flat[-1] = True, False
        return predictions, targets, mask

    def expect(self, predictions, targets, mask):
        """Value and gradient by a loop over the elements whose position is real."""
        total, count, gradient = 0.0, 0, np.zeros(predictions.shape)
        for index in np.ndindex(targets.shape):
            if mask[index[: mask.ndim]]:
                value, slope = self.reference(predictions[index], targets[index], **self.options)
                total, count = total + value, count + 1
                gradient[index] = slope
        return (total / count, gradient / count) if count else (0.0, gradient)

    def value_and_grad(self, predictions, targets, mask):
        def loss(values):
            return self.loss(values, targets, mask=mask, **self.options)

        return jax.value_and_grad(loss)(jnp.asarray(predictions))

    def garbage(self, predictions, targets, mask):
        """The same inputs with rubbish wherever the mask hides them."""
        predictions, targets = predictions.copy(), targets.copy()
        hidden = predictions[~mask]
        hidden.flat = np.resize([np.nan, np.inf, -np.inf, 1e30], hidden.size)
        predictions[~mask] = hidden
        rubbish = [-1, 10**6, 2**31 - 1] if targets.dtype.kind == "i" else [np.nan, -np.inf, 7.0]
        hidden = targets[~mask]
        hidden.flat = np.resize(rubbish, hidden.size)
        targets[~mask] = hidden
        return predictions, targets


CROSS_ENTROPY = (losses.cross_entropy, cross_entropy_reference)
BINARY = (losses.binary_cross_entropy, binary_cross_entropy_reference)
SQUARED = (losses.mean_squared_error, squared_error_reference)
ABSOLUTE = (losses.mean_absolute_error, absolute_error_reference)
CASES = {
    "tokens": Case(*CROSS_ENTROPY, (2, 4, 3), (2, 4), "classes"),
    "tokens_smoothed": Case(*CROSS_ENTROPY, (2, 4, 3), (2, 4), "classes", 0.1),
    "whole_sequences": Case(*CROSS_ENTROPY, (5, 3), (5,), "classes"),
    "bits": Case(*BINARY, (2, 4), (2, 4), "bits"),
    "piano_roll": Case(*BINARY, (2, 4, 3), (2, 4), "probabilities"),
    "reals": Case(*SQUARED, (2, 4), (2, 4), "reals"),
    "absolute_frames": Case(*ABSOLUTE, (2, 4, 3), (2, 4), "reals"),
    "frames": Case(*SQUARED, (2, 4, 3), (2, 4), "reals"),
    "whole_frames": Case(*SQUARED, (3, 2, 3), (3,), "reals"),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request):
    return request.param


@pytest.mark.quick("tokens_smoothed", "piano_roll", "frames", "absolute_frames")
def test_value_and_gradient(case):
    predictions, targets, mask = case.draw()
    value, gradient = case.value_and_grad(predictions, targets, mask)
    expected, slope = case.expect(predictions, targets, mask)
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-7)


def test_no_mask_is_all_real(case):
    predictions, targets, mask = case.draw()
    value, gradient = case.value_and_grad(predictions, targets, None)
    expected, slope = case.expect(predictions, targets, np.ones_like(mask))
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-7)


@pytest.mark.quick("tokens_smoothed-jit", "piano_roll-jit", "frames-jit")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_garbage_in_masked_places_changes_nothing(case, compiled):
    predictions, targets, mask = case.draw()
    run = case.value_and_grad
    run = jax.jit(run) if compiled else run
    value, gradient = run(predictions, targets, mask)
    dirty, dirty_gradient = run(*case.garbage(predictions, targets, mask), mask)
    assert dirty == value
    np.testing.assert_array_equal(dirty_gradient, gradient)
    np.testing.assert_array_equal(np.asarray(dirty_gradient)[~mask], 0)
    assert np.isfinite(dirty_gradient).all()


def test_all_masked_is_zero(case):
    predictions, targets, mask = case.draw()
    mask = np.zeros_like(mask)
    predictions, targets = case.garbage(predictions, targets, mask)
    value, gradient = case.value_and_grad(predictions, targets, mask)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.quick("tokens_smoothed", "piano_roll", "frames", "absolute_frames")
def test_empty_is_zero(case):
    predictions, targets, mask = (array[:0] for array in case.draw())
    value, gradient = case.value_and_grad(predictions, targets, mask)
    assert value == 0 and gradient.shape == predictions.shape


@pytest.mark.quick("tokens_smoothed", "piano_roll", "frames", "absolute_frames")
def test_one_value_a_sequence(case):
    """The mean of each sequence, also of one that is all padding, is the loss of it alone."""
    predictions, targets, mask = case.draw()
    mask[1] = False
    dirty = case.garbage(predictions, targets, mask)

    def loss(values, targets, mask):
        return case.loss(values, targets, mask=mask, per_sequence=True, **case.options)

    each, pull = jax.vjp(lambda values: loss(values, dirty[1], mask), jnp.asarray(dirty[0]))
    (slopes,) = pull(jnp.ones_like(each))
    assert each.shape == predictions.shape[:1] and each[1] == 0
    for b in range(len(each)):
        value, slope = case.expect(*(a[b : b + 1] for a in (predictions, targets, mask)))
        np.testing.assert_allclose(each[b], value, rtol=2e-6)
        np.testing.assert_allclose(slopes[b], slope[0], rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(
        loss(predictions, targets, None), loss(predictions, targets, np.ones_like(mask)), rtol=1e-6
    )
    assert loss(*(a[:0] for a in (predictions, targets, mask))).shape == (0,)


def test_one_value_a_sequence_needs_sequences():
    with pytest.raises(ValueError, match="per_sequence: expected a batch of sequences, got a sing"):
        losses.mean_squared_error(jnp.array(1.0), jnp.array(2.0), per_sequence=True)
    mean: Any = "mean"
    with pytest.raises(TypeError, match="per_sequence: expected a bool, got 'mean'"):
        losses.mean_squared_error(jnp.ones(2), jnp.ones(2), per_sequence=mean)


@pytest.mark.quick("*-bfloat16")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_inputs_are_computed_in_float32(case, dtype):
    predictions, targets, mask = case.draw()
    rounded = jnp.asarray(predictions, dtype)
    value, gradient = case.value_and_grad(rounded, targets, mask)
    expected, _ = case.expect(np.asarray(rounded, np.float64), targets, mask)
    assert value.dtype == jnp.float32 and gradient.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=2e-6)


@pytest.mark.quick("tokens_smoothed")
def test_float64(case, x64):
    predictions, targets, mask = case.draw()
    value, gradient = case.value_and_grad(predictions, targets, mask)
    expected, slope = case.expect(predictions, targets, mask)
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-15)


@pytest.mark.quick("tokens_smoothed", "piano_roll", "frames", "absolute_frames")
def test_no_implicit_promotion(case):
    inputs = [jnp.asarray(array) for array in case.draw()]
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        value, _ = case.value_and_grad(*inputs)
    assert np.isfinite(value)


@given(mask=hnp.arrays(bool, (2, 4)), seed=st.integers(0, 9))
def test_any_mask(mask, seed):
    case = CASES["tokens_smoothed"]
    predictions, targets, _ = case.draw(seed)
    dirty_predictions, dirty_targets = case.garbage(predictions, targets, mask)
    value, gradient = case.value_and_grad(dirty_predictions, dirty_targets, mask)
    expected, slope = case.expect(predictions, targets, mask)
    np.testing.assert_allclose(value, expected, rtol=5e-6)
    np.testing.assert_allclose(gradient, slope, rtol=5e-5, atol=1e-6)


def test_targets_get_no_garbage_gradient():
    """A target that is itself computed (distillation) gets zeros where it is masked."""
    predictions, mask = jnp.array([1.0, 2.0]), jnp.array([True, False])
    for loss in (losses.mean_squared_error, losses.binary_cross_entropy):
        gradient = jax.grad(loss, argnums=1)(predictions, jnp.array([0.5, jnp.nan]), mask=mask)
        assert gradient[0] != 0 and gradient[1] == 0


def test_extreme_logits_are_exact():
    logits = jnp.array([1e4, -1e4])
    assert losses.cross_entropy(logits[None], jnp.array([1])) == 2e4
    assert losses.binary_cross_entropy(logits, jnp.array([0, 1])) == 1e4


def test_excluded_class_costs_nothing():
    """A logit of -inf rules a class out; the loss of the others stays finite."""
    logits = jnp.array([[0.0, 0.0, -jnp.inf]])
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([0])), math.log(2), rtol=1e-6)


@pytest.mark.quick("int8", "uint32")
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_label_dtypes(dtype):
    """The number of classes, 300, need not fit the type of the labels."""
    logits = jnp.zeros((3, 300)).at[0, 3].set(5.0)
    labels = np.array([3, 0, 100], dtype)
    expected = losses.cross_entropy(logits, np.array([3, 0, 100], np.int32))
    assert losses.cross_entropy(logits, labels) == expected
    assert jax.jit(losses.cross_entropy)(logits, labels) == expected


@pytest.mark.parametrize("label", [-1, 3, 10**6])
def test_class_out_of_range(label):
    logits, labels = jnp.zeros((2, 3)), np.array([0, label])
    with pytest.raises(ValueError, match=rf"labels: expected values in \[0, 2\].*got {label}"):
        losses.cross_entropy(logits, labels)
    with pytest.raises(ValueError, match="labels"):
        jax.grad(losses.cross_entropy)(logits, labels, mask=np.array([False, True]))
    found = losses.cross_entropy(logits, labels, mask=np.array([True, False]))
    np.testing.assert_allclose(found, np.log(3), rtol=1e-6)
    for smoothing in (0.0, 0.1):
        value = jax.jit(lambda y, a=smoothing: losses.cross_entropy(logits, y, label_smoothing=a))
        assert jnp.isnan(value(labels)) and jnp.isfinite(value(labels[:1].repeat(2)))


def test_wide_class_does_not_wrap_into_range():
    with pytest.raises(ValueError, match="labels"):
        losses.cross_entropy(jnp.zeros((1, 3)), np.array([2**32 + 1]))


@pytest.mark.parametrize("label", [-0.5, 1.5, np.nan])
def test_probability_out_of_range(label):
    logits, labels = jnp.zeros(2), np.array([0.5, label], np.float32)
    with pytest.raises(ValueError, match=r"labels: expected values in \[0, 1\]"):
        losses.binary_cross_entropy(logits, labels)
    found = losses.binary_cross_entropy(logits, labels, mask=np.array([True, False]))
    np.testing.assert_allclose(found, np.log(2), rtol=1e-6)
    assert jnp.isnan(jax.jit(losses.binary_cross_entropy)(logits, labels))


def test_bool_and_int_targets():
    values, bits = jnp.array([0.5, -2.0, 1.0]), np.array([True, False, True])
    for loss in (losses.binary_cross_entropy, losses.mean_squared_error):
        expected = loss(values, bits.astype(np.float32))
        assert loss(values, bits) == loss(values, bits.astype(np.int64)) == expected


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "int logits": ({"logits": (2, 3), "dtype": int}, TypeError, "logits: expected a float array"),
    "scalar logits": ({"logits": ()}, ValueError, r"logits: expected \[\.\.\., C\].*got \(\)"),
    "no classes": ({"logits": (2, 0)}, ValueError, "at least one class"),
    "labels shape": ({"labels": 3}, ValueError, r"labels: expected \(2,\) .*\(2, 3\), got \(3,\)"),
    "float labels": ({"label_dtype": float}, TypeError, "labels: expected integer .*got float64"),
    "bool labels": ({"label_dtype": bool}, TypeError, "labels: expected integer .*got bool"),
    "smoothing 1": ({"label_smoothing": 1}, ValueError, r"label_smoothing: .*\[0, 1\), got 1"),
    "smoothing < 0": ({"label_smoothing": -0.1}, ValueError, "label_smoothing: .*got -0.1"),
    "float mask": ({"mask": np.ones(2)}, TypeError, "mask: expected bool .*got float64"),
    "int mask": ({"mask": np.ones(2, int)}, TypeError, "mask: expected bool .*got int64"),
    "mask shape": ({"mask": np.ones((2, 3), bool)}, ValueError, r"mask: .*\(2,\), got \(2, 3\)"),
    "scalar mask": ({"mask": np.array(True)}, ValueError, r"mask: .*\(2,\), got \(\)"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD)
def test_cross_entropy_refuses(arguments, error, message):
    options = dict(arguments)
    logits = np.zeros(options.pop("logits", (2, 3)), options.pop("dtype", np.float32))
    labels = np.zeros(options.pop("labels", 2), options.pop("label_dtype", int))
    with pytest.raises(error, match=message):
        losses.cross_entropy(logits, labels, **options)


@pytest.mark.parametrize("loss", [losses.mean_squared_error, losses.binary_cross_entropy])
def test_elementwise_losses_refuse(loss):
    values = jnp.zeros((2, 4, 3))
    with pytest.raises(ValueError, match=r"(targets|labels): .*\(2, 4, 3\), got \(2, 4\)"):
        loss(values, jnp.zeros((2, 4)))
    with pytest.raises(TypeError, match="expected a float array, got int32"):
        loss(values.astype(jnp.int32), values)
    with pytest.raises(TypeError, match="mask: expected bool"):
        loss(values, values, mask=jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"mask: expected a leading part of .*, got \(4,\)"):
        loss(values, values, mask=jnp.ones(4, bool))
    with pytest.raises(ValueError, match="mask"):
        loss(values, values, mask=jnp.ones((2, 4, 3, 1), bool))


ZEROS = np.zeros(2, np.float32)
HIDDEN = np.ma.array([1.0, 100.0], mask=[False, True])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: losses.mean_squared_error(ZEROS, HIDDEN), "targets"),
        (lambda: losses.mean_squared_error(HIDDEN, ZEROS), "predictions"),
        (lambda: losses.binary_cross_entropy(ZEROS, HIDDEN / 100), "labels"),
        (lambda: losses.cross_entropy(np.zeros((2, 3)), HIDDEN.astype(int)), "labels"),
        (lambda: losses.mean_squared_error(ZEROS, ZEROS, mask=HIDDEN > 0), "mask"),
    ],
)
def test_masked_entries_are_not_used(call, name):
    with pytest.raises(ValueError, match=f"{name}: expected no masked entries"):
        call()


def test_a_masked_array_that_hides_nothing_is_an_array():
    targets = np.ma.array([1.0, 3.0], mask=[False, False])
    assert float(losses.mean_squared_error(ZEROS, targets)) == 5.0


@pytest.mark.parametrize(
    ("targets", "got"),
    [
        (np.array(["1970-01-11", "1970-01-11"], "M8[D]"), "datetime64"),
        (np.array([1, 2], "m8[D]"), "timedelta64"),
        ([3j, 3j], "complex"),
        (jnp.array([3j, 3j]), "complex"),
        (["3", "True"], "'3'"),
        (None, "None"),
    ],
)
def test_targets_that_are_no_real_numbers(targets, got):
    for name, loss in (
        ("targets", losses.mean_squared_error),
        ("labels", losses.binary_cross_entropy),
    ):
        with pytest.raises(TypeError, match=rf"^{name}: expected .*numbers, got {got}"):
            loss(ZEROS, targets)


def test_logits_of_none_and_no_labels():
    nothing: Any = None
    with pytest.raises(TypeError, match="logits: expected numbers, got None"):
        losses.cross_entropy(nothing, np.array([1]))
    empty: Any = []
    assert float(losses.cross_entropy(np.zeros((0, 4)), empty)) == 0.0


@pytest.mark.quick("cross_entropy-*")
@pytest.mark.parametrize(
    ("loss", "features"),
    [("cross_entropy", ()), ("binary_cross_entropy", (4,)), ("mean_squared_error", ())],
)
def test_lengths_mean_their_mask(loss, features):
    rng = np.random.default_rng(0)
    function, lengths = getattr(losses, loss), np.array([[3, 0], [5, 1]])
    mask = np.arange(5) < lengths[..., None]
    shape = (2, 2, 5, *features) if loss != "cross_entropy" else (2, 2, 5, 4)
    values = rng.normal(size=shape).astype(np.float32)
    targets = rng.integers(0, 2, shape[:3] if loss == "cross_entropy" else shape)
    values[~mask] = np.nan
    for run in (function, jax.jit(function)):
        found = run(values, targets, lengths=lengths)
        np.testing.assert_array_equal(found, function(values, targets, mask=mask))
        assert np.isfinite(found)
    mean = getattr(metrics, loss)(values, targets, lengths=lengths)
    assert int(mean.count) == 9 * int(np.prod(features, dtype=int))
    for wrong, message in (
        ({"lengths": lengths, "mask": mask}, "lengths, mask: expected one of them, got both"),
        ({"lengths": lengths + 3}, r"lengths: expected 0 to 5, .*, got 3 to 8"),
        ({"lengths": lengths[0, :1]}, r"lengths: expected .*, got \(1,\)"),
        ({"lengths": lengths / 2}, "lengths: expected integers"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            function(values, targets, **wrong)


def test_the_order_of_keras_is_an_error_for_binary_labels():
    classes, probabilities = np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.9, 1.0])
    for y_true in (classes, jnp.asarray(classes), classes.tolist()):
        with pytest.raises(ValueError, match=r"logits, labels: expected logits first"):
            losses.binary_cross_entropy(y_true, probabilities)
    # Logits of a new model may all be equal, and hard labels may be in any order.
    for logits, labels in (
        (np.zeros(3), probabilities),
        (np.ones(3), probabilities),
        (classes, 1 - classes),
        (probabilities, classes),
    ):
        pairs = zip(logits, labels, strict=True)
        want = np.mean([binary_cross_entropy_reference(z, y)[0] for z, y in pairs])
        assert abs(float(losses.binary_cross_entropy(logits, labels)) - want) < 1e-6
    # Under tracing, values are not known.
    assert jnp.isfinite(jax.jit(losses.binary_cross_entropy)(classes, probabilities))
