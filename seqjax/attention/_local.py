"""Local attention: the weights are restricted to a window around a predicted position."""

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
    """Parameters of `LocalP`.

    The scores depend on `w [Q, M]`, and the centre of the window on `w_p [Q, U]` and `v_p [U]`.
    """

    w: Array
    w_p: Array
    v_p: Array


@dataclasses.dataclass(frozen=True)
class LocalP(TanhAttention):
    r"""Luong's local attention with predictive alignment (local-p), with the general score.

        p_t  = S · σ(v_p · tanh(W_p q_t))
        e_ts = q_t W m_s
        a_ts = softmax(e_t / temperature)_s · exp(-(s - p_t)² / 2σ²),   σ = D / 2,   |s - p_t| ≤ D

    The softmax is over the window from p_t - D to p_t + D. Outside the window, weights are 0.
    Because of the Gaussian factor, the sum of the weights is less than 1, as in the paper. S is the
    number of real positions of the sentence, and s = 0, 1, … counts only real positions, so padding
    does not move the window.

    Attributes:
      window: D, the number of positions of the window on either side of its centre.
      units: U, the number of hidden units of the layer that predicts the centre. The default is
        `query_size`.
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.
      temperature: a positive number by which the scores are divided.

    This mechanism needs no state, so its state is the empty tuple `()`.

    Raises:
      TypeError, ValueError: if a size, the window, the temperature or the initialiser is invalid.

    References:
      Luong, Pham, Manning (2015), Effective approaches to attention-based neural machine
      translation, section 3.2, eq. 9-10.

    Example:
      >>> attention = LocalP(3, 4, window=2, kernel_init="zeros")
      >>> params = attention.init(jax.random.key(0))  # zero weights: the centre is the middle
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
        """Return the window's centre p_t `[...]`, between 0 and the number of real positions."""
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
