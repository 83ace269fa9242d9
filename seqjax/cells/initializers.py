"""Initialisers of recurrent weights, in the signature of `jax.nn.initializers`.

An initialiser is `(key, shape, dtype) -> Array`. Cells take one by name or as a function, and
apply it to one gate's `[in, H]` block at a time: an orthogonal matrix per gate, not one of
orthonormal rows over the fused `[H, G*H]` matrix, whose gates would then not be orthogonal. Ours
are values: equal ones compare equal, and so do the cells made with them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import ops
from seqjax.types import Array, Initializer, PRNGKey, Shape

__all__ = [
    "INITIALIZERS",
    "Chrono",
    "Identity",
    "Orthogonal",
    "TorchUniform",
    "per_gate",
    "resolve",
]


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """A (semi-)orthogonal matrix times `scale`, drawn uniformly.

    Computed in float32 or wider whatever the dtype asked for, since QR has no half precision.

    References:
      Saxe, McClelland, Ganguli (2014), Exact solutions to the nonlinear dynamics of learning in
      deep linear neural networks.

    Example:
      >>> w = Orthogonal()(jax.random.key(0), (4, 4), jnp.bfloat16)
      >>> w.dtype == jnp.bfloat16, bool(jnp.allclose(w.T @ w, jnp.eye(4), atol=0.05))
      (True, True)
    """

    scale: float = 1.0

    def __call__(self, key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        """Draws an array `[..., N, M]`."""
        wide = ops.accumulator_dtype(dtype)
        return jax.nn.initializers.orthogonal(self.scale)(key, shape, wide).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Identity:
    """The identity matrix times `scale`; with relu units, the IRNN.

    References:
      Le, Jaitly, Hinton (2015), A simple way to initialize recurrent networks of rectified
      linear units.

    Example:
      >>> Identity(0.5)(jax.random.key(0), (2, 2), jnp.float32).tolist()
      [[0.5, 0.0], [0.0, 0.5]]
    """

    scale: float = 1.0

    def __call__(self, key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        """Makes a matrix `[N, M]`; nothing is drawn."""
        del key
        if len(shape) != 2:
            raise ValueError(f"identity: expected the shape of a matrix, got {shape}")
        return self.scale * jnp.eye(*shape, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class TorchUniform:
    """U(-1/√H, 1/√H) for weights and biases alike, as PyTorch's recurrent layers draw them.

    Example:
      >>> w = TorchUniform(4)(jax.random.key(0), (100, 4), jnp.float32)
      >>> bool(jnp.abs(w).max() <= 0.5)
      True
    """

    hidden_size: int

    def __call__(self, key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        """Draws an array of any shape."""
        bound = self.hidden_size**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)


@dataclasses.dataclass(frozen=True)
class Chrono:
    """log U(1, t_max - 1): biases of gates that keep the state, for memories up to `t_max` steps.

    The gate that lets input in gets the negative of it where it is separate (LSTM).

    References:
      Tallec, Ollivier (2018), Can recurrent neural networks warp time?, section 3.

    Raises:
      TypeError, ValueError: `t_max` is not a finite number of at least 2.

    Example:
      >>> b = Chrono(100)(jax.random.key(0), (1000,), jnp.float32)
      >>> bool(b.min() >= 0), bool(b.max() <= jnp.log(99.0))
      (True, True)
    """

    t_max: float

    def __post_init__(self) -> None:
        if not 2 <= checks.require_number("chrono", self.t_max) < float("inf"):
            raise ValueError(
                f"chrono: expected a finite span of at least 2 steps, got {self.t_max}"
            )

    def __call__(self, key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        """Draws biases of any shape."""
        return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, max(self.t_max - 1.0, 1.0)))


def per_gate(initializer: Initializer, gates: int) -> Initializer:
    """Applies an initialiser to each of `gates` column blocks of the last axis on its own.

    Example:
      >>> w = per_gate(Orthogonal(), 3)(jax.random.key(0), (4, 12), jnp.float32)
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
    "orthogonal": _fixed(Orthogonal()),
    "identity": _fixed(Identity()),
    "torch_uniform": TorchUniform,
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
