"""Multi-head attention with one query per step, as in a recurrent decoder."""

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
    """Parameters of `MultiHead`, with N heads of D features each.

    The parameters are `w_q [Q, N*D]`, `w_k [M, N*D]`, `w_v [M, N*D]` and `w_o [N*D, M]`. Each head
    has a block of D columns of `w_q`, `w_k` and `w_v`, and a block of D rows of `w_o`.
    """

    w_q: Array
    w_k: Array
    w_v: Array
    w_o: Array


@dataclasses.dataclass(frozen=True)
class MultiHead(DenseAttention):
    r"""Several attention heads in parallel, each with its own projections.

        e_nts = (q_t W_n^Q) · (m_s W_n^K) / √D                          head n = 1 … N
        a_nt  = softmax(e_nt / temperature)
        c_t   = [Σ_s a_1ts m_s W_1^V; …; Σ_s a_Nts m_s W_N^V] W^O

    The returned weights are the mean of the heads' weights. As in the paper, there are no biases,
    so the context of a sentence without real positions is 0.

    Attributes:
      heads: number of heads, N.
      head_size: number of features of a head, D. The default is `query_size` / N, rounded up.
      kernel_init: see `DenseAttention`; each matrix is drawn for all heads at once.
      temperature: a positive number by which the scores are divided.

    This mechanism needs no state, so its state is the empty tuple `()`.

    Raises:
      TypeError, ValueError: if a size, the temperature or the initialiser is invalid.

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
        """The number of features of a head, D."""
        return checks.require_integer("head_size", self.head_size)

    def _by_head(self, projected: Array) -> Array:
        """Reshape `[..., N*D]` to `[..., N, D]`."""
        return projected.reshape(*projected.shape[:-1], self.heads, self.features)

    # The axis of heads precedes the axis of positions, so that the products of a step are batched.
    def project_keys(self, params: Any, memory: Array) -> Array:
        return self._by_head(ops.matmul(memory, params.w_k)).swapaxes(-3, -2)

    def project_values(self, params: Any, memory: Array) -> Array:
        return self._by_head(ops.matmul(memory, params.w_v)).swapaxes(-3, -2)

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        """Return the scores of each head: `[..., N, S]`."""
        queries = self._by_head(ops.matmul(query, params.w_q))
        scores = attention_ops.dot_scores(queries, memory.keys)
        scaled: Array = scores / math.sqrt(self.features)
        return scaled

    def align(self, params: Any, query: Array, memory: Memory, state: Any) -> tuple[Array, Any]:
        """Return the weights of each head, `[..., N, S]`, and the state."""
        scores = self.scores(params, query, memory, state) / self.temperature
        return attention_ops.masked_softmax(scores, memory.mask[..., None, :]), state

    def read(self, params: Any, weights: Array, memory: Memory) -> tuple[Array, Array]:
        """Return the context and the mean of the weights `[..., N, S]` over the heads."""
        contexts = attention_ops.weighted_sum(weights, memory.values)
        joined = contexts.reshape(*contexts.shape[:-2], self.heads * self.features)
        return ops.matmul(joined, params.w_o), weights.mean(axis=-2)
