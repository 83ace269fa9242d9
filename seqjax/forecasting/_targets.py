"""Targets with missing values: NaN at a real step is a value that was not observed."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from seqjax import _elements, checks, sequences
from seqjax.cells.ops import accumulator_dtype
from seqjax.types import Array

__all__ = ["observed_values"]


def observed_values(
    name: str, values: ArrayLike, lengths: Any, mask: Any
) -> tuple[Array, Array, Array | None]:
    """Return values `[..., T]` with 0 where none is observed, what is observed, and the step mask.

    A value is observed if its step is real and the value is not NaN.

    Raises:
      TypeError: the values are not real numbers, or lengths or mask have a wrong dtype.
      ValueError: the values have no time axis, a number does not fit, or lengths or mask are wrong.
    """
    checks.require_unmasked(name, values)
    found = _elements.reals(name, values)
    if not found.ndim:
        raise ValueError(f"{name}: expected a time axis, [..., T], got a scalar")
    if found.dtype == bool:
        raise TypeError(f"{name}: expected numbers, got bool")
    if isinstance(found, np.ndarray):
        wide = found.dtype if found.dtype.kind == "f" else np.dtype(np.float32)
        dtype = jnp.asarray(np.zeros((), wide)).dtype  # as JAX narrows it
        checks.require_fit(name, found, dtype, "numbers")
        found = jnp.asarray(found.astype(dtype))
    if not jnp.issubdtype(found.dtype, jnp.floating):
        found = found.astype(jnp.float32)
    found = found.astype(accumulator_dtype(found.dtype))
    real = sequences.step_mask(found.shape[:-1], found.shape[-1], lengths=lengths, mask=mask)
    observed = ~jnp.isnan(found)
    if real is not None:
        observed &= real
    return jnp.where(observed, found, 0.0), observed, real
