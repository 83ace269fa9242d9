"""Linear recurrent units: `LRU` with complex states, and `RGLRU` with gates that read the input."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._base import DenseCell
from seqjax.cells._minimal import LinearCell
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Shape, Slots

__all__ = ["LRU", "RGLRU", "LRUParams", "RGLRUParams"]

DECAY_SCALE = 8.0
"""The constant c of the RG-LRU."""


class LRUParams(NamedTuple):
    """Parameters of `LRU`, all real.

    `nu_log, theta_log, gamma_log [H]`, `b_re, b_im [I, H]`, `c_re, c_im [H, O]`, and `d`, which is
    a vector `[O]` if I equals O, and a matrix `[I, O]` otherwise.
    """

    nu_log: Array
    theta_log: Array
    gamma_log: Array
    b_re: Array
    b_im: Array
    c_re: Array
    c_im: Array
    d: Array


class _Prepared(NamedTuple):
    """The values that a call of `LRU` needs; B and C as real matrices of twice the width."""

    eigenvalues: Array  # complex [H]
    w_in: Array  # [I, 2H], the columns of γ Re(B) and γ Im(B)
    w_out: Array  # [2H, O], the rows of Re(C) and -Im(C)
    d: Array


@dataclasses.dataclass(frozen=True)
class LRU(LinearCell):
    r"""The linear recurrent unit: a complex diagonal recurrence between two linear maps.

        λ = exp(-exp(ν) + i exp(θ))
        γ = exp(γ_log)
        s_t = λ ⊙ s_{t-1} + γ ⊙ (x_t B)
        y_t = Re(s_t C) + d ⊙ x_t

    The state is complex. B and C are complex, too, and are stored as real and imaginary parts, so
    that all parameters are real. |λ| < 1 for all values of ν.

    If `input_size` equals `output_size`, d is a vector, as in the authors' code. Otherwise, d is a
    matrix and the last term is x_t d.

    The eigenvalues λ are drawn uniformly from the ring r_min ≤ |λ| ≤ r_max with phases in
    [0, max_phase], and γ begins as sqrt(1 - |λ|²). The real and imaginary parts of B and C are
    normal with variances 1/(2 I) and 1/H. A vector d has variance 1, and a matrix d has variance
    1/I. For tasks with long dependencies, the authors use an `r_min` near 1, such as 0.9, and a
    `max_phase` near 0, such as π/10.

    Attributes:
      output_size: the number of features of the output, O. By default, O equals `hidden_size`.
      r_min, r_max: the smallest and the largest absolute value of an eigenvalue before training,
        with 0 ≤ r_min ≤ r_max ≤ 1.
      max_phase: the largest phase of an eigenvalue before training, in (0, 2π].

    State: `s [..., H]`, complex64, or complex128 for float64. Output: `y_t [..., O]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or another attribute is not a number
        in its range.

    References:
      Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De (2023), Resurrecting recurrent neural
      networks for long sequences, section 3 and appendix A.

    Example:
      >>> cell = LRU(3, 5, r_min=0.9, r_max=0.999)
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, s_t = cell.step(params, jnp.ones([3]), cell.initial_state())
      >>> y_t.shape, s_t.shape, s_t.dtype.name
      ((5,), (5,), 'complex64')
      >>> size = jnp.exp(-jnp.exp(params.nu_log))
      >>> bool((size > 0.89).all() and (size < 1).all())
      True
    """

    diagonal: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    output_size: int | None = None
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.hidden_size if self.output_size is None else self.output_size
        object.__setattr__(self, "output_size", checks.require_integer("output_size", size))
        _require_range("r_min", "r_max", self.r_min, self.r_max, "0 <= r_min <= r_max <= 1")
        if not 0 < checks.require_number("max_phase", self.max_phase) <= 2 * math.pi:
            raise ValueError(f"max_phase: expected a number in (0, 2π], got {self.max_phase}")

    @property
    def output_shape(self) -> Shape:
        return (checks.require_integer("output_size", self.output_size),)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> LRUParams:
        dtype = checks.require_floating_dtype("dtype", dtype)
        wide = ops.accumulator_dtype(dtype)
        k_nu, k_theta, *keys = jax.random.split(checks.require_key("key", key), 7)
        inputs, size, (outputs,) = self.input_size, self.hidden_size, self.output_shape
        uniform = [_uniform(k, (size,), wide) for k in (k_nu, k_theta)]
        # The bounds keep ν and log γ finite: |λ|² is neither 0 nor 1.
        limits = jnp.finfo(wide)
        squared = self.r_min**2 + uniform[0] * (self.r_max**2 - self.r_min**2)
        squared = jnp.clip(squared, limits.tiny, 1 - limits.epsneg)
        nu_log = jnp.log(-0.5 * jnp.log(squared)).astype(dtype)
        theta_log = jnp.log(self.max_phase * uniform[1]).astype(dtype)
        rest = -jnp.expm1(-2 * jnp.exp(nu_log.astype(wide)))  # 1 - |λ|² of the rounded ν

        def normal(key: Array, shape: Shape, variance: float) -> Array:
            drawn: Array = variance**0.5 * jax.random.normal(key, shape, wide)
            return drawn.astype(dtype)

        same = inputs == outputs
        return LRUParams(
            nu_log=nu_log,
            theta_log=theta_log,
            gamma_log=(0.5 * jnp.log(rest)).astype(dtype),
            b_re=normal(keys[0], (inputs, size), 0.5 / inputs),
            b_im=normal(keys[1], (inputs, size), 0.5 / inputs),
            c_re=normal(keys[2], (size, outputs), 1 / size),
            c_im=normal(keys[3], (size, outputs), 1 / size),
            d=normal(
                keys[4], (outputs,) if same else (inputs, outputs), 1.0 if same else 1 / inputs
            ),
        )

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> Array:
        kind = jnp.complex128 if jnp.dtype(dtype) == jnp.float64 else jnp.complex64
        return jnp.zeros(ops.batched(batch_shape, self.hidden_size), kind)

    def prepare(self, params: LRUParams) -> _Prepared:
        size, phase = jnp.exp(-jnp.exp(params.nu_log)), jnp.exp(params.theta_log)
        gamma = jnp.exp(params.gamma_log)[None]
        return _Prepared(
            eigenvalues=lax.complex(size * jnp.cos(phase), size * jnp.sin(phase)),
            w_in=jnp.concatenate([gamma * params.b_re, gamma * params.b_im], axis=1),
            w_out=jnp.concatenate([params.c_re, -params.c_im]),
            d=params.d,
        )

    def project(self, p: _Prepared, x: Array) -> Slots:
        direct = ops.matmul(x, p.d) if p.d.ndim == 2 else ops.scaled(p.d, _widened(x))
        return lax.complex(*ops.split(ops.matmul(x, p.w_in), 2)), direct

    def parameter_units(self, p: _Prepared) -> PyTree:
        units: Any = ops.column_units(p, self.hidden_size)
        return units._replace(w_out=None, d=None)

    def linear_terms(self, p: _Prepared, gates: Any) -> tuple[Array, Array]:
        driven, _ = gates
        return lax.broadcast_to_rank(p.eigenvalues.astype(driven.dtype), driven.ndim), driven

    def output(self, p: _Prepared, gates: Any, state: Array) -> Array:
        parts = jnp.concatenate([state.real, state.imag], axis=-1)
        read: Array = ops.matmul(parts, p.w_out) + gates[1]
        return read


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
        heads = checks.require_integer("num_heads", self.num_heads)
        object.__setattr__(self, "num_heads", heads)
        if self.hidden_size % heads:
            raise ValueError(
                f"num_heads: expected a divisor of hidden_size, {self.hidden_size}, got {heads}"
            )
        _require_range(
            "min_decay", "max_decay", self.min_decay, self.max_decay,
            "0 < min_decay <= max_decay < 1", strict=True,
        )  # fmt: skip

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> RGLRUParams:
        k_ih, k_g, k_b, k_decay = self.keys(key, 4)
        size, width = self.hidden_size, self.hidden_size // self.num_heads
        w_ih = None
        if self.input_size != size:
            w_ih = self.draw("kernel_init", k_ih, (self.input_size, size), 1, dtype)
        blocks = [
            self.draw("kernel_init", k, (width, 2 * width), 2, dtype)
            for k in jax.random.split(k_g, self.num_heads)
        ]
        wide = ops.accumulator_dtype(dtype)
        low, high = self.min_decay, self.max_decay
        decayed = low + (high - low) * _uniform(k_decay, (size,), wide)
        decay = jnp.log(jnp.expm1(-jnp.log(decayed) / DECAY_SCALE))  # the inverse of softplus
        return RGLRUParams(
            w_ih, jnp.stack(blocks), self.draw_bias(k_b, 2 * size, 2, dtype), decay.astype(dtype)
        )

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> Array:
        # In half precision, a state with a decay of 0.999 would be rounded to its old value.
        kind = ops.accumulator_dtype(dtype)
        return jnp.zeros(ops.batched(batch_shape, self.hidden_size), kind)

    def prepare(self, params: RGLRUParams) -> RGLRUParams:
        """Return the parameters with -8 softplus(Λ) in place of Λ."""
        return params._replace(decay=-DECAY_SCALE * jax.nn.softplus(params.decay))

    def project(self, p: RGLRUParams, x: Array) -> Slots:
        u = _widened(x) if p.w_ih is None else ops.matmul(x, p.w_ih)
        heads = u.reshape(*u.shape[:-1], *p.w_g.shape[:2]).astype(p.w_g.dtype)
        product = jnp.einsum(
            "...nd,ndk->...nk", heads, p.w_g,
            preferred_element_type=ops.accumulator_dtype(p.w_g.dtype),
        )  # fmt: skip
        biases: Any = (None, None) if p.b is None else ops.split(p.b, 2)
        z_r, z_i = (
            ops.biased(z.reshape(u.shape), b)
            for z, b in zip(ops.split(product, 2), biases, strict=True)
        )
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


def _widened(x: Array) -> Array:
    """Return an array in float32 or wider."""
    return x.astype(ops.accumulator_dtype(x.dtype))


def _uniform(key: Array, shape: Shape, dtype: Any) -> Array:
    """Draw from U(0, 1) without 0."""
    return jax.random.uniform(key, shape, dtype, minval=jnp.finfo(dtype).tiny)


def _require_range(
    low_name: str, high_name: str, low: Any, high: Any, expected: str, *, strict: bool = False
) -> None:
    """Raise unless 0 ≤ low ≤ high ≤ 1, or 0 < low ≤ high < 1 if `strict` is True."""
    low, high = checks.require_number(low_name, low), checks.require_number(high_name, high)
    ends = strict and (low == 0 or high == 1)
    if not 0 <= low <= high <= 1 or ends:
        raise ValueError(f"{low_name}, {high_name}: expected {expected}, got {low} and {high}")
