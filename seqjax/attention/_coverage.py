"""Coverage attention: the scores depend on the sum of all previous attention weights."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax import checks
from seqjax.attention import _ops as attention_ops
from seqjax.attention._additive import AdditiveScores
from seqjax.attention._base import Memory
from seqjax.cells import ops
from seqjax.types import Array, PRNGKey

__all__ = ["Coverage", "CoverageParams", "coverage_loss"]


class CoverageParams(NamedTuple):
    """Parameters of `Coverage`: `w_q [Q, U]`, `w_m [M, U]`, `b [U]`, `v [U]`, `w_c [U]`."""

    w_q: Array
    w_m: Array
    b: Array
    v: Array
    w_c: Array


@dataclasses.dataclass(frozen=True)
class Coverage(AdditiveScores):
    r"""Additive attention whose scores depend on the coverage, the sum of all previous weights.

        k_ts = Σ_{t' < t} a_t's
        e_ts = v · tanh(W_m m_s + W_q q_t + w_c k_ts + b)
        a_t  = softmax(e_t / temperature)
        c_t  = Σ_s a_ts m_s

    Attributes:
      units: number of hidden units, U. The default is `query_size`.
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.
      temperature: a positive number by which the scores are divided.

    State: the coverage k_t `[..., S]`, zero before the first step. To compute `coverage_loss`, pass
      the weights of a step and the coverage before that step.

    Raises:
      TypeError, ValueError: if a size, the temperature or the initialiser is invalid.

    References:
      See, Liu, Manning (2017), Get to the point: summarization with pointer-generator networks,
      eq. 10-11.

    Example:
      >>> import jax
      >>> attention = Coverage(3, 4)
      >>> params = attention.init(jax.random.key(0))
      >>> memory = attention.precompute(params, jnp.ones([5, 4]))
      >>> state = attention.initial_state(memory)
      >>> for _ in range(3):
      ...     _, weights, state = attention.attend(params, jnp.ones(3), memory, state)
      >>> print(f"{state.sum():.3f}")
      3.000
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> CoverageParams:
        k_additive, k_c = self.keys(key, 2)
        return CoverageParams(
            *self.draw_additive(k_additive, dtype), w_c=self.draw(k_c, (self.hidden,), dtype)
        )

    def initial_state(self, memory: Memory) -> Array:
        return jnp.zeros(memory.mask.shape, ops.accumulator_dtype(memory.values.dtype))

    def next_state(self, state: Array, weights: Array) -> Array:
        return state + weights

    def scores(self, params: Any, query: Array, memory: Memory, state: Array) -> Array:
        return attention_ops.additive_scores(
            params.v,
            memory.keys,
            self.project_query(params, query),
            ops.scaled(params.w_c, state[..., None]),
        )


def coverage_loss(weights: ArrayLike, coverage: ArrayLike) -> Array:
    """Return the penalty for attending to positions that previous steps attended to.

        L_t = Σ_s min(a_ts, k_ts)

    Args:
      weights: float `[..., S]`, the attention weights a_t of the step.
      coverage: float `[..., S]`, the coverage k_t, which is the state before the step and does not
        include a_t.

    Returns:
      The penalty `[...]`, between 0 and 1, in the wider dtype of the two arguments.

    Raises:
      TypeError, ValueError: if an argument is not an array of floating-point numbers, or the shapes
        differ.

    References:
      See, Liu, Manning (2017), Get to the point: summarization with pointer-generator networks,
      eq. 12.

    Example:
      >>> float(coverage_loss(jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 2.0, 1.0])))
      0.75
    """
    expected = "floating-point numbers"
    a = checks.require_array("weights", weights, jnp.floating, expected)
    k = checks.require_array("coverage", coverage, jnp.floating, expected)
    if a.ndim == 0:
        raise ValueError("weights: expected [..., S], got a scalar")
    if k.shape != a.shape:
        raise ValueError(f"coverage: expected the shape of weights, {a.shape}, got {k.shape}")
    dtype = jnp.promote_types(a.dtype, k.dtype)
    return jnp.minimum(a.astype(dtype), k.astype(dtype)).sum(axis=-1)
