"""Sums of many numbers, computed as accurately as with twice the precision of their dtype.

A total is a pair (hi, lo) with the value hi + lo and |lo| ≤ ulp(hi) / 2, so hi is the total rounded
to its dtype. A sum starts with the total `(x, zeros)`. Wherever hi is infinite, lo is zero.

XLA might simplify (a + b) - a to b. To prevent this, a + b first passes through
`lax.reduce_precision` with the precision of its dtype, which does not change the value.
"""

import jax
import jax.numpy as jnp
from jax import lax

from seqjax.types import Array

__all__ = ["Total", "add", "behind", "divide", "is_at_most", "sum_along"]

Total = tuple[Array, Array]
"""A total as a pair (hi, lo)."""


def add(total: Total, x: Array) -> Total:
    """Return a total plus x.

        s, e = TwoSum(hi, x)
        hi, lo = FastTwoSum(s, e + lo)

    The error of one step is at most 2 u² |hi + lo + x|, u = 2⁻²⁴ in float32. If the total becomes
    infinite or NaN, hi has that value and lo is 0. The gradient of hi is that of a plain sum, and
    lo has no gradient.

    Args:
      total: hi and lo, float arrays of one shape and dtype.
      x: the number to add, of the same dtype; it may be broadcast.

    Returns:
      hi and lo of the new total.

    References:
      Knuth 1998, The Art of Computer Programming, volume 2, section 4.2.2, theorem B.
      Joldes, Muller, Popescu 2017, Tight and rigorous error bounds for basic building blocks of
      double-word arithmetic, algorithm 4.

    Example:
      >>> total = jnp.float32(2**24), jnp.float32(0)
      >>> hi, lo = add(add(total, jnp.float32(1)), jnp.float32(0.25))
      >>> float(hi), float(lo)
      (16777218.0, -0.75)
    """
    hi, lo = total
    s = _rounded(hi + x)
    rest = lax.stop_gradient(lo + _error(hi, x, s))
    new = _rounded(s + rest)
    return new, lax.stop_gradient(jnp.where(jnp.isfinite(new), rest - (new - s), 0))


def sum_along(x: Array, axis: int) -> Array:
    """Return the sum over an axis, with an error that does not grow with the number of terms.

    Args:
      x: float `[..., n, ...]`.
      axis: the axis of n.

    Example:
      >>> float(
      ...     sum_along(jnp.full(2**20, 0.1, jnp.float32), 0)
      ... )  # 2**20 times the float next to 0.1
      104857.6015625
    """
    hi = jnp.moveaxis(x, axis, 0)
    lo = jnp.zeros_like(hi)
    if jax.export.is_symbolic_dim(hi.shape[0]):  # the number of halvings is unknown
        zeros = jnp.zeros_like(hi, shape=hi.shape[1:])
        return lax.scan(lambda total, x: (add(total, x), None), (zeros, zeros), hi)[0][0]
    while hi.shape[0] > 1:
        odd = [(0, hi.shape[0] % 2)] + [(0, 0)] * (hi.ndim - 1)
        hi, lo = jnp.pad(hi, odd), jnp.pad(lo, odd)
        half = hi.shape[0] // 2
        hi, lo = add(add((hi[:half], lo[:half]), hi[half:]), lo[half:])
    return hi[0] if hi.shape[0] else hi.sum(0)


def divide(total: Total, divisor: Total) -> Total:
    """Return a total divided by another one, to about twice the precision.

        q = hi / d_hi
        hi, lo = FastTwoSum(q, (hi - q d_hi + lo - q d_lo) / d_hi)

    Args:
      total: the pair (hi, lo) of the dividend.
      divisor: the pair (hi, lo) of the divisor, which is not 0. Its shape may be broadcast.

    References:
      Dekker 1971, A floating-point technique for extending the available precision, section 5.

    Example:
      >>> one, three = jnp.float32(1), jnp.float32(3)
      >>> hi, lo = divide((one, 0 * one), (three, 0 * three))
      >>> abs(float(hi) + float(lo) - 1 / 3) < 1e-14
      True
    """
    hi, lo = total
    d_hi, d_lo = divisor
    q = _rounded(hi / d_hi)
    left = -_product_error(q, d_hi, hi) + (lo - q * d_lo)
    rest = lax.stop_gradient(jnp.where(jnp.isfinite(q), left / d_hi, 0))
    new = _rounded(q + rest)
    return new, lax.stop_gradient(jnp.where(jnp.isfinite(new), rest - (new - q), 0))


def behind(total: Total) -> Array:
    """Return totals as floats `[..., n]`, after subtracting the largest finite hi of the last axis.

    Two totals that are close to each other stay different, even if their hi are equal.
    """
    hi, lo = total
    top = jnp.max(jnp.where(jnp.isfinite(hi), hi, -jnp.inf), axis=-1, keepdims=True)
    return (hi - jnp.where(jnp.isneginf(top), 0, top)) + lo


def is_at_most(a: Total, b: Total) -> Array:
    """Return a mask that is True where the total a is at most the total b."""
    return (a[0] < b[0]) | ((a[0] == b[0]) & (a[1] <= b[1]))


def _product_error(a: Array, b: Array, s: Array) -> Array:
    """Return a · b - s for a number s close to a · b, with a single rounding error."""
    half = jnp.finfo(a.dtype).nmant // 2
    a_top, b_top = (_rounded(x, half) for x in (a, b))
    a_rest, b_rest = a - a_top, b - b_top
    # Each product has few enough digits to be exact.
    return ((a_top * b_top - s) + a_top * b_rest + a_rest * b_top) + a_rest * b_rest


def _error(a: Array, b: Array, s: Array) -> Array:
    """Return a + b - s for the rounded sum s, exactly; 0 if s is not finite."""
    b_part = _rounded(s - a)
    a_part = _rounded(s - b_part)
    return jnp.where(jnp.isfinite(s), (a - a_part) + (b - b_part), 0)


def _rounded(x: Array, bits: int | None = None) -> Array:
    """Return x, or x rounded to fewer bits, as a value that XLA cannot simplify."""
    kind = jnp.finfo(x.dtype)
    return lax.reduce_precision(x, kind.nexp, kind.nmant if bits is None else bits)
