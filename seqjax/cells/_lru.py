"""The linear recurrent unit, whose state is complex."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.cells._diagonal import ComplexDiagonalCell, Diagonal, as_real
from seqjax.types import Array, PRNGKey, Shape

__all__ = ["LRU", "LRUParams"]


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


@dataclasses.dataclass(frozen=True)
class LRU(ComplexDiagonalCell):
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

    _: dataclasses.KW_ONLY
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_output_size(self.hidden_size)
        checks.require_interval("r_min", "r_max", self.r_min, self.r_max)
        if not 0 < checks.require_number("max_phase", self.max_phase) <= 2 * math.pi:
            raise ValueError(f"max_phase: expected a number in (0, 2π], got {self.max_phase}")

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> LRUParams:
        dtype = checks.require_floating_dtype("dtype", dtype)
        wide = ops.accumulator_dtype(dtype)
        k_nu, k_theta, *keys = jax.random.split(checks.require_key("key", key), 7)
        inputs, size, (outputs,) = self.input_size, self.hidden_size, self.output_shape
        uniform = [initializers.open_uniform(k, (size,), wide) for k in (k_nu, k_theta)]
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

    def prepare(self, params: LRUParams) -> Diagonal:
        size, phase = jnp.exp(-jnp.exp(params.nu_log)), jnp.exp(params.theta_log)
        gamma = jnp.exp(params.gamma_log)[None]
        return as_real(
            lax.complex(size * jnp.cos(phase), size * jnp.sin(phase)),
            gamma * params.b_re, gamma * params.b_im, params.c_re, params.c_im, params.d,
        )  # fmt: skip
