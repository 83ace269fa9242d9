"""Initialisers of recurrent weights, with the signature of `jax.nn.initializers`.

An initialiser is a function `(key, shape, dtype) -> Array`. Options of cells, such as
`kernel_init`, accept the name of an initialiser or a function. The cell draws the `[in, H]` block
of each gate separately. For this reason, the initialiser "orthogonal" makes the matrix of each gate
orthogonal. If a cell drew the whole `[H, G*H]` matrix at once, the matrices of the gates would not
be orthogonal.

The initialisers of this module are dataclasses. So two initialisers with equal fields are equal,
and cells that use them can be equal, too.
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
    "PowerLaw",
    "TorchUniform",
    "open_uniform",
    "per_gate",
    "resolve",
]


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """Draw a random (semi-)orthogonal matrix with uniform distribution, times `scale`.

    The QR decomposition does not support half precision. So the matrix is always computed in
    float32 or wider, and then cast to the requested dtype.

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
        """Draw an array `[..., N, M]`."""
        wide = ops.accumulator_dtype(dtype)
        return jax.nn.initializers.orthogonal(self.scale)(key, shape, wide).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Identity:
    """Return the identity matrix times `scale`.

    A network of relu units with this initialiser for its recurrent matrix is called an IRNN.

    References:
      Le, Jaitly, Hinton (2015), A simple way to initialize recurrent networks of rectified
      linear units.

    Example:
      >>> Identity(0.5)(jax.random.key(0), (2, 2), jnp.float32).tolist()
      [[0.5, 0.0], [0.0, 0.5]]
    """

    scale: float = 1.0

    def __call__(self, key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        """Return a matrix `[N, M]`. The key is not used."""
        del key
        if len(shape) != 2:
            raise ValueError(f"identity: expected the shape of a matrix, got {shape}")
        return self.scale * jnp.eye(*shape, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class TorchUniform:
    """Draw from U(-1/√H, 1/√H), as PyTorch does for all weights and biases of recurrent layers.

    Example:
      >>> w = TorchUniform(4)(jax.random.key(0), (100, 4), jnp.float32)
      >>> bool(jnp.abs(w).max() <= 0.5)
      True
    """

    hidden_size: int

    def __call__(self, key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        """Draw an array of any shape."""
        bound = self.hidden_size**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)


@dataclasses.dataclass(frozen=True)
class Chrono:
    """Draw biases from log U(1, t_max - 1), for gates that keep the state up to `t_max` steps.

    An LSTM uses the drawn numbers as biases of its forget gate, and their negatives as biases of
    its input gate.

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
        if checks.require_number("chrono", self.t_max) < 2:
            raise ValueError(
                f"chrono: expected a finite span of at least 2 steps, got {self.t_max}"
            )

    def __call__(self, key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        """Draw biases of any shape."""
        return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, max(self.t_max - 1.0, 1.0)))


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """Return biases of forget gates that range from 5 to -7, for memories of different spans.

    The bias of unit k of D units is 5 - 12 · (k / (D - 1))^(0.3 + 1.3 · depth). A single unit has
    the bias 5.

    Attributes:
      depth: the position of the layer in its stack, from 0 for the first to 1 for the last layer.

    References:
      Beck et al. (2024), xLSTM: Extended long short-term memory; the formula is that of the
      authors' code.

    Raises:
      TypeError, ValueError: `depth` is not a number from 0 to 1.

    Example:
      >>> PowerLaw(depth=1.0)(jax.random.key(0), (2,), jnp.float32).tolist()
      [5.0, -7.0]
    """

    depth: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= checks.require_number("depth", self.depth) <= 1:
            raise ValueError(f"depth: expected a number from 0 to 1, got {self.depth}")

    def __call__(self, key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
        """Return an array `[..., D]`. The key is not used."""
        del key
        place = jnp.arange(shape[-1]) / max(shape[-1] - 1, 1)
        biases = 5 - 12 * place ** (0.3 + 1.3 * self.depth)
        return jnp.broadcast_to(biases.astype(dtype), shape)


def open_uniform(key: PRNGKey, shape: Shape, dtype: Any = jnp.float32) -> Array:
    """Draw from U(0, 1) without 0, for numbers whose logarithm is taken.

    Example:
      >>> bool((open_uniform(jax.random.key(0), (100,)) > 0).all())
      True
    """
    return jax.random.uniform(key, shape, dtype, minval=jnp.finfo(dtype).tiny)


def per_gate(initializer: Initializer, gates: int) -> Initializer:
    """Return an initialiser that divides the last axis into `gates` blocks and draws each block.

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
    # Standard deviation √(2 / (5 · inputs)); Nguyen, Salazar (2019), Transformers without tears.
    "small": _fixed(jax.nn.initializers.variance_scaling(0.4, "fan_in", "normal")),
    "power_law": _fixed(PowerLaw()),
    "zeros": _fixed(jax.nn.initializers.zeros),
    "ones": _fixed(jax.nn.initializers.ones),
}
"""Initialisers by name. Each value is a function from the cell's hidden size to an initialiser."""


def resolve(name: str, value: str | Initializer, hidden_size: int) -> Initializer:
    """Return the initialiser that the value of a cell's option selects.

    Args:
      name: the name of the option. The error message contains it.
      value: a name in `INITIALIZERS`, or a function. A function is returned unchanged.
      hidden_size: the cell's hidden size.

    Raises:
      ValueError: the name is unknown.

    Example:
      >>> resolve("bias_init", "zeros", 4)(jax.random.key(0), (2,), jnp.float32).tolist()
      [0.0, 0.0]
    """
    if callable(value):
        return value
    return INITIALIZERS[checks.require_name(name, value, INITIALIZERS)](hidden_size)
