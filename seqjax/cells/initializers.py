"""Initialisers of recurrent weights, in the signature of `jax.nn.initializers`.

An initialiser is `(key, shape, dtype) -> Array`. Cells take one by name or as a function, and
apply it to one gate's `[in, H]` block at a time: an orthogonal matrix per gate, not one of
orthonormal rows over the fused `[H, G*H]` matrix, whose gates would then not be orthogonal.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.types import Array, Initializer, PRNGKey, Shape

__all__ = [
    "INITIALIZERS",
    "chrono",
    "identity",
    "orthogonal",
    "per_gate",
    "resolve",
    "torch_uniform",
]


def orthogonal(scale: float = 1.0) -> Initializer:
    """A (semi-)orthogonal matrix times `scale`, drawn uniformly.

    Computed in float32 or wider whatever the dtype asked for, since QR has no half precision.

    References:
      Saxe, McClelland, Ganguli (2014), Exact solutions to the nonlinear dynamics of learning in
      deep linear neural networks.

    Example:
      >>> w = orthogonal()(jax.random.key(0), (4, 4), jnp.bfloat16)
      >>> w.dtype == jnp.bfloat16, bool(jnp.allclose(w.T @ w, jnp.eye(4), atol=0.05))
      (True, True)
    """
    inner = jax.nn.initializers.orthogonal(scale)

    def init(key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        return inner(key, shape, jnp.promote_types(dtype, jnp.float32)).astype(dtype)

    return init


def identity(scale: float = 1.0) -> Initializer:
    """The identity matrix times `scale`; with relu units, the IRNN.

    References:
      Le, Jaitly, Hinton (2015), A simple way to initialize recurrent networks of rectified
      linear units.

    Example:
      >>> identity(0.5)(jax.random.key(0), (2, 2), jnp.float32).tolist()
      [[0.5, 0.0], [0.0, 0.5]]
    """

    def init(key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        del key
        if len(shape) != 2:
            raise ValueError(f"identity: expected the shape of a matrix, got {shape}")
        return scale * jnp.eye(*shape, dtype=dtype)

    return init


def torch_uniform(hidden_size: int) -> Initializer:
    """U(-1/√H, 1/√H) for weights and biases alike, as PyTorch's recurrent layers draw them.

    Example:
      >>> w = torch_uniform(4)(jax.random.key(0), (100, 4), jnp.float32)
      >>> bool(jnp.abs(w).max() <= 0.5)
      True
    """
    bound = hidden_size**-0.5

    def init(key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def chrono(t_max: float) -> Initializer:
    """Log U(1, t_max - 1): biases of gates that keep the state, for memories up to `t_max` steps.

    The gate that lets input in gets the negative of it where it is separate (LSTM).

    References:
      Tallec, Ollivier (2018), Can recurrent neural networks warp time?, section 3.

    Raises:
      ValueError: `t_max` below 2.

    Example:
      >>> b = chrono(100)(jax.random.key(0), (1000,), jnp.float32)
      >>> bool(b.min() >= 0), bool(b.max() <= jnp.log(99.0))
      (True, True)
    """
    if not t_max >= 2:
        raise ValueError(f"chrono: expected a time span of at least 2 steps, got {t_max}")

    def init(key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, max(t_max - 1.0, 1.0)))

    return init


def per_gate(initializer: Initializer, gates: int) -> Initializer:
    """Applies an initialiser to each of `gates` column blocks of the last axis on its own.

    Example:
      >>> w = per_gate(orthogonal(), 3)(jax.random.key(0), (4, 12), jnp.float32)
      >>> all(bool(jnp.allclose(g.T @ g, jnp.eye(4), atol=1e-5)) for g in jnp.split(w, 3, axis=1))
      True
    """

    def init(key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        block = (*shape[:-1], shape[-1] // gates)
        keys = jax.random.split(key, gates)
        return jnp.concatenate([initializer(k, block, dtype) for k in keys], axis=-1)

    return init


def _fixed(initializer: Initializer) -> Callable[[int], Initializer]:
    return lambda hidden_size: initializer


INITIALIZERS: dict[str, Callable[[int], Initializer]] = {
    "glorot_uniform": _fixed(jax.nn.initializers.glorot_uniform()),
    "glorot_normal": _fixed(jax.nn.initializers.glorot_normal()),
    "lecun_normal": _fixed(jax.nn.initializers.lecun_normal()),
    "orthogonal": _fixed(orthogonal()),
    "identity": _fixed(identity()),
    "torch_uniform": torch_uniform,
    "zeros": _fixed(jax.nn.initializers.zeros),
    "ones": _fixed(jax.nn.initializers.ones),
}
"""Initialisers by name; each entry takes the cell's hidden size."""


def resolve(name: str, value: str | Initializer, hidden_size: int) -> Initializer:
    """The initialiser meant by a cell's option: a name of `INITIALIZERS`, or a function as is.

    Raises:
      ValueError: an unknown name.

    Example:
      >>> resolve("bias_init", "zeros", 4)(jax.random.key(0), (2,), jnp.float32).tolist()
      [0.0, 0.0]
    """
    if callable(value):
        return value
    return INITIALIZERS[checks.require_name(name, value, INITIALIZERS)](hidden_size)
