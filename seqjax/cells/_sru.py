"""The simple recurrent unit: all its matrix products read only the input."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._base import GatedCell
from seqjax.cells._minimal import LinearCell
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Slots

__all__ = ["SRU", "SRUParams"]


class SRUParams(NamedTuple):
    """Parameters of `SRU`: `w_ih [I, 3H]`, or `[I, 4H]` if I differs from H, `v [2H]`, `b [2H]`.

    `w_ih` has the blocks W, W_f, W_r and, in the case of 4H columns, W_h. `v` and `b` have the
    blocks of f and r. `v` is None without peepholes.
    """

    w_ih: Array
    v: Array | None
    b: Array | None


@dataclasses.dataclass(frozen=True)
class SRU(GatedCell[SRUParams, Array], LinearCell):
    r"""The simple recurrent unit: a light recurrence, and a highway connection from the input.

        n_t = x_t W
        f_t = σ(x_t W_f + v_f ⊙ c_{t-1} + b_f)
        c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ n_t
        r_t = σ(x_t W_r + v_r ⊙ c_{t-1} + b_r)
        h_t = r_t ⊙ c_t + (1 - r_t) ⊙ α x_t
        y_t = h_t

    If I differs from H, x_t W_h replaces x_t in the equation of h_t.

    If `use_peephole` is False, the terms with v_f and v_r are absent. The cell is then linear in
    its state, and the kernel "associative" can compute all steps in parallel. With `use_peephole`,
    the gates read the state, so kernels compute step by step, but without a matrix product in the
    loop.

    v is drawn from a uniform distribution with mean 0 and variance 1/2. The authors' code also
    multiplies the initial W_f and W_r by √(1/2), which this class does not.

    Attributes:
      use_peephole: whether the gates read the state through v.
      highway_bias: a number that is added to the initial b_r.
      rescale: whether α = √(1 + 2 exp(`highway_bias`)), so that h_t initially has about the
        variance of x_t. If False, α = 1.
      use_bias, kernel_init, bias_init: see `DenseCell`. `kernel_init` draws all blocks of `w_ih`.
        By default, their variance is 1/I. The cell does not use `recurrent_init`.

    State: `c [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, an initialiser is unknown,
        `highway_bias` is not a finite number, or it is not 0 without biases.

    References:
      Lei, Zhang, Wang, Dai, Artzi (2018), Simple recurrent units for highly parallelizable
      recurrence, eq. 1-4 and section 3.3.

    Example:
      >>> SRU(3, 5).init(jax.random.key(0)).w_ih.shape
      (3, 20)
      >>> params = SRU(5, 5, use_peephole=False).init(jax.random.key(0))
      >>> params.w_ih.shape, params.v
      ((5, 15), None)
    """

    gates: ClassVar[int] = 2
    diagonal: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    kernel_init: str | Initializer = "lecun_normal"
    use_peephole: bool = True
    highway_bias: float = 0.0
    rescale: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.require_bool("use_peephole", self.use_peephole)
        checks.require_bool("rescale", self.rescale)
        checks.require_number("highway_bias", self.highway_bias)
        if self.highway_bias and not self.use_bias:
            raise ValueError("use_bias: expected True with highway_bias, got False")

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> SRUParams:
        k_ih, k_v, k_b = self.keys(key, 3)
        blocks = 3 if self.input_size == self.hidden_size else 4
        shape = (self.input_size, blocks * self.hidden_size)
        w_ih, b = self.draw("kernel_init", k_ih, shape, blocks, dtype), self._biases(k_b, dtype)
        if b is not None and self.highway_bias:
            b = b.at[self.hidden_size :].add(self.highway_bias)
        v = None
        if self.use_peephole:
            v = jax.random.uniform(k_v, (2 * self.hidden_size,), dtype, -(1.5**0.5), 1.5**0.5)
        return SRUParams(w_ih, v, b)

    @property
    def alpha(self) -> float:
        """The factor α of the highway connection."""
        return math.sqrt(1 + 2 * math.exp(self.highway_bias)) if self.rescale else 1.0

    def project(self, p: SRUParams, x: Array) -> Slots:
        blocks = 3 if self.input_size == self.hidden_size else 4
        n, z_f, z_r, *skipped = ops.split(ops.matmul(x, p.w_ih), blocks)
        z_f, z_r = ops.biased_gates((z_f, z_r), p.b)
        skip = skipped[0] if skipped else x.astype(n.dtype)
        return n, z_f, z_r, self.alpha * skip

    def recurrent_input(self, state: Array) -> Array | None:
        return state if self.use_peephole else None

    def recur(self, p: SRUParams, r: Array) -> Slots:
        v: Any = p.v  # never None here: there is a recurrent input only with peepholes
        v_f, v_r = ops.split(v, 2)
        return None, ops.scaled(v_f, r), ops.scaled(v_r, r), None

    def parameter_units(self, p: Any) -> PyTree:
        return ops.column_units(p, self.hidden_size)

    def linear_terms(self, p: SRUParams, gates: Any) -> tuple[Array, Array]:
        n, z_f = gates[:2]
        f = jax.nn.sigmoid(z_f)
        return f, (1 - f) * n

    def output(self, p: SRUParams, gates: Any, state: Array) -> Array:
        skip: Array = gates[3]
        r = jax.nn.sigmoid(gates[2])
        return r * state + (1 - r) * skip

    def gate_values(self, p: SRUParams, gates: Any, state: Array) -> dict[str, Array]:
        return {"f": jax.nn.sigmoid(gates[1]), "r": jax.nn.sigmoid(gates[2])}


@dataclasses.dataclass(frozen=True)
class OpenSRU(SRU):
    """An `SRU` of I = H features that leaves its highway connection to the caller.

    The output is the pair y_t = (r_t ⊙ c_t, 1 - r_t). A residual block normalises the input of the
    cell, but not the input of the highway connection.

    Example:
      >>> cell = OpenSRU(5, 5)
      >>> output, _ = cell.step(cell.init(jax.random.key(0)), jnp.ones([5]), cell.initial_state())
      >>> [part.shape for part in output]
      [(5,), (5,)]
    """

    @property
    def output_shape(self) -> Any:
        return (self.hidden_size,), (self.hidden_size,)

    def project(self, p: SRUParams, x: Array) -> Slots:
        return super().project(p, x)[:3]

    def recur(self, p: SRUParams, r: Array) -> Slots:
        return super().recur(p, r)[:3]

    def output(self, p: SRUParams, gates: Any, state: Array) -> Any:
        r = jax.nn.sigmoid(gates[2])
        return r * state, 1 - r
