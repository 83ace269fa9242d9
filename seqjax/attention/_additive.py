"""Additive attention, which scores each position with a hidden layer of tanh units."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from seqjax.attention import _ops as attention_ops
from seqjax.attention._base import Memory, TanhAttention
from seqjax.cells import ops
from seqjax.types import Array, PRNGKey

__all__ = ["Additive", "AdditiveParams", "NormedAdditive", "NormedAdditiveParams"]


class AdditiveParams(NamedTuple):
    """Parameters of `Additive`: `w_q [Q, U]`, `w_m [M, U]`, `b [U]`, `v [U]`."""

    w_q: Array
    w_m: Array
    b: Array
    v: Array


class NormedAdditiveParams(NamedTuple):
    """Parameters of `NormedAdditive`: the parameters of `Additive`, and `g []`, the length of v."""

    w_q: Array
    w_m: Array
    b: Array
    v: Array
    g: Array


@dataclasses.dataclass(frozen=True)
class AdditiveScores(TanhAttention):
    """Base class of the mechanisms with additive scores."""

    def draw_additive(self, key: PRNGKey, dtype: Any) -> AdditiveParams:
        """Draw `w_q`, `w_m` and `v`, and set the bias to zero."""
        k_q, k_m, k_v = self.keys(key, 3)
        return AdditiveParams(
            w_q=self.draw(k_q, (self.query_size, self.hidden), dtype),
            w_m=self.draw(k_m, (self.memory_size, self.hidden), dtype),
            b=jnp.zeros(self.hidden, dtype),
            v=self.draw(k_v, (self.hidden,), dtype),
        )

    def project_keys(self, params: Any, memory: Array) -> Any:
        return ops.affine(memory, params.w_m, params.b)

    def project_query(self, params: Any, query: Array) -> Array:
        """Return W q with an axis for the positions: `[..., 1, U]`."""
        return ops.matmul(query, params.w_q)[..., None, :]


@dataclasses.dataclass(frozen=True)
class Additive(AdditiveScores):
    r"""The additive attention of Bahdanau et al.

        e_ts = v · tanh(W q_t + U m_s + b)
        a_t  = softmax(e_t / temperature)
        c_t  = Σ_s a_ts m_s

    W is `w_q` and U is `w_m`. The paper omits the bias b from its equations to keep them readable.

    Attributes:
      units: number of hidden units, U. The default is `query_size`.
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.
      temperature: a positive number by which the scores are divided.

    This mechanism needs no state, so its state is the empty tuple `()`.

    Raises:
      TypeError, ValueError: if a size, the temperature or the initialiser is invalid.

    References:
      Bahdanau, Cho, Bengio (2015), Neural machine translation by jointly learning to align and
      translate, eq. 5-6 and section A.1.2.

    Example:
      >>> import jax
      >>> attention = Additive(3, 4, units=6)
      >>> params = attention.init(jax.random.key(0))
      >>> mask = jnp.array([[True, True, False]])
      >>> memory = attention.precompute(params, jnp.ones([1, 3, 4]), mask=mask)
      >>> context, weights, _ = attention.attend(params, jnp.ones([1, 3]), memory, ())
      >>> weights.tolist()
      [[0.5, 0.5, 0.0]]
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> AdditiveParams:
        return self.draw_additive(key, dtype)

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        return attention_ops.additive_scores(
            params.v, memory.keys, self.project_query(params, query)
        )


@dataclasses.dataclass(frozen=True)
class NormedAdditive(AdditiveScores):
    r"""Additive attention with weight normalisation: the length g of v is a separate parameter.

        e_ts = g (v / ‖v‖) · tanh(W q_t + U m_s + b)
        a_t  = softmax(e_t / temperature)
        c_t  = Σ_s a_ts m_s

    The initial value of g is 1/√U.

    Attributes:
      units: number of hidden units, U. The default is `query_size`.
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.
      temperature: a positive number by which the scores are divided.

    This mechanism needs no state, so its state is the empty tuple `()`.

    Raises:
      TypeError, ValueError: if a size, the temperature or the initialiser is invalid.

    References:
      Salimans, Kingma (2016), Weight normalization, eq. 2; Raffel et al. (2017), Online and
      linear-time attention by enforcing monotonic alignments, section 2.4; TensorFlow's
      `BahdanauAttention(normalize=True)`.

    Example:
      >>> import jax
      >>> params = NormedAdditive(3, 4, units=16).init(jax.random.key(0))
      >>> float(params.g)
      0.25
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> NormedAdditiveParams:
        drawn = self.draw_additive(key, dtype)
        return NormedAdditiveParams(*drawn, g=jnp.full((), self.hidden**-0.5, dtype))

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        v = attention_ops.normed(params.v, params.g)
        return attention_ops.additive_scores(v, memory.keys, self.project_query(params, query))
