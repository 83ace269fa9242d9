"""Local attention: a window around a predicted position."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.attention import _ops as attention_ops
from seqjax.attention._base import Memory, TanhAttention
from seqjax.cells import ops
from seqjax.types import Array, PRNGKey

__all__ = ["LocalP", "LocalPParams"]


class LocalPParams(NamedTuple):
    """Parameters of `LocalP`: `w [Q, M]` for scores, `w_p [Q, U]` and `v_p [U]` for the centre."""

    w: Array
    w_p: Array
    v_p: Array


@dataclasses.dataclass(frozen=True)
class LocalP(TanhAttention):
    r"""Luong's predictive alignment, local-p, with the general score.

        p_t  = S · σ(v_p · tanh(W_p q_t))
        e_ts = q_t W m_s
        a_ts = softmax(e_t / temperature)_s · exp(-(s - p_t)² / 2σ²),   σ = D / 2,   |s - p_t| ≤ D

    The softmax is over the window, p_t - D to p_t + D, outside of which weights are 0. The Gaussian
    makes the sum of the weights less than 1, as in the paper. S is the row's number of real
    positions, and s = 0, 1, … counts these alone, so that padding moves nothing.

    Attributes:
      window: D, the number of positions on either side.
      units: hidden units of the centre's prediction, U; `query_size` if not given.
      kernel_init: see `DenseAttention`.
      temperature: divides the scores.

    State: `()`.

    Raises:
      TypeError, ValueError: a bad size, window, temperature or initialiser.

    References:
      Luong, Pham, Manning (2015), Effective approaches to attention-based neural machine
      translation, section 3.2, eq. 9-10.

    Example:
      >>> attention = LocalP(3, 4, window=2, kernel_init="zeros")
      >>> params = attention.init(jax.random.key(0))  # zeros: the centre is in the middle
      >>> memory = attention.precompute(params, jnp.ones([8, 4]))
      >>> [round(a, 3) for a in attention.attend(params, jnp.ones(3), memory, ()).weights.tolist()]
      [0.0, 0.0, 0.027, 0.121, 0.2, 0.121, 0.027, 0.0]
    """

    _: dataclasses.KW_ONLY
    window: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "window", checks.require_integer("window", self.window))

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> LocalPParams:
        k_w, k_p, k_v = self.keys(key, 3)
        return LocalPParams(
            w=self.draw(k_w, (self.query_size, self.memory_size), dtype),
            w_p=self.draw(k_p, (self.query_size, self.hidden), dtype),
            v_p=self.draw(k_v, (self.hidden,), dtype),
        )

    def project_keys(self, params: Any, memory: Array) -> Array:
        return ops.matmul(memory, params.w.T)

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        return attention_ops.dot_scores(query, memory.keys)

    def centre(self, params: Any, query: Array, memory: Memory) -> Array:
        """p_t, counted in real positions: `[...]`, between 0 and their number."""
        hidden = jnp.tanh(ops.matmul(query, params.w_p))
        share = jax.nn.sigmoid(ops.scaled(params.v_p, hidden).sum(axis=-1))
        return share * memory.mask.sum(axis=-1, dtype=jnp.int32).astype(share.dtype)

    def align(self, params: Any, query: Array, memory: Memory, state: Any) -> tuple[Array, Any]:
        scores = self.scores(params, query, memory, state) / self.temperature
        position = jnp.cumsum(memory.mask, axis=-1, dtype=jnp.int32) - 1
        distance = position.astype(scores.dtype) - self.centre(params, query, memory)[..., None]
        inside = memory.mask & (jnp.abs(distance) <= self.window)
        gaussian = jnp.exp(-0.5 * jnp.square(distance / (self.window / 2)))
        return attention_ops.masked_softmax(scores, inside) * gaussian, state
