"""Base classes of attention, which declare the methods that a mechanism defines or inherits.

A mechanism is a frozen dataclass that holds the configuration. Its methods are pure functions,
which compute attention over a sentence as follows:

    keys, values = project_keys(params, m), project_values(params, m)     once, in `precompute`
    a_t, state_t = align(params, q_t, memory, state_{t-1})                at every step, in `attend`
    c_t = Σ_s a_ts v_s

By default, the weights that `align` returns are the softmax of `scores`. In addition to the symbols
of `seqjax.types`, Q is the number of features of a query, M is the number of features of a position
of the memory, and U is the number of hidden units.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from seqjax import checks, sequences
from seqjax._arguments import same_structure
from seqjax._hints import hints
from seqjax.attention import _ops as attention_ops
from seqjax.cells import initializers, ops
from seqjax.cells._base import cast
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Shape

__all__ = ["Attended", "Attention", "DenseAttention", "Memory", "TanhAttention"]


class Memory(NamedTuple):
    """The memory that attention reads, which `Attention.precompute` prepares once per sentence.

    The shapes of all arrays begin with the batch axes. Keys and values have the dtype of the memory
    that `precompute` was given.

    Attributes:
      keys: the keys, from which scores are computed: an array `[..., S, K]`, or a pytree of arrays.
      values: the vectors whose weighted sum is the context, zero at masked positions. `MultiHead`
        projects the memory to values. In all mechanisms except `MultiHead`, the values are the
        memory `[..., S, M]` itself.
      mask: bool `[..., S]`, True at real positions.
    """

    keys: PyTree
    values: Array
    mask: Array


class Attended(NamedTuple):
    """The result of one step of attention.

    Attributes:
      context: the context vector `[..., M]`, in the dtype of the memory.
      weights: the attention weights `[..., S]`, 0 at masked positions, in float64 if the memory is
        float64, and otherwise in float32.
      state: the state for the next step.
    """

    context: Array
    weights: Array
    state: PyTree


@dataclasses.dataclass(frozen=True)
class Attention(abc.ABC):
    """Base class of all mechanisms.

    Subclasses are frozen dataclasses, so `jax.jit` traces equal configurations only once. To add a
    mechanism, define `init`, `project_keys` and `scores`. If a step depends on the attention
    weights of earlier steps, also define `initial_state` and `next_state`. If the attention weights
    are not a softmax of scores, define `align`.

    Queries and parameters are cast to the dtype of the memory. Products accumulate in float32 or
    wider, and scores, weights and states are computed in the dtype of the accumulation.

    Attributes:
      query_size: number of features of a query, Q.
      memory_size: number of features of a position of the memory, M.
      temperature: a positive number by which the scores are divided.

    Raises:
      TypeError, ValueError: if a size is not a positive integer, or the temperature is not a
        positive finite number.

    Example:
      >>> from seqjax.attention import ATTENTIONS
      >>> attention = ATTENTIONS["additive"](query_size=3, memory_size=4)
      >>> params = attention.init(jax.random.key(0))
      >>> memory = attention.precompute(params, jnp.ones([2, 5, 4]))
      >>> attended = attention.attend(
      ...     params, jnp.ones([2, 3]), memory, attention.initial_state(memory)
      ... )
      >>> attended.context.shape, attended.weights.shape
      ((2, 4), (2, 5))
    """

    query_size: int
    memory_size: int
    _: dataclasses.KW_ONLY
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("query_size", "memory_size"):
            object.__setattr__(self, name, checks.require_integer(name, getattr(self, name)))
        temperature = checks.require_positive("temperature", self.temperature)
        object.__setattr__(self, "temperature", temperature)

    @abc.abstractmethod
    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Any:
        """Draw parameters.

        Args:
          key: a random key.
          dtype: the dtype of all parameters.

        Returns:
          A NamedTuple of arrays.
        """

    @abc.abstractmethod
    def project_keys(self, params: Any, memory: Array) -> PyTree:
        """Return the keys from which scores are computed.

        Args:
          params: the parameters, as returned by `init`, in the dtype of the memory.
          memory: `[..., S, M]`, zero at masked positions.

        Returns:
          The keys, an array `[..., S, K]` or a pytree of arrays. `precompute` casts the keys to the
          memory's dtype.
        """

    def project_values(self, params: Any, memory: Array) -> Array:
        """Return the values, whose weighted sum is the context (by default, the memory itself).

        Args:
          params: the parameters, as returned by `init`, in the dtype of the memory.
          memory: `[..., S, M]`, zero at masked positions.
        """
        del params
        return memory

    @abc.abstractmethod
    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        """Return a score for each position, before division by the temperature.

        Args:
          params: the parameters, as returned by `init`, in the dtype of the memory.
          query: `[..., Q]`.
          memory: the prepared memory, as returned by `precompute`.
          state: the state before the step, in float32 or wider.

        Returns:
          The scores `[..., S]` in float32 or wider. Scores at masked positions are ignored.
        """

    def initial_state(self, memory: Memory) -> Any:
        """Return the state before the first step. A mechanism without a state returns `()`.

        Args:
          memory: the prepared memory, as returned by `precompute`.

        Returns:
          A pytree of arrays whose shapes begin with the batch axes of the memory.
        """
        del memory
        return ()

    def next_state(self, state: Any, weights: Array) -> Any:
        """Return the state after a step with the given weights (by default, the old state)."""
        del weights
        return state

    def align(self, params: Any, query: Array, memory: Memory, state: Any) -> tuple[Array, Any]:
        """Return the attention weights and the new state.

        Args:
          params: the parameters, as returned by `init`, in the dtype of the memory.
          query: `[..., Q]`.
          memory: the prepared memory, as returned by `precompute`.
          state: the state before the step, in float32 or wider.

        Returns:
          The weights `[..., S]`, which are 0 at masked positions, and the state for the next step.
          By default, the weights are the softmax of the scores over the real positions.
        """
        scores = self.scores(params, query, memory, state)
        if scores.shape != memory.mask.shape:
            raise ValueError(
                f"scores: expected shape {memory.mask.shape}, one score for each position of the "
                f"memory, got {scores.shape}"
            )
        scores = scores / self.temperature
        weights = attention_ops.masked_softmax(scores, memory.mask)
        return weights, self.next_state(state, weights)

    def read(self, params: Any, weights: Array, memory: Memory) -> tuple[Array, Array]:
        """Return the context and the weights that `attend` returns.

        Args:
          params: the parameters, as returned by `init`, in the dtype of the memory.
          weights: the attention weights, as returned by `align`.
          memory: the prepared memory, as returned by `precompute`.
        """
        del params
        return attention_ops.weighted_sum(weights, memory.values), weights

    @hints(
        attention_mask="use mask, True at real positions",
        key_padding_mask="use mask, which is its opposite: True at real positions",
        memory_key_padding_mask="use mask, which is its opposite: True at real positions",
        memory_mask="use mask",
        memory_sequence_length="use lengths",
    )
    def precompute(
        self,
        params: Any,
        memory: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Memory:
        """Mask a memory and project its keys and values, once per sentence.

        Masked positions of the memory are set to zero before any other computation, so NaN in
        padding affects neither outputs nor gradients.

        Args:
          params: the parameters, as returned by `init`.
          memory: float `[..., S, M]`, such as the outputs of an encoder.
          lengths: int `[...]`, the number of real positions of each sentence.
          mask: bool `[..., S]`, True at real positions, in any order, False in padding. Pass
            `lengths` or `mask`, not both. Without `lengths` and `mask`, all positions are real.

        Returns:
          The `Memory` that `attend` and `initial_state` take.

        Raises:
          TypeError, ValueError: if the dtype or shape of an argument is wrong.
        """
        given = checks.require_array("memory", memory, jnp.floating, "floating-point numbers")
        if given.ndim < 2 or given.shape[-1] != self.memory_size:
            raise ValueError(
                f"memory: expected [..., S, {self.memory_size}] for "
                f"memory_size={self.memory_size}, got {given.shape}"
            )
        *batch_shape, positions = given.shape[:-1]
        real = sequences.step_mask(tuple(batch_shape), positions, lengths=lengths, mask=mask)
        real = jnp.ones(given.shape[:-1], bool) if real is None else real
        clean = sequences.zero_masked(given, mask=real)
        params = cast(self._checked_params(params), clean.dtype)
        return Memory(
            keys=cast(self.project_keys(params, clean), clean.dtype),
            values=self.project_values(params, clean).astype(clean.dtype),
            mask=real,
        )

    def attend(self, params: Any, query: ArrayLike, memory: Memory, state: Any) -> Attended:
        """Compute one step of attention.

        Args:
          params: the parameters, as returned by `init`.
          query: float `[..., Q]` with the memory's batch axes, such as the state of a decoder.
          memory: the prepared memory, as returned by `precompute`.
          state: the state from `initial_state`, or from the result of the previous step. The
            returned state has the dtype of the given state.

        Returns:
          The context `[..., M]`, the weights `[..., S]` and the state for the next step. If a
          sentence has no real positions, its weights and context are 0.

        Raises:
          TypeError, ValueError: if the dtype or shape of an argument is wrong, or if `scores` or
            `align` returns an array of a wrong shape.
        """
        return self._attend(params, query, memory, state)

    def _attend(
        self, params: Any, query: ArrayLike, memory: Memory, state: Any, **options: Any
    ) -> Attended:
        checked, state = self._checked(query, memory, state)
        dtype = memory.values.dtype
        params = cast(params, dtype)
        wide = cast(state, ops.accumulator_dtype(dtype))
        weights, new_state = self.align(params, checked, memory, wide, **options)
        batch_axes = memory.mask.ndim - 1  # `MultiHead` has an axis of heads between these and S
        if (*weights.shape[:batch_axes], *weights.shape[-1:]) != memory.mask.shape:
            raise ValueError(
                f"align: expected weights of shape {memory.mask.shape}, one weight for each "
                f"position of the memory, got {weights.shape}"
            )
        context, shown = self.read(params, weights, memory)
        new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, state)
        return Attended(context.astype(dtype), shown, new_state)

    def _checked_params(self, params: Any) -> Any:
        like = jax.eval_shape(lambda: self.init(jax.random.key(0)))
        if not jax.tree.leaves(like):
            return params
        if not same_structure(params, like):
            raise TypeError(
                f"params: expected {type(like).__name__} as from init, got {checks.brief(params)}"
            )
        shapes, expected = (jax.tree.map(np.shape, tree) for tree in (params, like))
        if shapes != expected:
            raise ValueError(f"params: expected shapes {expected} as from init, got {shapes}")
        return params

    def _checked(self, query: Any, memory: Any, state: Any) -> tuple[Array, Any]:
        if not isinstance(memory, Memory):
            raise TypeError(
                f"memory: expected the result of precompute, got {checks.brief(memory)}"
            )
        query = checks.require_array("query", query, jnp.floating, "floating-point numbers")
        expected = (*memory.mask.shape[:-1], self.query_size)
        if query.shape != expected:
            raise ValueError(
                f"query: expected shape {expected} (the memory's batch axes and "
                f"query_size={self.query_size}), got {query.shape}"
            )
        like = jax.eval_shape(self.initial_state, memory)
        if jax.tree.map(np.shape, state) != jax.tree.map(np.shape, like):
            raise ValueError(
                f"state: expected shapes {jax.tree.map(np.shape, like)} as from initial_state, "
                f"got {checks.brief(state)}"
            )
        return query, jax.tree.map(
            lambda leaf: checks.require_array(
                "state", leaf, jnp.floating, "floating-point numbers"
            ),
            state,
        )


@dataclasses.dataclass(frozen=True)
class DenseAttention(Attention):
    """Base class of the mechanisms with weight matrices, which an initialiser draws.

    Attributes:
      kernel_init: the initialiser of the weight matrices: a name in
        `seqjax.cells.initializers.INITIALIZERS`, or a function `(key, shape, dtype)`.

    Raises:
      TypeError, ValueError: if the initialiser is unknown; see also `Attention`.

    Example:
      >>> from seqjax.attention import General
      >>> bool((General(3, 4, kernel_init="ones").init(jax.random.key(0)).w == 1).all())
      True
    """

    _: dataclasses.KW_ONLY
    kernel_init: str | Initializer = "glorot_uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        initializers.resolve("kernel_init", self.kernel_init, 1)

    def keys(self, key: PRNGKey, number: int) -> Array:
        """Check that `key` is a random key, and split it into `number` keys."""
        return jax.random.split(checks.require_key("key", key), number)

    def draw(self, key: PRNGKey, shape: Shape, dtype: Any) -> Array:
        """Draw a matrix `[in, out]` or a vector `[in]`. A vector is drawn as a matrix `[in, 1]`."""
        dtype = checks.require_floating_dtype("dtype", dtype)
        initializer = initializers.resolve("kernel_init", self.kernel_init, shape[0])
        matrix = shape if len(shape) == 2 else (*shape, 1)
        return initializer(key, matrix, dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class TanhAttention(DenseAttention):
    """Base class of the mechanisms with a hidden layer of tanh units.

    Attributes:
      units: number of hidden units, U. The default is `query_size`.
      kernel_init: the initialiser of the weight matrices, see `DenseAttention`.

    Raises:
      TypeError, ValueError: if `units` is not a positive integer; see also `DenseAttention`.

    Example:
      >>> from seqjax.attention import Additive
      >>> Additive(3, 4).units, Additive(3, 4, units=8).units
      (3, 8)
    """

    _: dataclasses.KW_ONLY
    units: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        units = self.query_size if self.units is None else self.units
        object.__setattr__(self, "units", checks.require_integer("units", units))

    @property
    def hidden(self) -> int:
        """The number of hidden units, U."""
        return checks.require_integer("units", self.units)
