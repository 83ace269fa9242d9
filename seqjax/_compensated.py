"""Sums of many numbers with the accuracy of twice their precision.

A total is a pair (hi, lo), whose value is hi + lo with |lo| ≤ ulp(hi) / 2, so that hi alone is the
total rounded to its dtype. Start from `(x, zeros)`, with `lo` zero wherever hi is infinite.

`lax.reduce_precision` keeps the dtype and changes no value. It stands between the two sides of a
cancellation, so that XLA cannot simplify (a + b) - a to b.
"""

import jax.numpy as jnp
from jax import lax

from seqjax.types import Array

__all__ = ["Total", "add"]

Total = tuple[Array, Array]
"""A total as a pair (hi, lo)."""


def add(total: Total, x: Array) -> Total:
    """Return a total plus x.

        s, e = TwoSum(hi, x)
        hi, lo = FastTwoSum(s, e + lo)

    The error of one step is at most 2 u² |hi + lo + x|, u = 2⁻²⁴ in float32. If the total becomes
    infinite or NaN, hi is that and lo is 0. The gradient is that of a plain sum: it flows to hi.

    Args:
      total: hi and lo, float arrays of one shape and dtype.
      x: what is added, of the same dtype; it may be broadcast.

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


def _error(a: Array, b: Array, s: Array) -> Array:
    """Return a + b - s for the rounded sum s, exactly; 0 if s is not finite."""
    b_part = _rounded(s - a)
    a_part = _rounded(s - b_part)
    return jnp.where(jnp.isfinite(s), (a - a_part) + (b - b_part), 0)


def _rounded(x: Array) -> Array:
    """Return x itself, as a value that XLA does not see through."""
    kind = jnp.finfo(x.dtype)
    return lax.reduce_precision(x, exponent_bits=kind.nexp, mantissa_bits=kind.nmant)
