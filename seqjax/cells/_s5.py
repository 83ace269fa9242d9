"""The simplified state-space layer S5: a diagonal linear system with complex states."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._diagonal import ComplexDiagonalCell, Diagonal, as_real
from seqjax.types import Array, PRNGKey

__all__ = ["S5", "S5Params"]

DISCRETIZATIONS = ("zoh", "bilinear")
LARGEST_REAL_PART = -1e-4
"""With `clip_eigenvalues`, the largest real part of an eigenvalue, as in the authors' code."""


class S5Params(NamedTuple):
    """Parameters of `S5`, all real.

    `lambda_re, lambda_im, log_step [H]`, `b_re, b_im [I, H]`, `c_re, c_im [H, O]`, and `d`, which
    is a vector `[O]` if I equals O, and a matrix `[I, O]` otherwise.
    """

    lambda_re: Array
    lambda_im: Array
    log_step: Array
    b_re: Array
    b_im: Array
    c_re: Array
    c_im: Array
    d: Array


@dataclasses.dataclass(frozen=True)
class S5(ComplexDiagonalCell):
    r"""The state-space layer S5: a linear system with a diagonal state matrix.

        Λ = min(λ_re, -10⁻⁴) + i λ_im
        Δ = exp(log_step)
        s_t = Λ̄ ⊙ s_{t-1} + x_t B̄
        y_t = κ Re(s_t C) + d ⊙ x_t

    The discretisation "zoh" (zero-order hold) of a continuous-time system is

        Λ̄ = exp(Δ ⊙ Λ)
        B̄ = B ⊙ (Λ̄ - 1) / Λ

    and the discretisation "bilinear" is

        Λ̄ = (1 + Δ/2 ⊙ Λ) / (1 - Δ/2 ⊙ Λ)
        B̄ = B ⊙ Δ / (1 - Δ/2 ⊙ Λ)

    The state is complex. Λ, B and C are complex, too, and are stored as real and imaginary parts,
    so that all parameters are real. The step sizes Δ are learned, one for each state.

    If `conj_pairs` is True, each of the H states stands for itself and for its complex conjugate,
    which is not computed, and κ = 2. The system then has 2H states. If `conj_pairs` is False, the
    system has H states, and κ = 1. Let N denote the number of states of the system. The paper
    calls this number P.

    Λ begins as the eigenvalues of `num_blocks` equal blocks, each the normal part of the
    HiPPO-LegS matrix of N / `num_blocks` states. Let V denote the matrix of the eigenvectors. B
    begins as V* B₀ and C as C₀ V, with random real B₀ and complex C₀, whose entries have the
    variances 1/N and 2/N, as in the authors' code. (The equations above multiply from the right by
    the transposed matrices.) log_step is uniform in [log `dt_min`, log `dt_max`]. A vector d has
    variance 1, and a matrix d has variance 1/I.

    If `input_size` differs from `output_size`, d is a matrix and the last term is x_t d. The layer
    of the paper has as many outputs as inputs. The paper applies a non-linear function and layer
    normalisation between layers. This cell does not contain them.

    Attributes:
      output_size: the number of features of the output, O. By default, O equals `input_size`.
      discretization: "zoh" or "bilinear".
      conj_pairs: whether each state stands for a pair of complex conjugate states.
      clip_eigenvalues: whether real parts of Λ above -10⁻⁴ are clipped, so that the system is
        stable for all parameters. If False, Λ = λ_re + i λ_im. In the authors' code, clipping is
        off by default.
      dt_min, dt_max: the smallest and the largest Δ before training, with
        0 < `dt_min` ≤ `dt_max`.
      num_blocks: the number of blocks of the initial state matrix. It must divide `hidden_size`.

    State: `s [..., H]`, complex64, or complex128 for float64. Output: `y_t [..., O]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or another attribute is not in its
        range.

    References:
      Smith, Warrington, Linderman (2023), Simplified state space layers for sequence modeling,
      eq. 2-6 and appendix B.1.

    Example:
      >>> cell = S5(3, 8, num_blocks=2)
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, s_t = cell.step(params, jnp.ones([3]), cell.initial_state())
      >>> y_t.shape, s_t.shape, s_t.dtype.name
      ((3,), (8,), 'complex64')
      >>> params.lambda_re.tolist() == [-0.5] * 8
      True
    """

    _: dataclasses.KW_ONLY
    discretization: str = "zoh"
    conj_pairs: bool = True
    clip_eigenvalues: bool = True
    dt_min: float = 0.001
    dt_max: float = 0.1
    num_blocks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_output_size(self.input_size)
        checks.require_name("discretization", self.discretization, DISCRETIZATIONS)
        for name in ("conj_pairs", "clip_eigenvalues"):
            checks.require_bool(name, getattr(self, name))
        checks.require_interval(
            "dt_min", "dt_max", self.dt_min, self.dt_max, most=math.inf, is_open=True
        )
        self._check_divides("num_blocks")

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> S5Params:
        dtype = checks.require_floating_dtype("dtype", dtype)
        wide = ops.accumulator_dtype(dtype)
        k_step, k_b, k_re, k_im, k_d = jax.random.split(checks.require_key("key", key), 5)
        inputs, (outputs,) = self.input_size, self.output_shape
        kept = self.hidden_size // self.num_blocks
        size = 2 * kept if self.conj_pairs else kept
        frequencies, vectors = _hippo_normal(size)
        # Of each pair of conjugates, the eigenvalue with the negative imaginary part.
        v_re, v_im = (jnp.asarray(part[:, :kept], wide) for part in (vectors.real, vectors.imag))
        lecun = jax.nn.initializers.lecun_normal()

        def drawn(key: Array, columns: int) -> Array:
            """Draw a matrix [N, columns] with variance 1/N, and divide its rows into blocks."""
            rows = self.num_blocks * size
            return lecun(key, (rows, columns), wide).reshape(self.num_blocks, size, columns)

        b, c_re, c_im = drawn(k_b, inputs), drawn(k_re, outputs), drawn(k_im, outputs)
        project = functools.partial(jnp.einsum, "nk,jni->jki", precision="highest")
        projected = {
            "b_re": project(v_re, b),
            "b_im": -project(v_im, b),
            "c_re": project(v_re, c_re) - project(v_im, c_im),
            "c_im": project(v_re, c_im) + project(v_im, c_re),
        }
        matrices = {
            name: part.reshape(self.hidden_size, -1).astype(dtype)
            for name, part in projected.items()
        }
        low, high = math.log(self.dt_min), math.log(self.dt_max)
        uniform = jax.random.uniform(k_step, (self.hidden_size,), wide)
        same = inputs == outputs
        d = jax.random.normal(k_d, (outputs,) if same else (inputs, outputs), wide)
        return S5Params(
            lambda_re=jnp.full(self.hidden_size, -0.5, dtype),
            lambda_im=jnp.asarray(np.tile(frequencies[:kept], self.num_blocks), dtype),
            log_step=(low + (high - low) * uniform).astype(dtype),
            b_re=matrices["b_re"].T,
            b_im=matrices["b_im"].T,
            c_re=matrices["c_re"],
            c_im=matrices["c_im"],
            d=(d if same else d * inputs**-0.5).astype(dtype),
        )

    def prepare(self, params: S5Params) -> Diagonal:
        real, step = params.lambda_re, jnp.exp(params.log_step)
        if self.clip_eigenvalues:
            real = jnp.minimum(real, LARGEST_REAL_PART)
        eigenvalues = lax.complex(real, params.lambda_im)
        scaled = lax.complex(step * real, step * params.lambda_im)  # Δ ⊙ Λ
        if self.discretization == "zoh":
            grown = _expm1(scaled)
            decay, gain = 1 + grown, grown / eigenvalues
        else:
            decay = (1 + scaled / 2) / (1 - scaled / 2)
            gain = step.astype(scaled.dtype) / (1 - scaled / 2)
        b = gain[None] * lax.complex(params.b_re, params.b_im)
        weight = 2 if self.conj_pairs else 1
        return as_real(decay, b.real, b.imag, weight * params.c_re, weight * params.c_im, params.d)


def _expm1(z: Array) -> Array:
    """Return exp(z) - 1 of a complex array, accurate for small z, too."""
    a, b = z.real, z.imag
    real = jnp.expm1(a) * jnp.cos(b) - 2 * jnp.square(jnp.sin(b / 2))
    return lax.complex(real, jnp.exp(a) * jnp.sin(b))


@functools.lru_cache(maxsize=16)
def _hippo_normal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the imaginary parts of the eigenvalues and the eigenvectors of HiPPO-N, ascending.

    HiPPO-N is the normal part -½ + S of the HiPPO-LegS matrix. S is skew-symmetric, with
    S[n, k] = -½ √(2n + 1) √(2k + 1) for n > k. The real part of each eigenvalue is -½.
    """
    root = np.sqrt(2 * np.arange(size) + 1)
    below = np.tril(-0.5 * np.outer(root, root), -1)
    found: tuple[np.ndarray, np.ndarray] = np.linalg.eigh(-1j * (below - below.T))
    return found
