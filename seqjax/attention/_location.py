"""Location-aware attention: the scores depend on the weights of the previous step."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from seqjax import checks
from seqjax.attention import _ops as attention_ops
from seqjax.attention._additive import AdditiveScores
from seqjax.attention._base import Memory
from seqjax.cells import ops
from seqjax.types import Array, PRNGKey

__all__ = ["LocationAware", "LocationAwareParams"]


class LocationAwareParams(NamedTuple):
    """Parameters of `LocationAware`, with F filters of size K.

    The fields are `w_q [Q, U]`, `w_m [M, U]`, `b [U]`, `v [U]`, `w_f [F, U]`, `filters [K, F]`.
    """

    w_q: Array
    w_m: Array
    b: Array
    v: Array
    w_f: Array
    filters: Array


@dataclasses.dataclass(frozen=True)
class LocationAware(AdditiveScores):
    r"""Additive attention whose scores also depend on a convolution of the previous weights.

        f_ts = Σ_k F_k a_{t-1, s + k - ⌊(K-1)/2⌋}                     k = 0 … K-1
        e_ts = w · tanh(W q_t + V m_s + U f_ts + b)
        a_t  = softmax(e_t / temperature)
        c_t  = Σ_s a_ts m_s

    W is `w_q`, V is `w_m`, U is `w_f`, w is `v` and F is `filters`. The attention weights before
    the first step are zero. In the convolution, the weights at masked positions and beyond both
    ends of the sentence are 0.

    Attributes:
      filters: number of filters, F. The default (32 filters of size 31) is the choice of Tacotron
        2.
      kernel_size: size of a filter, K.
      units: number of hidden units, U. The default is `query_size`.
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.
      temperature: a positive number by which the scores are divided.

    State: the attention weights of the previous step, `[..., S]`.

    Raises:
      TypeError, ValueError: if a size, the temperature or the initialiser is invalid.

    References:
      Chorowski et al. (2015), Attention-based models for speech recognition, eq. 8-9; Shen et al.
      (2018), Natural TTS synthesis by conditioning WaveNet on mel spectrogram predictions.

    Example:
      >>> import jax
      >>> attention = LocationAware(3, 4, filters=2, kernel_size=5)
      >>> params = attention.init(jax.random.key(0))
      >>> memory = attention.precompute(params, jnp.ones([2, 6, 4]))
      >>> attended = attention.attend(
      ...     params, jnp.ones([2, 3]), memory, attention.initial_state(memory)
      ... )
      >>> bool((attended.state == attended.weights).all())
      True
    """

    _: dataclasses.KW_ONLY
    filters: int = 32
    kernel_size: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("filters", "kernel_size"):
            object.__setattr__(self, name, checks.require_integer(name, getattr(self, name)))

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> LocationAwareParams:
        k_additive, k_f, k_filters = self.keys(key, 3)
        return LocationAwareParams(
            *self.draw_additive(k_additive, dtype),
            w_f=self.draw(k_f, (self.filters, self.hidden), dtype),
            filters=self.draw(k_filters, (self.kernel_size, self.filters), dtype),
        )

    def initial_state(self, memory: Memory) -> Array:
        return jnp.zeros(memory.mask.shape, ops.accumulator_dtype(memory.values.dtype))

    def next_state(self, state: Array, weights: Array) -> Array:
        return weights

    def scores(self, params: Any, query: Array, memory: Memory, state: Array) -> Array:
        features = convolved(state, params.filters)
        return attention_ops.additive_scores(
            params.v,
            memory.keys,
            self.project_query(params, query),
            ops.matmul(features, params.w_f),
        )


def convolved(weights: Array, filters: Array) -> Array:
    """Return the convolution of weights `[..., S]` with filters `[K, F]`: `[..., S, F]`.

    The weights are padded with zeros at both ends. The result has the dtype of the weights.
    """
    *batch, positions = weights.shape
    size = filters.shape[0]
    before = (size - 1) // 2
    features = lax.conv_general_dilated(
        weights.reshape(math.prod(batch), positions, 1),
        filters.astype(weights.dtype)[:, None, :],
        window_strides=(1,),
        padding=[(before, size - 1 - before)],
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return features.reshape(*batch, positions, filters.shape[1])
