"""The rule by which `vmap` maps an engine's calls: the mapped axis joins the batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.kernels._engine_sharding import BATCH_AXIS
from seqjax.types import Array

__all__ = ["mapped"]

Call = Callable[..., Sequence[Array]]


def mapped(call: Call, operands: Sequence[str], results: Sequence[str]) -> Callable[..., Any]:
    """Return the batching rule of a call.

    If only arrays with a batch axis are mapped, and all results have a batch axis, the mapped axis
    becomes part of the batch of one call. Otherwise one call is made for each mapped element, one
    after the other. This happens if parameters are mapped, or if each element has its own gradient
    of parameters.

    Args:
      call: a function that takes the arrays `operands` and returns the arrays `results`.
      operands: the names of the arguments, which are keys of `AXES`.
      results: the names of the results, which are keys of `AXES`.

    Returns:
      `rule(arrays, axes) -> (results, axes of the results)`, for `batching.primitive_batchers`.
    """

    def rule(arrays: Sequence[Array], axes: Sequence[int | None]) -> Any:
        sizes = {a.shape[at] for a, at in zip(arrays, axes, strict=True) if at is not None}
        (size,) = sizes
        moved = [name for name, axis in zip(operands, axes, strict=True) if axis is not None]
        if not size or not BATCH_AXIS.keys() >= {*moved, *results}:  # no empty batch is run
            return _one_by_one(call, arrays, axes)
        joined = [
            _joined(name, a, axis, size)
            for name, a, axis in zip(operands, arrays, axes, strict=True)
        ]
        where = [BATCH_AXIS[name] for name in results]
        parted = [
            a.reshape(*a.shape[:at], size, -1, *a.shape[at + 1 :])
            for a, at in zip(call(*joined), where, strict=True)
        ]
        return parted, where

    return rule


def _joined(name: str, a: Array, axis: int | None, size: int) -> Array:
    """Return an array whose batch axis contains the mapped axis; parameters stay as they are."""
    if name not in BATCH_AXIS:
        return a
    at = BATCH_AXIS[name]
    if axis is None:
        a = jnp.broadcast_to(jnp.expand_dims(a, at), (*a.shape[:at], size, *a.shape[at:]))
    else:
        a = jnp.moveaxis(a, axis, at)
    return a.reshape(*a.shape[:at], -1, *a.shape[at + 2 :])


def _one_by_one(call: Call, arrays: Sequence[Array], axes: Sequence[int | None]) -> Any:
    """Apply `vmap` to a call by making it for one mapped element after another."""
    moved = [
        a if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arrays, axes, strict=True)
    ]

    def one(elements: list[Array]) -> Sequence[Array]:
        rest = iter(elements)
        given = [a if axis is None else next(rest) for a, axis in zip(moved, axes, strict=True)]
        return call(*given)

    results = jax.lax.map(one, [a for a, axis in zip(moved, axes, strict=True) if axis is not None])
    return results, [0] * len(results)
