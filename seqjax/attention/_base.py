"""The contract of attention: what a mechanism must say, and what follows from it.

A mechanism is a frozen dataclass, its configuration; its methods are pure functions. Attention over
a sentence is

    keys, values = project_keys(params, m), project_values(params, m)     once, in `precompute`
    a_t, state_t = align(params, q_t, memory, state_{t-1})                at every step, in `attend`
    c_t = Σ_s a_ts v_s

where `align` is the softmax of `scores` unless the mechanism says otherwise. Beside the legend of
`seqjax.types`, Q stands for the features of a query, M for those of the memory, U for hidden units.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from seqjax import checks, sequences
from seqjax.attention import _ops as attention_ops
from seqjax.cells import initializers, ops
from seqjax.cells._base import cast
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Shape

__all__ = ["Attended", "Attention", "DenseAttention", "Memory", "TanhAttention"]


class Memory(NamedTuple):
    """The memory that attention reads, prepared once a sentence by `Attention.precompute`.

    All arrays have the batch axes in front and the dtype of the memory they were made of.

    Attributes:
      keys: what scores are made of, an array `[..., S, K]` or a pytree of such.
      values: what contexts are made of; the memory `[..., S, M]` itself for all mechanisms but
        `MultiHead`. Zero at masked positions.
      mask: bool `[..., S]`, True at real positions.
    """

    keys: PyTree
    values: Array
    mask: Array


class Attended(NamedTuple):
    """The result of one step of attention.

    Attributes:
      context: `[..., M]` in the dtype of the memory.
      weights: `[..., S]` in float32, or float64 for a float64 memory; 0 at masked positions.
      state: for the next step.
    """

    context: Array
    weights: Array
    state: PyTree


@dataclasses.dataclass(frozen=True)
class Attention(abc.ABC):
    """Base of all mechanisms. Subclasses are frozen dataclasses: equal ones share one jit trace.

    To add a mechanism, write `init`, `project_keys` and `scores`; `initial_state` and `next_state`
    if it looks back; `align` if its weights are no softmax.

    The dtype of the memory decides: queries and parameters are cast to it, products accumulate in
    float32 or wider, and scores, weights and states stay so.

    Attributes:
      query_size: features of a query, Q.
      memory_size: features of a position of the memory, M.
      temperature: divides the scores.

    Raises:
      TypeError, ValueError: a size that is not a positive integer, a temperature that is not a
        positive number.

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
        temperature = checks.require_number("temperature", self.temperature)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature: expected a positive finite number, got {temperature}")
        object.__setattr__(self, "temperature", temperature)

    @abc.abstractmethod
    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Any:
        """Draws parameters.

        Args:
          key: a random key.
          dtype: of every parameter.

        Returns:
          A NamedTuple of arrays.
        """

    @abc.abstractmethod
    def project_keys(self, params: Any, memory: Array) -> PyTree:
        """Return the keys, from which scores are computed.

        Args:
          params: as from `init`, in the dtype of the memory.
          memory: `[..., S, M]`, zero at masked positions.

        Returns:
          `[..., S, K]`, or a pytree of such arrays; `precompute` rounds it to the memory's dtype.
        """

    def project_values(self, params: Any, memory: Array) -> Array:
        """Return the values, of which contexts are sums: the memory itself.

        Args:
          params: as from `init`, in the dtype of the memory.
          memory: `[..., S, M]`, zero at masked positions.
        """
        del params
        return memory

    @abc.abstractmethod
    def scores(self, params: Any, query: Array, memory: Memory, state: Any) -> Array:
        """Return how well each position fits the query, before the temperature.

        Args:
          params: as from `init`, in the dtype of the memory.
          query: `[..., Q]`.
          memory: as from `precompute`.
          state: in float32 or wider.

        Returns:
          `[..., S]` in float32 or wider; what stands at masked positions does not matter.
        """

    def initial_state(self, memory: Memory) -> Any:
        """The state before the first step; `()` for a mechanism that does not look back.

        Args:
          memory: as from `precompute`.

        Returns:
          A pytree of arrays with the batch axes of the memory in front.
        """
        del memory
        return ()

    def next_state(self, state: Any, weights: Array) -> Any:
        """The state after a step that gave these weights; the same one unless said otherwise."""
        del weights
        return state

    def align(self, params: Any, query: Array, memory: Memory, state: Any) -> tuple[Array, Any]:
        """Weights and the new state: the softmax of the scores over real positions.

        Args:
          params: as from `init`, in the dtype of the memory.
          query: `[..., Q]`.
          memory: as from `precompute`.
          state: in float32 or wider.

        Returns:
          The weights `[..., S]`, 0 at masked positions, and the state for the next step.
        """
        scores = self.scores(params, query, memory, state) / self.temperature
        weights = attention_ops.masked_softmax(scores, memory.mask)
        return weights, self.next_state(state, weights)

    def read(self, params: Any, weights: Array, memory: Memory) -> tuple[Array, Array]:
        """The context, and the weights to show: the weighted sum of the values, and the weights.

        Args:
          params: as from `init`, in the dtype of the memory.
          weights: as from `align`.
          memory: as from `precompute`.
        """
        del params
        return attention_ops.weighted_sum(weights, memory.values), weights

    def precompute(
        self,
        params: Any,
        memory: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Memory:
        """Prepares a memory, once a sentence: masks it and projects its keys.

        The memory is replaced by zeros at masked positions before anything is computed of it, so
        that NaN in padding reaches no output and no gradient.

        Args:
          params: as from `init`.
          memory: float `[..., S, M]`, such as the outputs of an encoder.
          lengths: int `[...]`, real positions of each sentence; or
          mask: bool `[..., S]` of any pattern, True at real positions. Without both, all are real.

        Returns:
          What `attend` and `initial_state` take.

        Raises:
          TypeError, ValueError: an argument of another dtype or shape.
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
        params = cast(params, clean.dtype)
        return Memory(
            keys=cast(self.project_keys(params, clean), clean.dtype),
            values=self.project_values(params, clean).astype(clean.dtype),
            mask=real,
        )

    def attend(self, params: Any, query: ArrayLike, memory: Memory, state: Any) -> Attended:
        """One step of attention.

        Args:
          params: as from `init`.
          query: float `[..., Q]`, such as the state of a decoder, with the memory's batch axes.
          memory: as from `precompute`.
          state: as from `initial_state`, or the `state` of the step before; it keeps its dtype.

        Returns:
          The context `[..., M]`, the weights `[..., S]` and the state for the next step. A row
          without real positions has weights 0 and context 0.

        Raises:
          TypeError, ValueError: an argument of another dtype or shape.
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
        context, shown = self.read(params, weights, memory)
        new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, state)
        return Attended(context.astype(dtype), shown, new_state)

    def _checked(self, query: Any, memory: Any, state: Any) -> tuple[Array, Any]:
        if not isinstance(memory, Memory):
            raise TypeError(
                f"memory: expected what precompute returned, got {checks.brief(memory)}"
            )
        query = checks.require_array("query", query, jnp.floating, "floating-point numbers")
        expected = (*memory.mask.shape[:-1], self.query_size)
        if query.shape != expected:
            raise ValueError(
                f"query: expected shape {expected}, the memory's batch axes and "
                f"query_size={self.query_size}, got {query.shape}"
            )
        like = jax.eval_shape(self.initial_state, memory)
        if jax.tree.map(np.shape, state) != jax.tree.map(np.shape, like):
            raise ValueError(
                f"state: expected {jax.tree.map(np.shape, like)}, as initial_state gives it, "
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
    """Base of the mechanisms that have weights: how these are drawn.

    Attributes:
      kernel_init: initialiser of the weights, a name of
        `seqjax.cells.initializers.INITIALIZERS` or a function `(key, shape, dtype)`.

    Raises:
      TypeError, ValueError: an unknown initialiser; see `Attention`.

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
        """Splits the key that `init` was given, after checking that it is one."""
        return jax.random.split(checks.require_key("key", key), number)

    def draw(self, key: PRNGKey, shape: Shape, dtype: Any) -> Array:
        """Draws a matrix `[in, out]`, or a vector `[in]` as the matrix `[in, 1]` it stands for."""
        dtype = checks.require_floating_dtype("dtype", dtype)
        initializer = initializers.resolve("kernel_init", self.kernel_init, shape[0])
        matrix = shape if len(shape) == 2 else (*shape, 1)
        return initializer(key, matrix, dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class TanhAttention(DenseAttention):
    """Base of the mechanisms with a hidden layer of tanh units.

    Attributes:
      units: hidden units, U; `query_size` if not given.
      kernel_init: see `DenseAttention`.

    Raises:
      TypeError, ValueError: `units` is not a positive integer; see `DenseAttention`.

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
        """U."""
        return checks.require_integer("units", self.units)
