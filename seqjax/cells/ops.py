"""The few numerical operations that all cells share.

They carry the dtype rule: weights and inputs have the compute dtype, products accumulate in
float32 or wider and stay so through the pointwise part. `unroll` rounds states and outputs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.types import Array

__all__ = ["ACTIVATIONS", "accumulator_dtype", "activation", "affine", "matmul", "scaled", "split"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
    "sigmoid": jax.nn.sigmoid,
}
"""Pointwise non-linearities by name."""


def activation(name_or_function: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function meant by a cell's `activation`.

    Example:
      >>> float(activation("relu")(jnp.float32(-1.0)))
      0.0
    """
    return name_or_function if callable(name_or_function) else ACTIVATIONS[name_or_function]


def accumulator_dtype(dtype: Any) -> jnp.dtype:
    """The dtype in which products of `dtype` are summed: float32 or wider.

    Example:
      >>> accumulator_dtype(jnp.bfloat16).name, accumulator_dtype("float64").name
      ('float32', 'float64')
    """
    dtype = jnp.dtype(dtype)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def matmul(x: Array, w: Array) -> Array:
    """`x @ w` in the dtype of the weights, accumulated in float32 or wider.

    Args:
      x: `[..., N]`; cast to the dtype of `w` first, so that half-precision weights meet
        half-precision inputs (what matrix units are made for).
      w: `[N, M]`.

    Returns:
      `[..., M]` in `accumulator_dtype(w.dtype)`.

    Example:
      >>> matmul(jnp.ones([2, 3]), jnp.ones([3, 4], jnp.bfloat16)).dtype.name
      'float32'
    """
    x = x.astype(w.dtype)
    accumulator = accumulator_dtype(w.dtype)
    if x.ndim > 2 and jax.device_count() == 1:
        # The weight's gradient is then a product of two matrices, up to a fifth faster on CPUs.
        # Not where there are more devices: merging the batch with time would undo its sharding.
        flat = jnp.matmul(x.reshape(-1, x.shape[-1]), w, preferred_element_type=accumulator)
        return flat.reshape(*x.shape[:-1], w.shape[-1])
    return jnp.matmul(x, w, preferred_element_type=accumulator)


def affine(x: Array, w: Array, b: Array | None) -> Array:
    """`x @ w + b`; no bias where `b` is None.

    Example:
      >>> affine(jnp.ones([2]), jnp.ones([2, 1]), None).tolist()
      [2.0]
    """
    z = matmul(x, w)
    return z if b is None else z + b.astype(z.dtype)


def scaled(p: Array, x: Array) -> Array:
    """`p ⊙ x` for a parameter `p [H]` and a value `x [..., H]`, in the dtype of `x`.

    Example:
      >>> scaled(jnp.full([2], 3, jnp.bfloat16), jnp.ones([1, 2])).dtype.name
      'float32'
    """
    return p.astype(x.dtype) * x


def split(z: Array, gates: int) -> tuple[Array, ...]:
    """Cuts the last axis of `z [..., G*H]` into `gates` arrays `[..., H]`.

    Example:
      >>> [gate.tolist() for gate in split(jnp.arange(4), 2)]
      [[0, 1], [2, 3]]
    """
    return tuple(jnp.split(z, gates, axis=-1))
