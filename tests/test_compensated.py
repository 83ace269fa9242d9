"""Totals of two floats against exact sums, compiled and not."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seqjax._compensated import add


def start(x):
    x = jnp.asarray(x, jnp.float32)
    return x, jnp.zeros_like(x)


def exact(*numbers):
    return sum(fractions.Fraction(float(n)) for n in numbers)


@jax.jit
def summed(xs):
    return lax.scan(lambda total, x: (add(total, x), None), start(jnp.zeros(xs.shape[1:])), xs)[0]


@pytest.mark.quick()
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e25])
def test_a_long_sum_is_accurate_to_twice_the_precision(scale):
    xs = (np.random.default_rng(0).gamma(1.0, 2.0, (100_000, 3)) * scale).astype(np.float32)
    hi, lo = summed(-xs)
    for column in range(3):
        wanted = -exact(*xs[:, column])
        assert abs((exact(hi[column], lo[column]) - wanted) / wanted) < 1e-9
        assert float(hi[column]) == float(np.float32(float(wanted)))


def test_terms_that_cancel_leave_the_small_ones():
    xs = np.array([1e8, 1.0, 3e-3, -1e8, -1.0], np.float32)[:, None]
    hi, lo = summed(xs)
    assert float(hi[0]) + float(lo[0]) == pytest.approx(float(np.float32(3e-3)), abs=1e-6)


@pytest.mark.parametrize("constant", ["hi", "x", "both", "none"])
def test_the_compiler_does_not_simplify_the_correction_away(constant):
    hi, x = 1e8, 1.25  # the sum rounds to 1e8
    fixed = {"hi": {"hi"}, "x": {"x"}, "both": {"hi", "x"}, "none": set()}[constant]

    def run(**given):
        a, b = (jnp.float32(given.get(n, v)) for n, v in (("hi", hi), ("x", x)))
        return add(add((a, jnp.zeros_like(a)), b), b)

    given = {n: jnp.float32(v) for n, v in (("hi", hi), ("x", x)) if n not in fixed}
    hi, lo = jax.jit(run)(**given)
    assert exact(hi, lo) == exact(1e8, 2.5)


@pytest.mark.parametrize(
    ("xs", "wanted"),
    [
        ([1.0, -np.inf, 2.0], -np.inf),
        ([-np.inf, -np.inf], -np.inf),
        ([np.inf, 1.0], np.inf),
        ([-3e38, -3e38, 1.0], -np.inf),
        ([np.inf, -np.inf], np.nan),
        ([np.nan, 1.0], np.nan),
    ],
)
def test_what_is_not_finite_stays_and_has_no_correction(xs, wanted):
    hi, lo = summed(jnp.array(xs, jnp.float32)[:, None])
    np.testing.assert_array_equal(hi, np.array([wanted], np.float32))
    assert lo.tolist() == [0.0]


def test_gradients_are_those_of_a_plain_sum():
    def value(xs):
        hi, lo = summed(xs)
        return (hi + lo).sum()

    xs = jnp.array([[1e8, 1.0], [2.0, -jnp.inf], [-1e8, 3.0]])
    np.testing.assert_array_equal(jax.grad(value)(xs), np.ones((3, 2)))
    tangents = jax.jvp(value, (xs,), (jnp.full_like(xs, 2.0),))[1]
    assert float(tangents) == 12.0


def test_float64_and_vmap(x64):
    hi, lo = jax.vmap(lambda x: add((jnp.float64(1e16), jnp.float64(0)), x))(
        jnp.array([1.0, 0.25], jnp.float64)
    )
    assert hi.dtype == jnp.float64
    assert (exact(hi[1], lo[1]), exact(hi[0], lo[0])) == (exact(1e16, 0.25), exact(1e16, 1.0))
