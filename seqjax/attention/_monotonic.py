"""Monotonic attention and monotonic chunkwise attention, which move only to the right."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from seqjax import checks
from seqjax.attention import _ops as attention_ops
from seqjax.attention._additive import AdditiveParams, AdditiveScores
from seqjax.attention._base import Attended, Memory
from seqjax.cells import ops
from seqjax.types import Array, PRNGKey

__all__ = ["MoChA", "MoChAParams", "Monotonic", "MonotonicParams"]

MODES = ("soft", "hard")


class MonotonicParams(NamedTuple):
    """Parameters of `Monotonic`: `w_q [Q, U]`, `w_m [M, U]`, `b [U]`, `v [U]`, `g []`, `r []`."""

    w_q: Array
    w_m: Array
    b: Array
    v: Array
    g: Array
    r: Array


class MoChAParams(NamedTuple):
    """Parameters of `MoChA`: one set for the monotonic scores, and one for the chunk scores."""

    monotonic: MonotonicParams
    chunk: AdditiveParams


@dataclasses.dataclass(frozen=True)
class Monotonic(AdditiveScores):
    r"""Monotonic attention: each step moves right from the previous position until it stops.

        e_ts = g (v / ‖v‖) · tanh(W q_t + V m_s + b) + r
        p_ts = σ(e_ts / temperature + noise_ts)
        a_ts = p_ts Σ_{k ≤ s} a_{t-1,k} Π_{l = k}^{s-1} (1 - p_tl)              mode "soft"
        a_ts = 1 at the first s ≥ s_{t-1} with p_ts > ½, else 0                 mode "hard"
        c_t  = Σ_s a_ts m_s

    Soft weights are for training. A soft weight is the probability of stopping at its position. The
    soft weights are a_ts = p_ts q_s, where a parallel scan computes q_s = (1 - p_{s-1}) q_{s-1} +
    a_{t-1,s}, the probability of reaching position s. The formula in the paper divides by a
    cumulative product, which causes numerical errors; the scan needs no division. Hard weights are
    for inference. If all probabilities are 0 or 1, soft and hard weights are equal.

    The sum of the weights is 1 minus the probability that the end of the source has been passed. If
    all weights of a sentence are zero at one step, they stay zero at the following steps.

    The weights before the first step are 1 at the first real position and 0 elsewhere. Masked
    positions are skipped.

    Attributes:
      mode: "soft" or "hard", the kind of weights. Both modes use the same parameters.
      score_bias_init: initial value of r. If the initial r is negative, the probabilities of
        stopping are small at first, so that soft attention covers many positions from the start of
        training.
      units: number of hidden units, U. The default is `query_size`.
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.
      temperature: a positive number by which the scores are divided.

    State: the attention weights of the previous step, `[..., S]`.

    Raises:
      TypeError, ValueError: if a size, the mode, the bias, the temperature or the initialiser is
        invalid.

    References:
      Raffel, Luong, Liu, Weiss, Eck (2017), Online and linear-time attention by enforcing monotonic
      alignments, sections 2.2 to 2.5 and algorithm 1; TensorFlow's `monotonic_attention`.

    Example:
      >>> attention = Monotonic(2, 2, mode="hard", score_bias_init=1.0)
      >>> params = attention.init(jax.random.key(0))
      >>> mask = jnp.array([False, True, True])
      >>> memory = attention.precompute(params, jnp.zeros([3, 2]), mask=mask)
      >>> attention.attend(
      ...     params, jnp.zeros(2), memory, attention.initial_state(memory)
      ... ).weights.tolist()
      [0.0, 1.0, 0.0]
    """

    _: dataclasses.KW_ONLY
    mode: str = "soft"
    score_bias_init: float = -4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.require_name("mode", self.mode, MODES)
        bias = checks.require_number("score_bias_init", self.score_bias_init)
        object.__setattr__(self, "score_bias_init", bias)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Any:
        return MonotonicParams(
            *self.draw_additive(key, dtype),
            g=jnp.full((), self.hidden**-0.5, dtype),
            r=jnp.full((), self.score_bias_init, dtype),
        )

    def initial_state(self, memory: Memory) -> Array:
        dtype = ops.accumulator_dtype(memory.values.dtype)
        return first(memory.mask).astype(dtype)

    def scores(self, params: Any, query: Array, memory: Memory, state: Array) -> Array:
        v = attention_ops.normed(params.v, params.g)
        scores = attention_ops.additive_scores(v, memory.keys, self.project_query(params, query))
        shifted: Array = scores + params.r.astype(scores.dtype)
        return shifted

    def align(
        self,
        params: Any,
        query: Array,
        memory: Memory,
        state: Array,
        noise: Array | None = None,
    ) -> tuple[Array, Array]:
        scores = self.scores(params, query, memory, state) / self.temperature
        if noise is not None:
            scores = scores + noise.astype(scores.dtype)
        if self.mode == "hard":
            weights = hard_alignment(scores, memory.mask, state)
        else:
            weights = expected_alignment(scores, memory.mask, state)
        return weights, weights

    def attend(
        self,
        params: Any,
        query: ArrayLike,
        memory: Memory,
        state: Any,
        noise: ArrayLike | None = None,
    ) -> Attended:
        """Compute one step of attention.

        Args:
          params: the parameters, as returned by `init`.
          query: float `[..., Q]` with the memory's batch axes.
          memory: the prepared memory, as returned by `precompute`.
          state: the state from `initial_state`, or from the result of the previous step.
          noise: float `[..., S]`, added to the scores after the division by the temperature. In
            training, normally distributed noise drives the probabilities p_ts towards 0 and 1
            (Raffel et al. 2017, section 2.5). In mode "hard" with logistic noise, a step that
            reaches position s stops at s with probability p_ts.

        Returns:
          The context `[..., M]`, the weights `[..., S]` and the state for the next step.

        Raises:
          TypeError, ValueError: if the dtype or shape of an argument is wrong.
        """
        if noise is not None:
            noise = checks.require_array("noise", noise, jnp.floating, "floating-point numbers")
            if isinstance(memory, Memory) and np.shape(noise) != memory.mask.shape:
                raise ValueError(
                    f"noise: expected the mask's shape {memory.mask.shape}, got {np.shape(noise)}"
                )
        return self._attend(params, query, memory, state, noise=noise)


@dataclasses.dataclass(frozen=True)
class MoChA(Monotonic):
    r"""Monotonic chunkwise attention: a softmax over the last w positions up to each stop.

        a_t from scores as in `Monotonic`
        u_ts = v · tanh(W q_t + V m_s + b) / temperature          with separate weights
        b_ts = Σ_{k=s}^{s+w-1} a_tk exp(u_ts) / Σ_{l=k-w+1}^{k} exp(u_tl)
        c_t  = Σ_s b_ts m_s

    A chunk is w consecutive positions of the memory. Masked positions in a chunk have weight 0. The
    returned weights are b_t, and the state is a_t. The softmax of each chunk subtracts the highest
    score of that chunk, so no denominator becomes 0. In mode "hard", a_t is 1 at one position at
    most, and b_t is the softmax over the chunk that ends at this position.

    Attributes:
      chunk_width: number of positions in a chunk, w.
      mode, score_bias_init: the kind of weights and the initial value of r, see `Monotonic`.
      units: U, the number of hidden units for each of the two kinds of scores. The default is
        `query_size`.
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.
      temperature: a positive number by which both kinds of scores are divided.

    State: a_t of the previous step, `[..., S]`.

    Raises:
      TypeError, ValueError: if a size, the width, the mode, the bias, the temperature or the
        initialiser is invalid.

    References:
      Chiu, Raffel (2018), Monotonic chunkwise attention, section 2 ("MoChA") and algorithm 1.

    Example:
      >>> attention = MoChA(2, 2, chunk_width=2, mode="hard", score_bias_init=1.0)
      >>> params = attention.init(jax.random.key(0))
      >>> memory = attention.precompute(params, jnp.zeros([3, 2]))
      >>> state = jnp.array([0.0, 1.0, 0.0])
      >>> attention.attend(params, jnp.zeros(2), memory, state).weights.tolist()
      [0.5, 0.5, 0.0]
    """

    _: dataclasses.KW_ONLY
    chunk_width: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        width = checks.require_integer("chunk_width", self.chunk_width)
        object.__setattr__(self, "chunk_width", width)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> MoChAParams:
        k_monotonic, k_chunk = self.keys(key, 2)
        return MoChAParams(
            monotonic=super().init(k_monotonic, dtype),
            chunk=self.draw_additive(k_chunk, dtype),
        )

    def project_keys(self, params: Any, memory: Array) -> tuple[Array, Array]:
        return (
            super().project_keys(params.monotonic, memory),
            super().project_keys(params.chunk, memory),
        )

    def align(
        self,
        params: Any,
        query: Array,
        memory: Memory,
        state: Array,
        noise: Array | None = None,
    ) -> tuple[Array, Array]:
        keys, chunk_keys = memory.keys
        stops, state = super().align(
            params.monotonic, query, memory._replace(keys=keys), state, noise
        )
        scores = attention_ops.additive_scores(
            params.chunk.v, chunk_keys, self.project_query(params.chunk, query)
        )
        scores = scores / self.temperature
        return chunkwise(stops, scores, memory.mask, self.chunk_width), state


def first(mask: Array) -> Array:
    """Return a mask that is True only at the first True of each row."""
    return mask & (jnp.cumsum(mask, axis=-1, dtype=jnp.int32) == 1)


def hard_alignment(scores: Array, mask: Array, previous: Array) -> Array:
    """Return 1 at the first positive score from the previous position on, and 0 elsewhere.

    If the previous position is unknown, or a NaN score precedes the first positive one, the result
    is NaN at the first position where this is so.
    """
    reached = jnp.cumsum(previous, axis=-1)
    scores = jnp.where(jnp.isnan(reached), jnp.nan, scores)
    stops = first(mask & ~(reached <= 0.5) & ~(scores <= 0))  # comparisons with NaN are False
    return jnp.where(stops, jnp.where(jnp.isnan(scores), jnp.nan, 1.0), 0.0).astype(scores.dtype)


def expected_alignment(scores: Array, mask: Array, previous: Array) -> Array:
    """Return the probability of stopping at each position, from scores `[..., S]`."""
    stop = jnp.where(mask, jax.nn.sigmoid(scores), 0.0)
    walk_on = jnp.where(mask, jax.nn.sigmoid(-scores), 1.0)
    stopped: Array = stop * reach(walk_on, previous)
    return stopped


def reach(walk_on: Array, previous: Array) -> Array:
    """Return the probability of reaching each position, q_s = (1 - p_{s-1}) q_{s-1} + previous_s.

    Args:
      walk_on: the probability of not stopping, 1 - p, `[..., S]`.
      previous: the weights of the previous step, `[..., S]`.
    """
    if jax.export.is_symbolic_dim(walk_on.shape[-1]):  # a parallel scan needs a fixed size
        return _reach_in_order(walk_on, previous)
    from_left = jnp.roll(walk_on, 1, axis=-1)  # the value at the front is multiplied by 0

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    scanned: tuple[Array, Array] = lax.associative_scan(
        combine, (from_left, previous), axis=walk_on.ndim - 1
    )
    return scanned[1]


def _reach_in_order(walk_on: Array, previous: Array) -> Array:
    def one(arriving: Array, position: tuple[Array, Array]) -> tuple[Array, Array]:
        walk_on, previous = position
        reached = arriving + previous
        return walk_on * reached, reached

    positions = (jnp.moveaxis(walk_on, -1, 0), jnp.moveaxis(previous, -1, 0))
    _, reached = lax.scan(one, jnp.zeros(walk_on.shape[:-1], walk_on.dtype), positions)
    return jnp.moveaxis(reached, 0, -1)


def chunkwise(stops: Array, scores: Array, mask: Array, width: int) -> Array:
    """Distribute the weight of each stop over the last `width` positions up to this stop."""
    positions = jnp.arange(scores.shape[-1], dtype=jnp.int32)[:, None]
    offsets = jnp.arange(width, dtype=jnp.int32)[None]
    none = [(0, 0)] * (scores.ndim - 1)

    # Row k holds the chunk that ends at position k: positions k-w+1 … k, padded in front.
    in_front = [*none, (width - 1, 0)]
    scores, mask = (jnp.pad(a, in_front)[..., positions + offsets] for a in (scores, mask))
    shares = attention_ops.masked_softmax(scores, mask) * stops[..., None]

    # Position s has offset o in the chunk that ends at s+w-1-o.
    behind = [*none, (0, width - 1), (0, 0)]
    return jnp.pad(shares, behind)[..., positions + (width - 1) - offsets, offsets].sum(axis=-1)
