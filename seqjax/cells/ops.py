"""Numerical operations that all cells share.

All operations follow one rule for dtypes. Weights and inputs have the compute dtype. Products are
summed in float32 or wider, and pointwise operations keep the dtype of the sums. At the end of each
step, `stepping.py` rounds the state to the dtype that it had before the step, and the output to the
compute dtype.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    "biased_gates",
    "column_units",
    "divided_like",
    "head_units",
    "is_divided",
    "matmul",
    "matmul_by_heads",
    "scaled",
    "split",
    "split_elapsed",
    "standardized",
]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
    "sigmoid": jax.nn.sigmoid,
}
"""Pointwise non-linearities by name."""


def batched(batch_shape: int | Shape, *sizes: int) -> Shape:
    """Return the shape of one array of a state: the batch axes, then the array's own axes.

    Example:
      >>> batched(2, 5), batched((3, 2), 5)
      ((2, 5), (3, 2, 5))
    """
    return (*checks.require_shape("batch_shape", batch_shape), *sizes)


def activation(name_or_function: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return the function that the value of a cell's option `activation` selects.

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
    """Return `x @ w`, multiplied in the dtype of the weights and summed in float32 or wider.

    Args:
      x: the left factor `[..., N]`, which is cast to the dtype of `w`, because matrix units
        multiply numbers of the same dtype.
      w: the weights `[N, M]`.

    Returns:
      The product `[..., M]` in `accumulator_dtype(w.dtype)`.

    Example:
      >>> matmul(jnp.ones([2, 3]), jnp.ones([3, 4], jnp.bfloat16)).dtype.name
      'float32'
    """
    x = x.astype(w.dtype)
    accumulator = accumulator_dtype(w.dtype)
    if x.ndim > 2 and not is_divided((x, w)):
        # If x has two axes, the gradient of the weight is a product of two matrices, which is up
        # to a third faster on CPUs. An array on several devices keeps its axes, because merging
        # the batch axis with the time axis would undo the sharding.
        flat = jnp.matmul(x.reshape(-1, x.shape[-1]), w, preferred_element_type=accumulator)
        return flat.reshape(*x.shape[:-1], w.shape[-1])
    return jnp.matmul(x, w, preferred_element_type=accumulator)


def matmul_by_heads(x: Array, w: Array, gates: int) -> tuple[Array, ...]:
    """Multiply the units of each head by the block of the head, and return the gates.

    Args:
      x: the left factor `[..., N*D]`, the D units of N heads.
      w: the blocks `[N, D, G*D]`, with the G gates of a head in one block.
      gates: the number of gates, G.

    Returns:
      G arrays `[..., N*D]` in `accumulator_dtype(w.dtype)`.

    Example:
      >>> [
      ...     z.tolist()
      ...     for z in matmul_by_heads(jnp.array([3, 4]), jnp.array([[[1, 2]], [[5, 6]]]), 2)
      ... ]
      [[3.0, 20.0], [6.0, 24.0]]
    """
    heads = x.reshape(*x.shape[:-1], *w.shape[:2]).astype(w.dtype)
    product = jnp.einsum(
        "...nd,ndk->...nk", heads, w, preferred_element_type=accumulator_dtype(w.dtype)
    )
    return tuple(gate.reshape(x.shape) for gate in split(product, gates))


_DIVIDED: contextvars.ContextVar[bool] = contextvars.ContextVar("_DIVIDED", default=False)


def is_divided(tree: PyTree) -> bool:
    """Return whether an array of a pytree may be sharded over several devices.

    The function reads the mesh of each array, which is also known while JAX traces a function, and
    the mesh that `jax.set_mesh` sets. The function does not detect an array that only
    `jax.jit(in_shardings=…)` shards.

    Example:
      >>> is_divided(jnp.ones([2, 3]))
      False
    """
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree)]
    meshes.append(jax.sharding.get_abstract_mesh())
    return _DIVIDED.get() or any(not mesh.empty and mesh.size > 1 for mesh in meshes)


@contextlib.contextmanager
def divided_like(tree: PyTree) -> Iterator[None]:
    """If an array of `tree` is sharded, let `is_divided` return True in the `with` block.

    Kernels need this function because the mesh of an array is not known inside a loop.

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
    """Return `x @ w + b`, or `x @ w` if `b` is None.

    Example:
      >>> affine(jnp.ones([2]), jnp.ones([2, 1]), None).tolist()
      [2.0]
    """
    return biased(matmul(x, w), b)


def biased(z: Array, b: Array | None) -> Array:
    """Return `z + b` in the dtype of `z [..., H]`, for a bias `b [H]`. If `b` is None, return `z`.

    Example:
      >>> biased(jnp.ones([1, 2]), jnp.full([2], 3, jnp.bfloat16)).tolist()
      [[4.0, 4.0]]
    """
    return z if b is None else z + lax.broadcast_to_rank(b.astype(z.dtype), z.ndim)


def biased_gates(gates: Sequence[Array], b: Array | None) -> tuple[Array, ...]:
    """Add a bias `b [G*H]`, which may be None, to G gates `[..., H]`, as `biased` does for each.

    Example:
      >>> [gate.tolist() for gate in biased_gates([jnp.ones(2), jnp.ones(2)], jnp.arange(4.0))]
      [[1.0, 2.0], [3.0, 4.0]]
    """
    if b is None:
        return tuple(gates)
    return tuple(map(biased, gates, split(b, len(gates))))


def standardized(x: Array, epsilon: float) -> Array:
    """Return `(x - mean) / sqrt(variance + epsilon)`, with the moments of the last axis.

    Example:
      >>> standardized(jnp.array([1.0, 3.0]), 0.0).tolist()
      [-1.0, 1.0]
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * lax.rsqrt(variance + epsilon)


def scaled(p: Array, x: Array) -> Array:
    """Return `p ⊙ x` in the dtype of `x [..., H]`, for a parameter `p [H]`.

    Example:
      >>> scaled(jnp.full([2], 3, jnp.bfloat16), jnp.ones([1, 2])).dtype.name
      'float32'
    """
    return lax.broadcast_to_rank(p.astype(x.dtype), x.ndim) * x


def split(z: Array, gates: int) -> tuple[Array, ...]:
    """Split the last axis of `z [..., G*H]` into `gates` arrays `[..., H]`.

    Example:
      >>> [gate.tolist() for gate in split(jnp.arange(4), 2)]
      [[0, 1], [2, 3]]
    """
    return tuple(jnp.split(z, gates, axis=-1))


def column_units(p: PyTree, hidden_size: int) -> PyTree:
    """Return the unit of each column of the arrays in p, whose columns are blocks of H units.

    `Cell.parameter_units` of most cells returns this value.

    Args:
      p: a pytree of arrays `[..., G*H]`.
      hidden_size: the number of units, H.

    Example:
      >>> column_units({"w_ih": jnp.ones([5, 4])}, 2)["w_ih"].tolist()
      [0, 1, 0, 1]
    """
    return jax.tree.map(lambda a: np.arange(a.shape[-1]) % hidden_size, p)


def head_units(w: Array) -> np.ndarray:
    """Return the unit of each column of block-diagonal weights `w [N, D, G*D]`, as `[N, 1, G*D]`.

    Head n of the N heads has the units n D to n D + D - 1.

    Example:
      >>> head_units(jnp.ones([2, 3, 6])).tolist()
      [[[0, 1, 2, 0, 1, 2]], [[3, 4, 5, 3, 4, 5]]]
    """
    heads, width, columns = w.shape
    first = width * np.arange(heads)[:, None, None]
    return first + np.arange(columns) % width


def split_elapsed(x: Array) -> tuple[Array, Array]:
    """Split an input `[..., I+1]` into the features `[..., I]` and the elapsed time `[..., 1]`.

    The time is float32 or wider.

    Example:
      >>> features, elapsed = split_elapsed(jnp.array([1.0, 2.0, 0.5]))
      >>> features.tolist(), elapsed.tolist()
      ([1.0, 2.0], [0.5])
    """
    return x[..., :-1], x[..., -1:].astype(accumulator_dtype(x.dtype))
