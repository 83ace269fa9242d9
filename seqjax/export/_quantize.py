"""Weights of exported programs as int8 matrices with float32 scales."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["QUANTIZATIONS", "dequantized", "quantized"]

QUANTIZATIONS = ("int8",)
"""The ways to make the weights of a program smaller."""
SCALE = ".scale"
"""The suffix of the name of a matrix's scales."""
LEVELS = 127
SMALLEST, FEWEST = 1024, 16
"""The least number of values of a matrix that is quantized, and of each of its channels."""


def quantized(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights with int8 arrays in place of matrices.

        s_c = max_i |w_ic| / 127
        q_ic = round(w_ic / s_c)

    A matrix is a floating-point array with at least two axes, 1,024 values, and 16 values in each
    channel c. Biases and initial states are no matrices. The channels of an array named
    `embedding` are its rows; those of all other arrays are their last axis, which is the axis of
    the outputs in dense layers, convolutions and cells.

    Args:
      weights: arrays by name, as returned by `plain`.

    Returns:
      A dict in which each matrix "w" is replaced by "w", int8 of the same shape, and "w.scale",
      float32, whose shape has size 1 on all axes but that of the channels.

    Raises:
      ValueError: if there is no matrix; if a matrix has a value that is not finite in float32; or
        if the name of a scale is that of another array.

    Example:
      >>> found = quantized({"w": np.eye(32, dtype=np.float32), "b": np.ones(32, np.float32)})
      >>> {name: (array.dtype.name, array.shape) for name, array in found.items()}
      {'w': ('int8', (32, 32)), 'w.scale': ('float32', (1, 32)), 'b': ('float32', (32,))}
    """
    found: dict[str, Any] = {}
    done: dict[int, tuple[jax.Array, np.ndarray]] = {}  # tied weights stay one array
    for name, leaf in weights.items():
        if not _is_matrix(name, leaf):
            found[name] = leaf
            continue
        if id(leaf) not in done:
            done[id(leaf)] = _split(name, np.asarray(leaf))
        if name + SCALE in weights:
            raise ValueError(f"model: expected no weights named {name + SCALE}, got some")
        found[name], found[name + SCALE] = done[id(leaf)]
    if not done:
        raise ValueError(
            f"quantize: expected a model with matrices of at least {SMALLEST:,} values, got none"
        )
    return found


def dequantized(weights: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Return the weights that `quantized` stored, each matrix w_ic = q_ic s_c.

    Args:
      weights: arrays by name, as returned by `quantized`. They may be traced.
      like: the arrays before `quantized`, which give the names and dtypes.

    Example:
      >>> like = {"w": np.eye(32, dtype=np.float32)}
      >>> bool(jnp.allclose(dequantized(quantized(like), like)["w"], jnp.eye(32)))
      True
    """
    return {
        name: _product(weights[name], weights[name + SCALE], leaf.dtype)
        if _is_matrix(name, leaf)
        else weights[name]
        for name, leaf in like.items()
    }


def _product(values: Any, scale: Any, dtype: Any) -> jax.Array:
    product: jax.Array = jax.lax.convert_element_type(values, jnp.float32) * scale
    return product.astype(dtype)


def _channels(name: str, axes: int) -> int:
    """Return the axis of the channels."""
    return 0 if _last(name) == "embedding" else axes - 1


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_matrix(name: str, leaf: Any) -> bool:
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.ndim < 2:
        return False
    if _last(name) == "bias" or _last(name).startswith("initial_state"):
        return False
    channels = leaf.shape[_channels(name, leaf.ndim)]
    return bool(leaf.size >= max(SMALLEST, FEWEST * channels))


def _split(name: str, values: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    """Return the int8 values and the scales of a matrix."""
    values = values.astype(np.promote_types(values.dtype, np.float32))
    others = tuple(n for n in range(values.ndim) if n != _channels(name, values.ndim))
    largest = np.abs(values).max(axis=others, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        # A channel of zeros gets the smallest scale that XLA does not round to 0.
        scale = np.maximum(largest / LEVELS, np.finfo(np.float32).tiny).astype(np.float32)
        wrong = ~np.isfinite(LEVELS * scale)
    if wrong.any():
        raise ValueError(
            f"model: expected finite float32 weights with quantize='int8', got {largest[wrong][0]} "
            f"in {name}"
        )
    found = np.rint(values / scale).astype(np.int8)
    # Under tracing, JAX converts arrays of NumPy at once, and the program would contain float32.
    return jnp.asarray(found), scale
