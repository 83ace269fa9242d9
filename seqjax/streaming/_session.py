"""A session: room for so many streams, each a row of the state, which stays on the device.

A step runs all rows at once and keeps the new state of those streams that had an input, so that
streams come, go and pause without anything being compiled again.
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
from seqjax.streaming._model import Step, columns_of, spec_of, steps_of
from seqjax.types import PyTree

__all__ = ["LONGEST", "Session"]

LONGEST = 256
"""Steps of the longest chunk that `feed` compiles a program for, a power of two; longer ones go
in pieces."""


class Session:
    """Runs streams of inputs step by step, many at once, and keeps their states.

    A stream's outputs are, up to rounding, those of `layer.step` on it alone, and so those of the
    layer over the whole sequence. What other streams do changes nothing, NaN in them neither.

    The first `step`, and the first after a growth, compiles; later ones do not, whatever streams
    they are for. Buffers of the state are donated, so a step makes no second copy of it.

    A session may be used from several threads: a lock lets one call run at a time. What makes
    streams parallel is to pass them in one call.

    Args:
      model: a `seqjax.nn.Recurrent` or `Direction` in one direction; any module with
        `step(x_t, state) -> (output, state)` and `initial_state(batch_shape)`; or such a function
        alone. Rows of a batch must not depend on each other. Modules other than ours have to be in
        evaluation mode.
      capacity: streams there is room for. One more doubles it, which compiles the step anew and
        gives a warning.
      example: one stream's input at one step, or `jax.ShapeDtypeStruct`s like it; needed where
        the model is not one of ours.
      initial_state: one stream's state before its first step, without batch axes; if None the
        model's own, by its weights at the time of `open` and `reset`.

    Raises:
      TypeError: a model without a step.
      ValueError: a bidirectional layer; a missing example or initial state.

    Example:
      >>> from flax import nnx
      >>> from seqjax import nn
      >>> session = Session(nn.GRU(3, 5, rngs=nnx.Rngs(0)), capacity=4)
      >>> ann, bob = session.open("ann"), session.open("bob")
      >>> outputs = session.step({"ann": np.ones(3), "bob": np.ones(3)})
      >>> outputs = session.step({"bob": np.ones(3)})  # ann's state waits
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
            raise ValueError("initial_state: expected that of one stream for this model, got None")
        if inputs is None and example is None:
            raise ValueError("example: expected one stream's input for this model, got None")
        self._inputs = inputs if example is None else spec_of(example)
        self._start = jax.jit(start)
        self._spec = jax.eval_shape(self._start, self._module)
        self._state = self._rows(self._capacity)
        self._slots: dict[Hashable, int] = {}
        self._free = list(range(self._capacity))[::-1]
        self._number = 0
        self._step = jax.jit(functools.partial(_advance, step), donate_argnums=1)
        self._chunk = jax.jit(functools.partial(_advance_chunk, step), donate_argnums=1)

    @property
    def capacity(self) -> int:
        """Streams there is room for."""
        return self._capacity

    @property
    def streams(self) -> tuple[Hashable, ...]:
        """The open streams, in the order in which they were opened."""
        with self._lock:
            return tuple(self._slots)

    def open(self, stream: Hashable = None, *, state: PyTree | None = None) -> Hashable:
        """Begins a stream.

        Args:
          stream: what to call it; a number that is not taken if None.
          state: as from `close` or `state`, to go on from; the initial state if None.

        Returns:
          The stream's name.

        Raises:
          TypeError: a stream that is not hashable; a state of another kind of numbers.
          ValueError: an open stream; a state of other shapes, or with values that do not fit.
        """
        with self._lock:
            checks.require_hashable("stream", stream)
            while stream is None:
                stream = self._number if self._number not in self._slots else None
                self._number += 1
            if stream in self._slots:
                raise ValueError(f"stream: expected one that is not open, got {stream!r}")
            row = self._start(self._module) if state is None else self._checked_state(state)
            if not self._free:
                self._grow()
            self._slots[stream] = self._free.pop()
            self._state = _put(self._state, row, self._slots[stream])
            return stream

    def close(self, stream: Hashable) -> PyTree:
        """Ends a stream.

        Args:
          stream: an open one.

        Returns:
          Its final state, without batch axes.

        Raises:
          TypeError: a stream that is not hashable.
          ValueError: a stream that is not open.
        """
        with self._lock:
            state = self.state(stream)
            self._free.append(self._slots.pop(stream))
            return state

    def state(self, stream: Hashable) -> PyTree:
        """A copy of an open stream's state, without batch axes."""
        with self._lock:
            return _take(self._state, self._slot(stream))

    def reset(self, stream: Hashable) -> None:
        """Puts an open stream back to the initial state, that of the present weights."""
        with self._lock:
            slot = self._slot(stream)
            self._state = _put(self._state, self._start(self._module), slot)

    def step(self, inputs: Mapping[Any, PyTree]) -> dict[Any, PyTree]:
        """One step of those streams that are given an input; the others wait.

        Args:
          inputs: for each stream x_t, `[I]`.

        Returns:
          For each of them its output, NumPy arrays `[O]`.

        Raises:
          TypeError, ValueError: a stream that is not open; an input of another shape or kind, or
            with a number that its dtype cannot hold. Nothing has moved then.
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
            outputs = self._run(self._step, placed, present)
            return dict(zip(inputs, _picked(outputs, slots), strict=True))

    def feed(self, inputs: Mapping[Any, PyTree]) -> dict[Any, PyTree]:
        """Several steps at once, for each stream as many as it is given: what `step` would give.

        Compiled once for each power of two up to `LONGEST` steps, to which the chunks are padded.

        Args:
          inputs: for each stream `[t, I]`, t of its own, which may be 0.

        Returns:
          For each of them its outputs, NumPy arrays `[t, O]`.

        Raises:
          TypeError, ValueError: as for `step`; nothing has moved then.
        """
        if not _checked_inputs(inputs):
            return {}
        with self._lock:
            slots = [self._slot(stream) for stream in inputs]
            columns = columns_of("xs", inputs, self._inputs, steps=True)
            lengths = np.zeros(self._capacity, np.int32)
            lengths[slots] = [len(xs) for xs in columns[0]]
            pieces = []
            for begin in range(0, max(lengths.max(), 1), LONGEST):
                counts = np.clip(lengths - begin, 0, LONGEST)
                placed = self._zeros(1 << int(max(counts.max() - 1, 0)).bit_length())
                for xs, column in zip(placed, columns, strict=True):
                    for slot, given in zip(slots, column, strict=True):
                        xs[slot, : counts[slot]] = given[begin : begin + LONGEST]
                pieces.append(self._run(self._chunk, placed, counts))
            whole = jax.tree.map(lambda *ys: np.concatenate(ys, axis=1), *pieces)
            return {
                stream: jax.tree.map(lambda y: y[: lengths[slot]], ys)  # noqa: B023
                for stream, slot, ys in zip(inputs, slots, _picked(whole, slots), strict=True)
            }

    def _zeros(self, *lead: int) -> list[np.ndarray]:
        """Inputs of all slots, one array a leaf."""
        specs = jax.tree.leaves(self._inputs)
        return [np.zeros((self._capacity, *lead, *spec.shape), spec.dtype) for spec in specs]

    def _run(self, program: Any, placed: list[np.ndarray], real: np.ndarray) -> PyTree:
        """Runs a compiled program over all slots; its outputs as NumPy arrays."""
        xs = jax.tree.unflatten(jax.tree.structure(self._inputs), placed)
        outputs, self._state = program(self._module, self._state, xs, real)
        return jax.device_get(outputs)

    def _slot(self, stream: Hashable) -> int:
        if checks.require_hashable("stream", stream) not in self._slots:
            raise ValueError(f"stream: expected one that is open, got {stream!r}")
        return self._slots[stream]

    def _rows(self, count: int) -> PyTree:
        """The initial state in so many rows."""
        start = self._start(self._module)
        return jax.tree.map(lambda a: jnp.repeat(a[None], count, axis=0), start)

    def _grow(self) -> None:
        """Doubles the capacity."""
        old, self._capacity = self._capacity, 2 * self._capacity
        warnings.warn(
            f"capacity: made room for {self._capacity} streams instead of {old}; the next step "
            "compiles anew",
            stacklevel=3,
        )
        both = lambda a, b: jnp.concatenate([a, b])  # noqa: E731
        self._state = jax.tree.map(both, self._state, self._rows(old))
        self._free = list(range(old, self._capacity))[::-1]

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
    """A leaf of an initial state."""
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
    """The rows of some slots, arrays of their own."""
    leaves, structure = jax.tree.flatten(outputs)
    columns = [leaf[np.asarray(slots)] for leaf in leaves]
    if jax.tree_util.treedef_is_leaf(structure):
        return list(columns[0])
    return [jax.tree.unflatten(structure, row) for row in zip(*columns, strict=True)]


def _advance(
    step: Step, module: Any, state: PyTree, xs: PyTree, present: Any
) -> tuple[PyTree, PyTree]:
    """One step of all rows, of which those not present keep their state."""
    outputs, new = step(module, xs, state)
    new = jax.tree.map(lambda a, old: a.astype(old.dtype), new, state)
    return outputs, select(present, new, state)


def _advance_chunk(
    step: Step, module: Any, state: PyTree, xs: PyTree, lengths: Any
) -> tuple[PyTree, PyTree]:
    """Steps `[N, T, …]` of all rows, of each row as many as its length."""

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
    """All rows, that of a slot replaced."""
    return jax.tree.map(lambda rows, row: rows.at[slot].set(row.astype(rows.dtype)), states, state)


@jax.jit
def _take(states: PyTree, slot: Any) -> PyTree:
    """A copy of a slot's row."""
    return jax.tree.map(lambda rows: rows[slot], states)
