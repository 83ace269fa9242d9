"""Lengths, masks, pooling and reversal against plain loops over one sequence at a time."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import sequences


class Layout(NamedTuple):
    """The shape of a batch of sequences, and which steps are real."""

    batch: tuple[int, ...]
    steps: int
    features: tuple[int, ...]
    real: str  # "lengths", "mask", or "all" for neither

    def drawn(self, seed=0):
        """Inputs and a mask with empty sequences, full ones, and holes unless made of lengths."""
        rng = np.random.default_rng(seed)
        xs = rng.normal(size=(*self.batch, self.steps, *self.features)).astype(np.float32)
        if self.real == "all":
            mask = np.ones((*self.batch, self.steps), bool)
        elif self.real == "lengths":
            lengths = rng.integers(0, self.steps + 1, self.batch, np.int32)
            lengths.reshape(-1)[:2] = (0, self.steps)[: lengths.size]
            mask = np.arange(self.steps) < lengths[..., None]
        else:
            mask = rng.random((*self.batch, self.steps)) < 0.5
            if self.steps:
                mask.reshape(-1, self.steps)[:1] = False
                mask.reshape(-1, self.steps)[1:2] = True
        return xs, mask

    def options(self, mask):
        """The mask as the arguments that say it."""
        if self.real == "all":
            return {}
        return {"lengths": mask.sum(-1)} if self.real == "lengths" else {"mask": mask}


LAYOUTS = {
    f"{real}-{batch}-{steps}-{features}": Layout(batch, steps, features, real)
    for batch, steps, features, real in [
        *itertools.product([(4,)], [5], [(3,), (), (2, 2)], ["lengths", "mask"]),
        *itertools.product([(2, 3), ()], [5], [(3,)], ["lengths", "mask", "all"]),
        *itertools.product([(4,), (0,), ()], [0], [(3,)], ["lengths", "mask", "all"]),
        *itertools.product([(0,), (2, 0)], [3], [(3,)], ["lengths", "mask", "all"]),
        ((2, 1, 3), 4, (), "mask"),
        ((2,), 3, (0,), "lengths"),
    ]
}

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


# What the functions say, for one sequence `xs [T, …]` and the list of its real steps.


def last_real(xs, real):
    return xs[real[-1]] if real else np.zeros_like(xs, shape=xs.shape[1:])


def first_real(xs, real):
    return xs[real[0]] if real else np.zeros_like(xs, shape=xs.shape[1:])


def mean_pool(xs, real):
    total = np.zeros(xs.shape[1:])
    for t in real:
        total = total + xs[t]
    mean = total / max(1, len(real))
    return (np.trunc(mean) if xs.dtype.kind in "iu" else mean).astype(xs.dtype)


def max_pool(xs, real):
    highest = last_real(xs, real)
    for t in real:
        highest = np.maximum(highest, xs[t])
    return highest


def reverse(xs, real):
    out = xs.copy()
    for t, opposite in zip(real, real[::-1], strict=True):
        out[t] = xs[opposite]
    return out


POOLS = {
    "last_real": last_real, "first_real": first_real, "mean_pool": mean_pool, "max_pool": max_pool
}  # fmt: skip
REFERENCES = POOLS | {"reverse": reverse}

functions = pytest.mark.parametrize("name", REFERENCES)


def looped(name, xs, mask):
    """A reference over all sequences of a batch."""
    batch = mask.shape[:-1]
    shape = xs.shape if name == "reverse" else batch + xs.shape[len(batch) + 1 :]
    out = np.zeros_like(xs, shape=shape)
    for n in np.ndindex(batch):
        out[n] = REFERENCES[name](xs[n], [t for t, is_real in enumerate(mask[n]) if is_real])
    return out


def with_padding(xs, mask, value):
    return np.where(mask.reshape(*mask.shape, *[1] * (xs.ndim - mask.ndim)), xs, value)


def check(layout, transform):
    xs, mask = layout.drawn()
    xs = with_padding(xs, mask, np.array(np.nan, xs.dtype))

    def functions(xs, **options):
        return {name: getattr(sequences, name)(xs, **options) for name in REFERENCES}

    for name, got in transform(functions)(xs, **layout.options(mask)).items():
        want = looped(name, xs, mask)
        assert got.dtype == xs.dtype and got.shape == want.shape, name
        np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=name)


@pytest.mark.quick(
    "lengths-(4,)-5-(3,)",
    "mask-(2, 3)-5-(3,)",
    "all-()-5-(3,)",
    "lengths-(0,)-3-(3,)",
    "lengths-(4,)-0-(3,)",
)
@layouts
def test_functions_equal_their_loops(layout):
    check(layout, jax.jit)


@pytest.mark.parametrize("real", ["lengths", "mask", "all"])
def test_functions_equal_their_loops_without_jit(real):
    check(LAYOUTS[f"{real}-(2, 3)-5-(3,)"], lambda function: function)


@pytest.mark.quick("int8-*", "float16-mean_pool")
@functions
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8, bool, np.float16])
def test_function_of_another_dtype(name, dtype):
    _, mask = LAYOUTS["mask-(4,)-5-(3,)"].drawn()
    xs = np.random.default_rng(1).integers(0, 100, (4, 5, 3))
    xs = (xs < 30 if dtype is bool else xs).astype(dtype)
    if name == "mean_pool" and dtype is bool:
        pytest.skip("a mean of truth values has no meaning")
    got = getattr(sequences, name)(jnp.asarray(xs), mask=mask)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, looped(name, xs, mask), rtol=1e-3)


@functions
def test_gradients_are_finite_and_zero_in_the_padding(name):
    xs, mask = LAYOUTS["mask-(4,)-5-(3,)"].drawn()
    weight = np.random.default_rng(2).normal(size=looped(name, xs, mask).shape)
    function = getattr(sequences, name)

    def loss(xs):
        # What a reversed sequence has in its padding stays there; nobody reads it.
        out = function(xs, mask=mask)
        return (
            (sequences.zero_masked(out, mask=mask) if name == "reverse" else out) * weight
        ).sum()

    clean = np.asarray(jax.grad(loss)(xs))
    assert (clean[~mask] == 0).all() and clean[mask].any()
    for value in (np.nan, np.inf, -np.inf):
        dirty = jax.grad(loss)(with_padding(xs, mask, np.float32(value)))
        np.testing.assert_array_equal(dirty, clean)
    # Against the gradient of the loop, which is piecewise linear.
    direction = np.random.default_rng(3).normal(size=xs.shape)
    real = mask[..., None] if name == "reverse" else 1.0

    def at(step):
        return (looped(name, xs.astype(np.float64) + step * direction, mask) * real * weight).sum()

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    np.testing.assert_allclose((clean * direction).sum(), slope, rtol=1e-4)


@pytest.mark.parametrize("name", POOLS)
def test_what_is_wrong_at_a_real_step_is_not_hidden(name):
    xs = np.array([[[1.0], [np.nan], [2.0], [9.0]]], np.float32)
    one = {"last_real": 2, "first_real": 1}.get(name)
    mask = np.array([[True, True, True, False]]) if one is None else np.arange(4)[None] == 1
    assert np.isnan(getattr(sequences, name)(xs, mask=mask)).all()


def test_maximum_of_lowest_values():
    xs = jnp.full((2, 3, 1), -jnp.inf)
    got = sequences.max_pool(xs, lengths=[2, 0])
    assert got.tolist() == [[-np.inf], [0.0]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_means_are_summed_in_float32(dtype):
    xs = jnp.full((1, 4096, 1), 100, dtype)  # 409600 is beyond float16, and 256 + 1 = 256 in bf16
    assert sequences.mean_pool(xs, lengths=[4095]).tolist() == [[100.0]]


def test_reversing_twice_changes_nothing():
    xs, mask = LAYOUTS["mask-(2, 3)-5-(3,)"].drawn()
    twice = sequences.reverse(sequences.reverse(xs, mask=mask), mask=mask)
    np.testing.assert_array_equal(twice, xs)


def test_lists_and_scalars():
    xs = jnp.arange(6.0).reshape(1, 3, 2)
    assert sequences.last_real(xs, lengths=[2]).tolist() == [[2.0, 3.0]]
    assert sequences.last_real(xs, mask=[[True, False, False]]).tolist() == [[0.0, 1.0]]
    assert sequences.last_real(xs[0], lengths=2).tolist() == [2.0, 3.0]
    assert sequences.lengths_to_mask(2, 3).tolist() == [True, True, False]
    assert sequences.lengths_to_mask([], 3).shape == (0, 3)
    assert sequences.mask_to_lengths([[True, False, True]]).tolist() == [2]


@pytest.mark.quick("7-shape2-*", "0-shape0-int8", "1-shape4-int64")
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0), (2, 1, 2)])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_lengths_to_mask_and_back(shape, steps, dtype):
    lengths = np.random.default_rng(0).integers(0, steps + 1, shape).astype(dtype)
    mask = np.asarray(
        sequences.lengths_to_mask(lengths, steps)
    )  # so that indexing compiles nothing
    assert mask.shape == (*shape, steps) and mask.dtype == bool
    for n in np.ndindex(shape):
        assert mask[n].tolist() == [t < lengths[n] for t in range(steps)]
    back = sequences.mask_to_lengths(mask)
    assert back.dtype == jnp.int32 and back.shape == shape
    np.testing.assert_array_equal(back, lengths)
    traced = jax.jit(sequences.lengths_to_mask, static_argnums=1)(lengths, steps)
    np.testing.assert_array_equal(traced, mask)


def test_lengths_beyond_a_narrow_dtype():
    mask = sequences.lengths_to_mask(np.array([200, 255], np.uint8), 300)
    assert sequences.mask_to_lengths(mask).tolist() == [200, 255]
    traced = jax.jit(sequences.lengths_to_mask, static_argnums=1)(np.array([200, 255]), 300)
    assert traced.sum(-1).tolist() == [200, 255]


def test_mask_to_lengths_counts_the_real_steps_of_a_mask_with_holes():
    _, mask = LAYOUTS["mask-(2, 3)-5-(3,)"].drawn()
    got = sequences.mask_to_lengths(mask)
    for n in np.ndindex(2, 3):
        assert got[n] == sum(1 for is_real in mask[n] if is_real)


def test_lengths_are_checked_and_given_back_as_int32():
    lengths = sequences.require_lengths(np.array([0, 3], np.uint8), (2,), 3)
    assert lengths.dtype == jnp.int32 and lengths.tolist() == [0, 3]
    traced = jax.jit(lambda n: sequences.require_lengths(n, (2,), 3))(jnp.array([0, 3]))
    assert traced.dtype == jnp.int32 and traced.tolist() == [0, 3]


@pytest.mark.parametrize("time_major", [False, True])
def test_step_mask(time_major):
    want = np.arange(4) < np.array([[2], [0], [4]])
    want = want.T if time_major else want
    options: dict[str, Any] = {"batch_shape": (3,), "steps": 4, "time_major": time_major}
    assert sequences.step_mask(**options) is None
    for padding in ({"lengths": [2, 0, 4]}, {"mask": want}):
        got = sequences.step_mask(**padding, **options)
        assert got is not None
        np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match=r"lengths, mask: expected one of them, got both"):
        sequences.step_mask(lengths=[2, 0, 4], mask=want, **options)
    with pytest.raises(ValueError, match=r"mask: expected shape .* got"):
        sequences.step_mask(mask=want.T, **options)


@pytest.mark.quick(
    "lengths-(4,)-5-(3,)", "mask-(2, 3)-5-(3,)", "all-()-5-(3,)", "lengths-(0,)-3-(3,)"
)
@layouts
def test_zero_masked(layout):
    xs, mask = layout.drawn()
    want = with_padding(xs, mask, np.float32(0))
    got = sequences.zero_masked(with_padding(xs, mask, np.float32(np.nan)), **layout.options(mask))
    assert got.dtype == xs.dtype
    np.testing.assert_array_equal(got, want)
    integers = sequences.zero_masked((10 * xs).astype(np.int32), mask=mask)
    np.testing.assert_array_equal(integers, (10 * want).astype(np.int32))
    gradient = jax.grad(lambda xs: sequences.zero_masked(xs, mask=mask).sum())(xs)
    np.testing.assert_array_equal(gradient, np.broadcast_to(over(mask, xs), xs.shape))


def over(mask, xs):
    return mask.reshape(*mask.shape, *[1] * (xs.ndim - mask.ndim))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 3), (2, 4, 3)])
def test_repeat(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for run in (sequences.repeat, jax.jit(sequences.repeat, static_argnums=1)):
        got = np.asarray(run(x, 5))
        assert got.shape == (*shape[:-1], 5, 3)
        for t in range(5):
            np.testing.assert_array_equal(got[..., t, :], x)
    gradient = jax.grad(lambda x: sequences.repeat(x, 5).sum())(x)
    np.testing.assert_array_equal(gradient, np.full(shape, 5))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (0,)])
def test_time_major_and_back(batch):
    tree = {"x": np.random.default_rng(0).normal(size=(*batch, 5, 3)), "n": np.ones((*batch, 5))}
    first = jax.tree.map(np.asarray, sequences.to_time_major(tree, len(batch)))
    for t in range(5):
        for n in np.ndindex(batch):
            np.testing.assert_allclose(first["x"][(t, *n)], tree["x"][(*n, t)], rtol=1e-6)
    assert first["n"].shape == (5, *batch)
    back = sequences.to_batch_major(first, len(batch))
    np.testing.assert_array_equal(back["x"], tree["x"].astype(np.float32))


XS = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f(XS, lengths=[1, 4]), ValueError, r"lengths: expected 0 to 3.*got 1 to 4"),
        (lambda f: f(XS, lengths=[1.0, 2.0]), TypeError, r"lengths: expected integers.*float64"),
        (lambda f: f(XS, lengths=[1]), ValueError, r"lengths: expected .*\(2,\), got \(1,\)"),
        (lambda f: f(XS, lengths=np.ones((2, 3, 4), int)), ValueError, r"xs: expected a time axis"),
        (lambda f: f(XS, mask=np.ones((2, 3))), TypeError, r"mask: expected bool.*got .*float64"),
        (lambda f: f(XS, mask=np.ones((3, 2), bool)), ValueError, r"mask: expected.*\(2, 3\), got"),
        (
            lambda f: f(XS, lengths=[1, 1], mask=np.ones((2, 3), bool)),
            ValueError,
            r"lengths, mask: expected one of them, got both",
        ),
        (lambda f: f(XS[0, 0]), ValueError, r"xs: expected .*got .*\(4,\)"),
        (lambda f: f(XS[0, 0, 0]), ValueError, r"xs: expected .*got .*\(\)"),
    ],
)
@functions
def test_bad_calls(name, call, error, message):
    with pytest.raises(error, match=message):
        call(getattr(sequences, name))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sequences.lengths_to_mask([1, 4], 3), ValueError, r"lengths: expected 0 to 3"),
        (lambda: sequences.lengths_to_mask([1.0], 3), TypeError, r"lengths: expected integers"),
        (lambda: sequences.lengths_to_mask([0], 2.5), TypeError, r"steps: expected .*got 2.5"),  # type: ignore[arg-type]
        (lambda: sequences.lengths_to_mask([0], -1), ValueError, r"steps: expected .*got -1"),
        (lambda: sequences.mask_to_lengths(XS), TypeError, r"mask: expected bool.*got .*float32"),
        (lambda: sequences.mask_to_lengths(np.bool_(True)), ValueError, r"mask: expected .*got"),
        (
            lambda: sequences.zero_masked(XS, mask=np.ones((3, 2), bool)),
            ValueError,
            r"mask: expected .*\(2, 3\), got \(3, 2\)",
        ),
        (lambda: sequences.repeat(XS[0], 0), ValueError, r"steps: expected a positive.*got 0"),
        (lambda: sequences.repeat(XS[0], 2.0), TypeError, r"steps: expected a positive.*2.0"),  # type: ignore[arg-type]
        (lambda: sequences.repeat(XS[0, 0, 0], 2), ValueError, r"x: expected .*got"),
    ],
)
def test_other_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_mean_pool_under_strict_promotion(dtype):
    with jax.numpy_dtype_promotion("strict"):
        pooled = sequences.mean_pool(jnp.full([1, 3, 2], 3, dtype), lengths=jnp.array([2]))
    assert pooled.dtype == dtype and pooled.tolist() == [[3, 3]]


PICKS = {
    sequences.last_real: [[2.0], [3.0]],
    sequences.first_real: [[1.0], [3.0]],
    sequences.mean_pool: [[1.5], [3.0]],
    sequences.max_pool: [[2.0], [3.0]],
    sequences.reverse: [[[2.0], [1.0]], [[3.0], [9.0]]],
}


@pytest.mark.parametrize("function", PICKS)
def test_lists_are_arrays_and_text_is_not(function):
    xs = [[[1.0], [2.0]], [[3.0], [9.0]]]
    assert function(xs, lengths=[2, 1]).tolist() == PICKS[function]
    assert function(xs, mask=[[True, True], [True, False]]).tolist() == PICKS[function]
    for wrong in ("text", None, [[1.0], [1.0, 2.0]]):
        with pytest.raises(TypeError, match="xs: expected numbers"):
            function(wrong, lengths=[1])
    with pytest.raises(ValueError, match=r"xs: .*, got 1099511627776, which does not fit"):
        function(np.array([[2**40]]), lengths=[1])
    with pytest.raises(TypeError, match="lengths: expected integers"):
        function(xs, lengths=[[1], [1, 2]])
    with pytest.raises(TypeError, match="mask: expected bool"):
        function(xs, mask=[[True], []])


def test_the_other_functions_take_lists_too():
    assert sequences.zero_masked([[1.0, 2.0]], mask=[[True, False]]).tolist() == [[1.0, 0.0]]
    assert sequences.repeat([1, 2], 2).tolist() == [[1, 2], [1, 2]]
    with pytest.raises(TypeError, match="mask: expected bool"):
        sequences.zero_masked([[1.0]], mask=[[1]])
    with pytest.raises(TypeError, match="x: expected features"):
        sequences.repeat("a", 2)
    with pytest.raises(TypeError, match="lengths: expected integers"):
        sequences.lengths_to_mask([[1], [1, 2]], 3)
    with pytest.raises(TypeError, match="xs: expected real numbers"):
        sequences.max_pool([[1j, 2]])


@pytest.mark.parametrize("lengths", [np.ma.array([2, 3], mask=[False, True]), [2, np.ma.masked]])
def test_masked_lengths_are_refused(lengths):
    for refused in (
        lambda: sequences.lengths_to_mask(lengths, 4),
        lambda: sequences.mean_pool(np.ones((2, 4, 1)), lengths=lengths),
    ):
        with pytest.raises(ValueError, match="lengths: expected no masked entries"):
            refused()


def test_lengths_without_masked_entries_are_taken():
    mask = sequences.lengths_to_mask(np.ma.array([0, 2]), 2)
    assert mask.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize(
    "function", ["reverse", "last_real", "first_real", "mean_pool", "max_pool"]
)
def test_tokens_need_lengths(function):
    """Without lengths, the axis of the batch could be taken for time."""
    tokens = np.array([[4, 5, 6], [7, 8, 0]])
    with pytest.raises(ValueError, match=r"lengths: expected lengths or mask for int.*\(2, 3\)"):
        getattr(sequences, function)(tokens)


def test_tokens_are_reversed_in_time():
    tokens = np.array([[4, 5, 6], [7, 8, 0]])
    assert sequences.reverse(tokens, lengths=[3, 2]).tolist() == [[6, 5, 4], [8, 7, 0]]
