"""A session with slots for streams: each slot is a row of the state, which stays on the device.

A step runs all rows at once and updates the state of the streams that have an input. Therefore
streams can begin, pause and end without another compilation.
"""

import functools
import threading
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax._arguments import same_structure
from seqjax.cells.stepping import select
from seqjax.streaming._model import Step, check_step, columns_of, spec_of, steps_of
from seqjax.types import PyTree

__all__ = ["LONGEST", "Session"]

LONGEST = 256
"""The maximum number of steps that a program of `feed` runs, a power of two. Longer inputs are
split."""


class Session:
    """A session that runs many streams at once, step by step, and stores their states.

    Up to rounding, the outputs of a stream are those of `layer.step` on this stream alone, and
    those of the layer on the whole sequence. Other streams do not affect the outputs of a stream,
    even if these other streams contain NaN.

    The first call of `step` compiles a program, as does the first call after the capacity
    increases. All other calls reuse this program for any set of streams. If a call raises an error,
    for example in a callback of the model, no state changes. Therefore a step needs memory for two
    copies of the state.

    A session can be used from several threads; a lock serialises the calls. To run streams in
    parallel, pass them in one call.

    Args:
      model: a `seqjax.nn.Recurrent`, `Direction` or `ResidualBlock` in one direction; a module with
        `step(x_t, state) -> (output, state)` and `initial_state(batch_shape)`; or such a step
        function alone. x_t, the state and the outputs have a leading axis of streams, `[N, …]`. The
        model must compute each row of a batch independently of the other rows. A module that is not
        from seqjax must be in evaluation mode.
      capacity: number of slots for streams. If all slots are in use, `open` doubles the capacity
        and issues a warning, and the next step is compiled again.
      example: the input of one stream at one step, or `jax.ShapeDtypeStruct`s like it; required
        unless the model is a layer, a `Direction` or a block of `seqjax.nn`.
      initial_state: the state of one stream before its first step, without batch axes. The default
        is the initial state of the model with its weights at the time of `open` or `reset`. Its
        dtype is the dtype of the state in all steps, so use floats if the step returns floats.

    Raises:
      TypeError: if the model has no step, or the dtype of the initial state cannot represent the
        state that the step returns.
      ValueError: if the layer is bidirectional; if a required example or initial state is missing;
        or if an output or state of the step lacks the leading axis of streams.

    Example:
      >>> from flax import nnx
      >>> from seqjax import nn
      >>> session = Session(nn.GRU(3, 5, rngs=nnx.Rngs(0)), capacity=4)
      >>> ann, bob = session.open("ann"), session.open("bob")
      >>> outputs = session.step({"ann": np.ones(3), "bob": np.ones(3)})
      >>> outputs = session.step({"bob": np.ones(3)})  # ann's state does not change
      >>> sorted(outputs), outputs["bob"].shape
      (['bob'], (5,))
      >>> session.feed({"ann": np.ones([7, 3])})["ann"].shape
      (7, 5)
      >>> session.close("bob")[0].shape
      (5,)
      >>> session.streams
      ('ann',)
    """

    def __init__(
        self,
        model: Any,
        capacity: int = 16,
        *,
        example: PyTree | None = None,
        initial_state: PyTree | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._capacity = checks.require_integer("capacity", capacity)
        self._module, step, start, inputs = steps_of(model)
        if initial_state is not None:
            given = jax.tree.map(_state_array, initial_state)
            start = lambda _: given  # noqa: E731
        if start is None:
            raise ValueError(
                "initial_state: expected the state of one stream for this model, got None"
            )
        if inputs is None and example is None:
            raise ValueError("example: expected the input of one stream for this model, got None")
        self._inputs = inputs if example is None else spec_of(example)
        self._start = jax.jit(start)
        self._spec = jax.eval_shape(self._start, self._module)
        for count in (self._capacity, 2 * self._capacity):
            check_step(step, self._module, self._inputs, self._spec, count)
        self._state = self._rows(self._capacity)
        self._slots: dict[Hashable, int] = {}
        self._free = list(range(self._capacity))[::-1]
        self._number = 0
        self._step = jax.jit(functools.partial(_advance, step))
        self._chunk = jax.jit(functools.partial(_advance_chunk, step))

    @property
    def capacity(self) -> int:
        """The number of slots for streams."""
        return self._capacity

    @property
    def streams(self) -> tuple[Hashable, ...]:
        """The open streams, in the order in which they were opened."""
        with self._lock:
            return tuple(self._slots)

    def open(self, stream: Hashable = None, *, state: PyTree | None = None) -> Hashable:
        """Open a stream and return its name.

        Args:
          stream: the name of the stream; the default is an unused number.
          state: the state from which the stream continues, as returned by `close` or `state`. The
            default is the initial state.

        Returns:
          The name of the stream.

        Raises:
          TypeError: if the name is not hashable, or the numbers of the state are of another kind,
            such as floats instead of integers.
          ValueError: if a stream of this name is open, or the state has other shapes or values that
            its dtype cannot represent.
        """
        with self._lock:
            checks.require_hashable("stream", stream)
            while stream is None:
                stream = self._number if self._number not in self._slots else None
                self._number += 1
            if stream in self._slots:
                raise ValueError(f"stream: expected a name that is not open, got {stream!r}")
            row = self._start(self._module) if state is None else self._checked_state(state)
            if not self._free:
                self._grow()
            self._state = _put(self._state, row, self._free[-1])
            self._slots[stream] = self._free.pop()
            return stream

    def close(self, stream: Hashable) -> PyTree:
        """Close a stream and return its final state.

        Args:
          stream: the name of an open stream.

        Returns:
          The final state of the stream, without batch axes.

        Raises:
          TypeError: if the name is not hashable.
          ValueError: if the stream is not open.
        """
        with self._lock:
            state = self.state(stream)
            self._free.append(self._slots.pop(stream))
            return state

    def state(self, stream: Hashable) -> PyTree:
        """Return a copy of the state of an open stream, without batch axes."""
        with self._lock:
            return _take(self._state, self._slot(stream))

    def reset(self, stream: Hashable) -> None:
        """Set an open stream to the initial state for the present weights of the model."""
        with self._lock:
            slot = self._slot(stream)
            self._state = _put(self._state, self._start(self._module), slot)

    def step(self, inputs: Mapping[Any, PyTree]) -> dict[Any, PyTree]:
        """Run one step of each stream in `inputs`. The states of other streams do not change.

        Args:
          inputs: a dict from streams to inputs x_t, `[I]`.

        Returns:
          A dict from each stream in `inputs` to its output, a NumPy array `[O]`.

        Raises:
          TypeError, ValueError: if a stream is not open, or an input has another shape, numbers of
            another kind (such as floats instead of integers), or a number that its dtype cannot
            represent. If an error is raised, no state changes.
        """
        if not _checked_inputs(inputs):
            return {}
        with self._lock:
            slots = [self._slot(stream) for stream in inputs]
            columns = columns_of("x_t", inputs, self._inputs, steps=False)
            present = np.zeros(self._capacity, bool)
            present[slots] = True
            placed = self._zeros()
            for xs, column in zip(placed, columns, strict=True):
                xs[slots] = column
            outputs, state = self._run(self._step, self._state, placed, present)
            found = dict(zip(inputs, _picked(outputs, slots), strict=True))
            self._state = state  # done last, so that an error changes no state
            return found

    def feed(self, inputs: Mapping[Any, PyTree]) -> dict[Any, PyTree]:
        """Run several steps of each stream; the result is equal to repeated calls of `step`.

        Inputs are split into chunks of at most 256 steps, and each chunk is padded to a power of
        two. One program is compiled for each padded length.

        Args:
          inputs: a dict from streams to inputs `[t, I]`. The number of steps t may differ between
            streams, and may be 0.

        Returns:
          A dict from each stream in `inputs` to its outputs, a NumPy array `[t, O]`.

        Raises:
          TypeError, ValueError: as in `step`. If an error is raised, no state changes.
        """
        if not _checked_inputs(inputs):
            return {}
        with self._lock:
            slots = [self._slot(stream) for stream in inputs]
            columns = columns_of("xs", inputs, self._inputs, steps=True)
            lengths = np.zeros(self._capacity, np.int32)
            lengths[slots] = [len(xs) for xs in columns[0]]
            pieces, state = [], self._state
            for begin in range(0, max(lengths.max(), 1), LONGEST):
                counts = np.clip(lengths - begin, 0, LONGEST)
                placed = self._zeros(1 << int(max(counts.max() - 1, 0)).bit_length())
                for xs, column in zip(placed, columns, strict=True):
                    for slot, given in zip(slots, column, strict=True):
                        xs[slot, : counts[slot]] = given[begin : begin + LONGEST]
                outputs, state = self._run(self._chunk, state, placed, counts)
                pieces.append(outputs)
            whole = jax.tree.map(lambda *ys: np.concatenate(ys, axis=1), *pieces)
            found = {
                stream: jax.tree.map(lambda y: y[: lengths[slot]], ys)  # noqa: B023
                for stream, slot, ys in zip(inputs, slots, _picked(whole, slots), strict=True)
            }
            self._state = state  # done last, so that an error changes no state
            return found

    def _zeros(self, *lead: int) -> list[np.ndarray]:
        """Return zero inputs for all slots, one array per leaf."""
        specs = jax.tree.leaves(self._inputs)
        return [np.zeros((self._capacity, *lead, *spec.shape), spec.dtype) for spec in specs]

    def _run(
        self, program: Any, state: PyTree, placed: list[np.ndarray], real: np.ndarray
    ) -> tuple[PyTree, PyTree]:
        """Run a compiled program on all slots; return its outputs as NumPy arrays and the state."""
        xs = jax.tree.unflatten(jax.tree.structure(self._inputs), placed)
        outputs, state = program(self._module, state, xs, real)
        # An error of a program is raised when its results are awaited.
        return jax.device_get(outputs), jax.block_until_ready(state)

    def _slot(self, stream: Hashable) -> int:
        if checks.require_hashable("stream", stream) not in self._slots:
            raise ValueError(f"stream: expected an open stream, got {stream!r}")
        return self._slots[stream]

    def _rows(self, count: int) -> PyTree:
        """Return `count` rows of the initial state."""
        start = self._start(self._module)
        return jax.tree.map(lambda a: jnp.repeat(a[None], count, axis=0), start)

    def _grow(self) -> None:
        """Double the capacity and issue a warning."""
        old = self._capacity
        both = lambda a, b: jnp.concatenate([a, b])  # noqa: E731
        self._state = jax.tree.map(both, self._state, self._rows(old))
        self._capacity = 2 * old
        self._free = list(range(old, self._capacity))[::-1]
        warnings.warn(  # done last, since a filter may turn the warning into an error
            f"capacity: increased from {old} to {self._capacity} streams; the next step is "
            "compiled again",
            stacklevel=3,
        )

    def _checked_state(self, state: PyTree) -> PyTree:
        expected = jax.tree.map(jnp.shape, self._spec)
        if not same_structure(state, self._spec) or jax.tree.map(np.shape, state) != expected:
            raise ValueError(f"state: expected arrays of {expected}, got {checks.brief(state)}")

        def one(leaf: Any, like: Any) -> Any:
            checks.require_unmasked("state", leaf)
            if getattr(leaf, "dtype", None) == like.dtype:
                return leaf
            return checks.require_cast("state", np.asarray(leaf), like.dtype, f"{like.dtype}")

        return jax.tree.map(one, state, self._spec)


def _state_array(leaf: Any) -> jax.Array:
    """Return a leaf of an initial state as an array, after a check of its numbers."""
    array = checks.require_array("initial_state", leaf, jnp.generic, "arrays of numbers")
    if not isinstance(leaf, jax.Array):
        checks.require_fit("initial_state", np.asarray(leaf), array.dtype, "arrays of numbers")
    return array


def _checked_inputs(inputs: Any) -> Mapping[Any, PyTree]:
    if not isinstance(inputs, Mapping):
        raise TypeError(
            f"inputs: expected a dict from streams to inputs, got {checks.brief(inputs)}"
        )
    return inputs


def _picked(outputs: PyTree, slots: Sequence[int]) -> list[PyTree]:
    """Return copies of the outputs of some slots."""
    leaves, structure = jax.tree.flatten(outputs)
    if not leaves:  # None, or an empty dict
        return [outputs] * len(slots)
    columns = [leaf[np.asarray(slots)] for leaf in leaves]
    if jax.tree_util.treedef_is_leaf(structure):
        return list(columns[0])
    return [jax.tree.unflatten(structure, row) for row in zip(*columns, strict=True)]


def _advance(
    step: Step, module: Any, state: PyTree, xs: PyTree, present: Any
) -> tuple[PyTree, PyTree]:
    """Run one step of all rows. The state of a row changes only where `present` is True."""
    outputs, new = step(module, xs, state)
    new = jax.tree.map(lambda a, old: a.astype(old.dtype), new, state)
    return outputs, select(present, new, state)


def _advance_chunk(
    step: Step, module: Any, state: PyTree, xs: PyTree, lengths: Any
) -> tuple[PyTree, PyTree]:
    """Run T steps of rows `[N, T, …]`; the first `lengths[n]` steps change the state of row n."""

    def one(state: PyTree, per_step: Any) -> tuple[PyTree, PyTree]:
        t, x_t = per_step
        outputs, state = _advance(step, module, state, x_t, t < lengths)
        return state, outputs

    moved = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs)
    steps = jnp.arange(jax.tree.leaves(moved)[0].shape[0], dtype=jnp.int32)
    state, outputs = jax.lax.scan(one, state, (steps, moved))
    return jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1), outputs), state


@functools.partial(jax.jit, donate_argnums=0)
def _put(states: PyTree, state: PyTree, slot: Any) -> PyTree:
    """Return the states of all slots after replacing the state of one slot by `state`."""
    return jax.tree.map(lambda rows, row: rows.at[slot].set(row.astype(rows.dtype)), states, state)


@jax.jit
def _take(states: PyTree, slot: Any) -> PyTree:
    """Return a copy of the state of one slot."""
    return jax.tree.map(lambda rows: rows[slot], states)
