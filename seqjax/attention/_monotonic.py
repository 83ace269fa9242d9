"""Monotonic attention, which only moves to the right, and its chunkwise kind."""

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
    """Parameters of `MoChA`: those of the monotonic energies, and those of the chunks' energies."""

    monotonic: MonotonicParams
    chunk: AdditiveParams


@dataclasses.dataclass(frozen=True)
class Monotonic(AdditiveScores):
    r"""Monotonic attention: from where it stopped, it walks right and stops at one position.

        e_ts = g (v / ‖v‖) · tanh(W q_t + V m_s + b) + r
        p_ts = σ(e_ts / temperature + noise_ts)
        a_ts = p_ts Σ_{k ≤ s} a_{t-1,k} Π_{l = k}^{s-1} (1 - p_tl)              mode "soft"
        a_ts = 1 at the first s ≥ s_{t-1} with p_ts > ½, else 0                 mode "hard"
        c_t  = Σ_s a_ts m_s

    Soft weights are the probabilities of stopping at each position, for training. They are computed
    by a parallel scan over q_s = (1 - p_{s-1}) q_{s-1} + a_{t-1,s}, a_ts = p_ts q_s, which divides
    by nothing and is thus exact where the paper's form, with a cumulative product in the
    denominator, is not. Hard weights, for inference, are what the soft ones become at probabilities
    of 0 and 1. Their sum is below 1 by the probability of having left the source: a row whose
    weights are all zero stays so.

    Before the first step all weight is on the first real position. Masked ones are passed over.

    Attributes:
      mode: "soft" or "hard"; both take the same parameters.
      score_bias_init: what r begins with; negative, so that soft attention reaches far at first.
      units: hidden units, U; `query_size` if not given.
      kernel_init: see `DenseAttention`.
      temperature: divides the scores.

    State: the previous weights `[..., S]`.

    Raises:
      TypeError, ValueError: a bad size, mode, bias, temperature or initialiser.

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
            reached = jnp.cumsum(state, axis=-1) > 0.5
            weights = first(memory.mask & reached & (scores > 0)).astype(scores.dtype)
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
        """One step of attention.

        Args:
          params: as from `init`.
          query: float `[..., Q]`, with the memory's batch axes.
          memory: as from `precompute`.
          state: as from `initial_state`, or the `state` of the step before.
          noise: float `[..., S]`, added to the scores after the temperature. In training, normal
            noise drives the probabilities towards 0 and 1 (section 2.5 of the paper). In mode
            "hard", logistic noise samples where to stop, each position with probability p.

        Returns:
          The context `[..., M]`, the weights `[..., S]` and the state for the next step.

        Raises:
          TypeError, ValueError: an argument of another dtype or shape.
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
    r"""Monotonic chunkwise attention: a softmax over the w positions that end where it stopped.

        a_t from energies as in `Monotonic`
        u_ts = v · tanh(W q_t + V m_s + b) / temperature          with weights of its own
        b_ts = Σ_{k=s}^{s+w-1} a_tk exp(u_ts) / Σ_{l=k-w+1}^{k} exp(u_tl)
        c_t  = Σ_s b_ts m_s

    The weights returned are b_t; the state carries a_t. Each chunk has a softmax of its own,
    computed from its own highest energy, so that no denominator vanishes. In mode "hard" a_t is 1
    at one position, and b_t the softmax of its chunk. A chunk is w positions as they lie in the
    memory; masked ones among them have weight 0.

    Attributes:
      chunk_width: w.
      mode, score_bias_init: see `Monotonic`.
      units: hidden units, U, of either energy; `query_size` if not given.
      kernel_init: see `DenseAttention`.
      temperature: divides both scores.

    State: the previous a_t `[..., S]`.

    Raises:
      TypeError, ValueError: a bad size, width, mode, bias, temperature or initialiser.

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
    """The mask that keeps the first True of each row."""
    return mask & (jnp.cumsum(mask, axis=-1, dtype=jnp.int32) == 1)


def expected_alignment(scores: Array, mask: Array, previous: Array) -> Array:
    """The probability of stopping at each position, from pre-sigmoid scores `[..., S]`."""
    stop = jnp.where(mask, jax.nn.sigmoid(scores), 0.0)
    walk_on = jnp.where(mask, jax.nn.sigmoid(-scores), 1.0)
    # q_s = (1 - p_{s-1}) q_{s-1} + previous_s: the probability of coming by position s.
    from_left = jnp.roll(walk_on, 1, axis=-1)  # what enters the first meets q = 0

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    _, reached = lax.associative_scan(combine, (from_left, previous), axis=scores.ndim - 1)
    stopped: Array = stop * reached
    return stopped


def chunkwise(stops: Array, scores: Array, mask: Array, width: int) -> Array:
    """Spreads the weight of each stop over the chunk of `width` positions that ends there."""
    positions = jnp.arange(scores.shape[-1], dtype=jnp.int32)[:, None]
    offsets = jnp.arange(width, dtype=jnp.int32)[None]
    none = [(0, 0)] * (scores.ndim - 1)

    # Row k holds the chunk that ends at position k, front-padded: positions k-w+1 … k.
    in_front = [*none, (width - 1, 0)]
    scores, mask = (jnp.pad(a, in_front)[..., positions + offsets] for a in (scores, mask))
    shares = attention_ops.masked_softmax(scores, mask) * stops[..., None]

    # Position s stands at offset o of the chunk that ends at s+w-1-o.
    behind = [*none, (0, width - 1), (0, 0)]
    return jnp.pad(shares, behind)[..., positions + (width - 1) - offsets, offsets].sum(axis=-1)
