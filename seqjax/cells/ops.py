"""The few numerical operations that all cells share.

They carry the dtype rule: weights and inputs have the compute dtype, products accumulate in
float32 or wider and stay so through the pointwise part. A step (see `stepping.py`) rounds states
and outputs at its end.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import checks
from seqjax.types import Array, PyTree, Shape

__all__ = [
    "ACTIVATIONS",
    "accumulator_dtype",
    "activation",
    "affine",
    "batched",
    "biased",
    "divided_like",
    "is_divided",
    "matmul",
    "scaled",
    "split",
]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
    "sigmoid": jax.nn.sigmoid,
}
"""Pointwise non-linearities by name."""


def batched(batch_shape: int | Shape, *sizes: int) -> Shape:
    """Return the shape of an array of a state: the batch axes, then its own.

    Example:
      >>> batched(2, 5), batched((3, 2), 5)
      ((2, 5), (3, 2, 5))
    """
    return (*checks.require_shape("batch_shape", batch_shape), *sizes)


def activation(name_or_function: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function meant by a cell's `activation`.

    Example:
      >>> float(activation("relu")(jnp.float32(-1.0)))
      0.0
    """
    return name_or_function if callable(name_or_function) else ACTIVATIONS[name_or_function]


def accumulator_dtype(dtype: Any) -> jnp.dtype:
    """Return the dtype in which numbers of `dtype` are summed: float32 or wider.

    Example:
      >>> accumulator_dtype(jnp.bfloat16).name, accumulator_dtype("float64").name
      ('float32', 'float64')
      >>> accumulator_dtype("int8").name
      'float32'
    """
    found: jnp.dtype = jnp.dtype(dtype)
    wide = jnp.issubdtype(found, jnp.inexact) and jnp.finfo(found).bits >= 32
    return found if wide else jnp.dtype(jnp.float32)


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
    if x.ndim > 2 and not is_divided((x, w)):
        # The weight's gradient is then a product of two matrices, up to a third faster on CPUs.
        # Not where devices share the array: merging the batch with time would undo its sharding.
        flat = jnp.matmul(x.reshape(-1, x.shape[-1]), w, preferred_element_type=accumulator)
        return flat.reshape(*x.shape[:-1], w.shape[-1])
    return jnp.matmul(x, w, preferred_element_type=accumulator)


_DIVIDED: contextvars.ContextVar[bool] = contextvars.ContextVar("_DIVIDED", default=False)


def is_divided(tree: PyTree) -> bool:
    """Return whether arrays may be sharded over several devices, judged by their mesh.

    A traced array that was put on a mesh says so, and the mesh set by `jax.set_mesh` counts, too.
    An array that only `jax.jit(in_shardings=…)` divides does not say so.

    Example:
      >>> is_divided(jnp.ones([2, 3]))
      False
    """
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree)]
    meshes.append(jax.sharding.get_abstract_mesh())
    return _DIVIDED.get() or any(not mesh.empty and mesh.size > 1 for mesh in meshes)


@contextlib.contextmanager
def divided_like(tree: PyTree) -> Iterator[None]:
    """Context in which `is_divided` is True for every array if an array of `tree` is sharded.

    It is needed because arrays inside a loop no longer carry their mesh.

    Example:
      >>> with divided_like(jnp.ones([2, 3])):
      ...     is_divided(jnp.ones([2]))
      False
    """
    token = _DIVIDED.set(is_divided(tree))
    try:
        yield
    finally:
        _DIVIDED.reset(token)


def affine(x: Array, w: Array, b: Array | None) -> Array:
    """`x @ w + b`; no bias where `b` is None.

    Example:
      >>> affine(jnp.ones([2]), jnp.ones([2, 1]), None).tolist()
      [2.0]
    """
    return biased(matmul(x, w), b)


def biased(z: Array, b: Array | None) -> Array:
    """`z + b` for a value `z [..., H]` and a bias `b [H]`, in the dtype of `z`; `z` without a bias.

    Example:
      >>> biased(jnp.ones([1, 2]), jnp.full([2], 3, jnp.bfloat16)).tolist()
      [[4.0, 4.0]]
    """
    return z if b is None else z + lax.broadcast_to_rank(b.astype(z.dtype), z.ndim)


def scaled(p: Array, x: Array) -> Array:
    """`p ⊙ x` for a parameter `p [H]` and a value `x [..., H]`, in the dtype of `x`.

    Example:
      >>> scaled(jnp.full([2], 3, jnp.bfloat16), jnp.ones([1, 2])).dtype.name
      'float32'
    """
    return lax.broadcast_to_rank(p.astype(x.dtype), x.ndim) * x


def split(z: Array, gates: int) -> tuple[Array, ...]:
    """Cuts the last axis of `z [..., G*H]` into `gates` arrays `[..., H]`.

    Example:
      >>> [gate.tolist() for gate in split(jnp.arange(4), 2)]
      [[0, 1], [2, 3]]
    """
    return tuple(jnp.split(z, gates, axis=-1))
