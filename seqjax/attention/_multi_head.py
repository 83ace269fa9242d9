"""Multi-head attention, with the one query that a recurrent decoder has at a time."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from seqjax import checks
from seqjax.attention import _ops as attention_ops
from seqjax.attention._base import DenseAttention, Memory
from seqjax.cells import ops
from seqjax.types import Array, PRNGKey

__all__ = ["MultiHead", "MultiHeadParams"]


class MultiHeadParams(NamedTuple):
    """Parameters of `MultiHead`, with N heads of D features each: `w_q [Q, N*D]`, `w_k [M, N*D]`,
    `w_v [M, N*D]`, `w_o [N*D, M]`; a head's block of columns (of rows in `w_o`) is D wide.
    """

    w_q: Array
    w_k: Array
    w_v: Array
    w_o: Array


@dataclasses.dataclass(frozen=True)
class MultiHead(DenseAttention):
    r"""Several attentions side by side, each with a projection of its own.

        e_nts = (q_t W_n^Q) · (m_s W_n^K) / √D                          head n = 1 … N
        a_nt  = softmax(e_nt / temperature)
        c_t   = [Σ_s a_1ts m_s W_1^V; …; Σ_s a_Nts m_s W_N^V] W^O

    The weights returned are averaged over heads. There are no biases, as in the paper, so that a
    row without real positions has context 0.

    Attributes:
      heads: N.
      head_size: D; `query_size` / N, rounded up, if not given.
      kernel_init: see `DenseAttention`; matrices are drawn whole.
      temperature: divides the scores.

    State: `()`.

    Raises:
      TypeError, ValueError: a bad size, temperature or initialiser.

    References:
      Vaswani et al. (2017), Attention is all you need, section 3.2.2.

    Example:
      >>> import jax
      >>> attention = MultiHead(6, 4, heads=2)
      >>> params = attention.init(jax.random.key(0))
      >>> memory = attention.precompute(params, jnp.ones([5, 4]))
      >>> attention.head_size, memory.keys.shape
      (3, (2, 5, 3))
    """

    _: dataclasses.KW_ONLY
    heads: int = 4
    head_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "heads", checks.require_integer("heads", self.heads))
        size = -(-self.query_size // self.heads) if self.head_size is None else self.head_size
        object.__setattr__(self, "head_size", checks.require_integer("head_size", size))

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> MultiHeadParams:
        k_q, k_k, k_v, k_o = self.keys(key, 4)
        width = self.heads * self.features
        return MultiHeadParams(
            w_q=self.draw(k_q, (self.query_size, width), dtype),
            w_k=self.draw(k_k, (self.memory_size, width), dtype),
            w_v=self.draw(k_v, (self.memory_size, width), dtype),
            w_o=self.draw(k_o, (width, self.memory_size), dtype),
        )

    @property
    def features(self) -> int:
        """D."""
        return checks.require_integer("head_size", self.head_size)

    def _by_head(self, projected: Array) -> Array:
        """`[..., N*D]` as `[..., N, D]`."""
        return projected.reshape(*projected.shape[:-1], self.heads, self.features)

    # Heads stand before positions, so that a step's products find them as batches.
    def project_keys(self, params: Any, memory: Array) -> Array:
        return self._by_head(ops.matmul(memory, params.w_k)).swapaxes(-3, -2)

    def project_values(self, params: Any, memory: Array) -> Array:
        return self._by_head(ops.matmul(memory, params.w_v)).swapaxes(-3, -2)

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        """As in `Attention`, for each head: `[..., N, S]`."""
        queries = self._by_head(ops.matmul(query, params.w_q))
        scores = attention_ops.dot_scores(queries, memory.keys)
        scaled: Array = scores / math.sqrt(self.features)
        return scaled

    def align(self, params: Any, query: Array, memory: Memory, state: Any) -> tuple[Array, Any]:
        """As in `Attention`, for each head: `[..., N, S]`."""
        scores = self.scores(params, query, memory, state) / self.temperature
        return attention_ops.masked_softmax(scores, memory.mask[..., None, :]), state

    def read(self, params: Any, weights: Array, memory: Memory) -> tuple[Array, Array]:
        """As in `Attention`, from weights `[..., N, S]`; those shown are their mean over heads."""
        contexts = attention_ops.weighted_sum(weights, memory.values)
        joined = contexts.reshape(*contexts.shape[:-2], self.heads * self.features)
        return ops.matmul(joined, params.w_o), weights.mean(axis=-2)
