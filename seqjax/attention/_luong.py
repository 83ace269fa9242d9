"""Luong's attention scores: dot, general and concat."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from seqjax.attention import _ops as attention_ops
from seqjax.attention._base import Attention, DenseAttention, Memory, TanhAttention
from seqjax.cells import ops
from seqjax.types import Array, PRNGKey

__all__ = ["Concat", "ConcatParams", "Dot", "DotParams", "General", "GeneralParams", "ScaledDot"]


class DotParams(NamedTuple):
    """Parameters of `Dot` and `ScaledDot`: an empty tuple, since there are no parameters."""


class GeneralParams(NamedTuple):
    """Parameters of `General`: `w [Q, M]`."""

    w: Array


class ConcatParams(NamedTuple):
    """Parameters of `Concat`: `w [Q + M, U]` with the rows for the query first, and `v [U]`."""

    w: Array
    v: Array


@dataclasses.dataclass(frozen=True)
class _Product(Attention):
    """Base class of the mechanisms without parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.query_size != self.memory_size:
            raise ValueError(
                f"memory_size: expected query_size={self.query_size}, since {type(self).__name__} "
                f"multiplies query and memory directly, got {self.memory_size}; use General for "
                "sizes that differ"
            )

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> DotParams:
        del key, dtype
        return DotParams()

    def project_keys(self, params: Any, memory: Array) -> Array:
        return memory

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        return attention_ops.dot_scores(query, memory.keys)


@dataclasses.dataclass(frozen=True)
class Dot(_Product):
    r"""Luong's dot score.

        e_ts = q_t · m_s
        a_t  = softmax(e_t / temperature)
        c_t  = Σ_s a_ts m_s

    Attributes:
      temperature: a positive number by which the scores are divided.

    This mechanism needs no state, so its state is the empty tuple `()`.

    Raises:
      TypeError, ValueError: if a size or the temperature is invalid, or if the sizes of query and
        memory differ.

    References:
      Luong, Pham, Manning (2015), Effective approaches to attention-based neural machine
      translation, section 3.1, eq. 7 ("dot").

    Example:
      >>> import jax
      >>> attention = Dot(2, 2)
      >>> params = attention.init(jax.random.key(0))
      >>> memory = attention.precompute(params, jnp.array([[20.0, 0.0], [0.0, 20.0]]))
      >>> attention.attend(params, jnp.array([0.0, 20.0]), memory, ()).context.tolist()
      [0.0, 20.0]
    """


@dataclasses.dataclass(frozen=True)
class ScaledDot(_Product):
    r"""The dot score divided by √Q, so that its variance does not depend on Q.

        e_ts = q_t · m_s / √Q
        a_t  = softmax(e_t / temperature)
        c_t  = Σ_s a_ts m_s

    Attributes:
      temperature: a positive number by which the scores are divided.

    This mechanism needs no state, so its state is the empty tuple `()`.

    Raises:
      TypeError, ValueError: if a size or the temperature is invalid, or if the sizes of query and
        memory differ.

    References:
      Vaswani et al. (2017), Attention is all you need, eq. 1.

    Example:
      >>> attention = ScaledDot(4, 4)
      >>> memory = attention.precompute((), jnp.ones([1, 4]))
      >>> attention.scores((), jnp.ones([4]), memory, ()).tolist()
      [2.0]
    """

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        scores = super().scores(params, query, memory, state)
        scaled: Array = scores / math.sqrt(self.query_size)
        return scaled


@dataclasses.dataclass(frozen=True)
class General(DenseAttention):
    r"""Luong's general score, a bilinear form.

        e_ts = q_t W m_s
        a_t  = softmax(e_t / temperature)
        c_t  = Σ_s a_ts m_s

    Attributes:
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.
      temperature: a positive number by which the scores are divided.

    This mechanism needs no state, so its state is the empty tuple `()`.

    Raises:
      TypeError, ValueError: if a size, the temperature or the initialiser is invalid.

    References:
      Luong, Pham, Manning (2015), Effective approaches to attention-based neural machine
      translation, section 3.1, eq. 7 ("general").

    Example:
      >>> import jax
      >>> General(3, 4).init(jax.random.key(0)).w.shape
      (3, 4)
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> GeneralParams:
        (k_w,) = self.keys(key, 1)
        return GeneralParams(w=self.draw(k_w, (self.query_size, self.memory_size), dtype))

    def project_keys(self, params: Any, memory: Array) -> Array:
        return ops.matmul(memory, params.w.T)

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        return attention_ops.dot_scores(query, memory.keys)


@dataclasses.dataclass(frozen=True)
class Concat(TanhAttention):
    r"""Luong's concat score: additive attention with one matrix W and without a bias.

        e_ts = v · tanh(W [q_t; m_s])
        a_t  = softmax(e_t / temperature)
        c_t  = Σ_s a_ts m_s

    Attributes:
      units: number of hidden units, U. The default is `query_size`.
      kernel_init: see `DenseAttention`; W is drawn as one matrix.
      temperature: a positive number by which the scores are divided.

    This mechanism needs no state, so its state is the empty tuple `()`.

    Raises:
      TypeError, ValueError: if a size, the temperature or the initialiser is invalid.

    References:
      Luong, Pham, Manning (2015), Effective approaches to attention-based neural machine
      translation, section 3.1, eq. 7 ("concat").

    Example:
      >>> import jax
      >>> Concat(3, 4, units=5).init(jax.random.key(0)).w.shape
      (7, 5)
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> ConcatParams:
        k_w, k_v = self.keys(key, 2)
        return ConcatParams(
            w=self.draw(k_w, (self.query_size + self.memory_size, self.hidden), dtype),
            v=self.draw(k_v, (self.hidden,), dtype),
        )

    def project_keys(self, params: Any, memory: Array) -> Array:
        return ops.matmul(memory, params.w[self.query_size :])

    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        from_query = ops.matmul(query, params.w[: self.query_size])[..., None, :]
        return attention_ops.additive_scores(params.v, memory.keys, from_query)
