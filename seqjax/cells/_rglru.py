"""The real-gated linear recurrent unit of Griffin, whose gates read the input."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.cells._base import DenseCell, widened
from seqjax.cells._minimal import LinearCell
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Shape, Slots

__all__ = ["RGLRU", "RGLRUParams"]

DECAY_SCALE = 8.0
"""The constant c of the RG-LRU."""


class RGLRUParams(NamedTuple):
    """Parameters of `RGLRU`.

    `w_ih [I, H]`, or None if I equals H; `w_g [N, D, 2D]` for N heads of D units, with the gates r
    and i in this order; `b [2H]`; `decay [H]`, which is Λ.
    """

    w_ih: Array | None
    w_g: Array
    b: Array | None
    decay: Array


@dataclasses.dataclass(frozen=True)
class RGLRU(DenseCell[RGLRUParams, Array], LinearCell):
    r"""The real-gated linear recurrent unit of Griffin and RecurrentGemma.

        u_t = x_t W_ih, or x_t if `input_size` equals `hidden_size`
        r_t, i_t = σ(u_t W_r + b_r), σ(u_t W_i + b_i)
        a_t = exp(-8 softplus(Λ) ⊙ r_t)
        h_t = a_t ⊙ h_{t-1} + sqrt(1 - a_t²) ⊙ i_t ⊙ u_t
        y_t = h_t

    W_r and W_i are block-diagonal, with one block for each head. Λ is drawn so that
    exp(-8 softplus(Λ)), the smallest possible a_t, is uniform in [min_decay, max_decay]. If
    sqrt(1 - a_t²) underflows to 0, its derivative is 0. The sign of Λ is that of eq. 6 of the paper
    and of `recurrentgemma`: a larger Λ is a faster decay.

    `recurrentgemma` differs in three ways:

    - At the first step of a sequence or segment, `recurrentgemma` omits the factor sqrt(1 - a_t²),
      so that h_1 = i_1 ⊙ u_1. This class applies the same equation at all steps, so that
      h_1 = sqrt(1 - a_1²) ⊙ i_1 ⊙ u_1. A cell does not know which step is the first. The outputs at
      step t differ by a_t ⊙ … ⊙ a_2 ⊙ (1 - sqrt(1 - a_1²)) ⊙ i_1 ⊙ u_1, which decays over time.
      Away from the first step the equations are equal.
    - `recurrentgemma` draws Λ so that exp(-softplus(Λ)), without the factor 8, is between 0.9 and
      0.999. This class follows the paper.
    - The default `kernel_init` draws the weights of the gates with variance 1/D, and
      `recurrentgemma` draws them with variance 1/H.

    Attributes:
      num_heads: the number of blocks of W_r and of W_i, N. It must divide `hidden_size`.
      min_decay, max_decay: the range of exp(-8 softplus(Λ)) before training, with
        0 < min_decay ≤ max_decay < 1.
      use_bias, kernel_init, bias_init: see `DenseCell`. `kernel_init` draws the block of each gate
        and head separately. The cell does not use `recurrent_init`.

    State: `h [..., H]` in float32 or wider. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, `num_heads` does not divide
        `hidden_size`, a decay is not in its range, or an initialiser is unknown.

    References:
      De et al. (2024), Griffin: mixing gated linear recurrences with local attention for efficient
      language models, eq. 1-4 and appendix A.

    Example:
      >>> cell = RGLRU(3, 6, num_heads=2)
      >>> params = cell.init(jax.random.key(0))
      >>> params.w_ih.shape, params.w_g.shape, params.b.shape
      ((3, 6), (2, 3, 6), (12,))
      >>> RGLRU(6, 6).init(jax.random.key(0)).w_ih is None
      True
    """

    diagonal: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    num_heads: int = 1
    min_decay: float = 0.9
    max_decay: float = 0.999
    kernel_init: str | Initializer = "lecun_normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_divides("num_heads")
        checks.require_interval(
            "min_decay", "max_decay", self.min_decay, self.max_decay, is_open=True
        )

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> RGLRUParams:
        k_ih, k_g, k_b, k_decay = self.keys(key, 4)
        size, width = self.hidden_size, self.hidden_size // self.num_heads
        w_ih = None
        if self.input_size != size:
            w_ih = self.draw("kernel_init", k_ih, (self.input_size, size), 1, dtype)
        w_g = self.draw_heads("kernel_init", k_g, (self.num_heads, width, 2 * width), 2, dtype)
        wide = ops.accumulator_dtype(dtype)
        low, high = self.min_decay, self.max_decay
        decayed = low + (high - low) * initializers.open_uniform(k_decay, (size,), wide)
        decay = jnp.log(jnp.expm1(-jnp.log(decayed) / DECAY_SCALE))  # the inverse of softplus
        return RGLRUParams(w_ih, w_g, self.draw_bias(k_b, 2 * size, 2, dtype), decay.astype(dtype))

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> Array:
        # In half precision, a state with a decay of 0.999 would be rounded to its old value.
        kind = ops.accumulator_dtype(dtype)
        return jnp.zeros(ops.batched(batch_shape, self.hidden_size), kind)

    def prepare(self, params: RGLRUParams) -> RGLRUParams:
        """Return the parameters with -8 softplus(Λ) in place of Λ."""
        return params._replace(decay=-DECAY_SCALE * jax.nn.softplus(params.decay))

    def project(self, p: RGLRUParams, x: Array) -> Slots:
        u = widened(x) if p.w_ih is None else ops.matmul(x, p.w_ih)
        z_r, z_i = ops.biased_gates(ops.matmul_by_heads(u, p.w_g, 2), p.b)
        return z_r, z_i, u

    def parameter_units(self, p: RGLRUParams) -> PyTree | None:
        if p.w_ih is not None:
            return None  # w_ih changes u, and through the gates all units of a head
        units: Any = ops.column_units(p, self.hidden_size)
        return units._replace(w_g=ops.head_units(p.w_g))

    def linear_terms(self, p: RGLRUParams, gates: Any) -> tuple[Array, Array]:
        z_r, z_i, u = gates
        log_a = ops.scaled(p.decay, jax.nn.sigmoid(z_r))
        return jnp.exp(log_a), _complement(log_a) * jax.nn.sigmoid(z_i) * u

    def gate_values(self, p: RGLRUParams, gates: Any, state: Array) -> dict[str, Array]:
        return {"r": jax.nn.sigmoid(gates[0]), "i": jax.nn.sigmoid(gates[1])}


def _complement(log_a: Array) -> Array:
    """Return sqrt(1 - a²), with the derivative 0 where the result is 0."""
    squared = -jnp.expm1(2 * log_a)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)
