"""A compiled step that checks the values of its batch before it runs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks, sharding
from seqjax._noted import Noted, noting_ranges
from seqjax.training import _diagnosis as diagnosis
from seqjax.training import _filler as filler
from seqjax.training._batch import as_arrays
from seqjax.training._state import TrainState
from seqjax.types import PyTree

__all__ = ["GuardedStep", "Measured", "Outline", "nan_out_of_range"]

_Shape: TypeAlias = tuple[Any, tuple[tuple[int, ...], ...]]


class Measured(NamedTuple):
    """The result of a loss or metric function for a batch.

    Attributes:
      values: the loss and the metrics.
      model_state: the state of the model after the call.
    """

    values: PyTree
    model_state: PyTree


# A function `outline(state, batch, *rest, watch=None)` that calls the loss or metric function of a
# step. If `watch` is given, it is called with the module before the module is used.
Outline: TypeAlias = Callable[..., Measured]


class GuardedStep:
    """A jitted step `step(state, batch, *rest) -> (state, metrics)`.

    A compiled program cannot check values, so the step examines the batch on the host:

    - Integers must fit into 32 bits, since JAX truncates them to 32 bits by default.
    - The lengths that a layer gets must be between 0 and the number of time steps. Lengths on a
      device are only checked when the shape of the batch is new. In later batches, wrong lengths
      make the results NaN (see `nan_out_of_range`).
    - If a loss or metric does not depend on `batch["weights"]`, the step leaves out the filler rows
      (rows of zeros that fill up a batch), because these would change the loss or metric.

    Inside another transformation (`jax.jit`, `jax.vmap`), values are not known, so the step neither
    checks values nor leaves out filler rows.

    Args:
      step: the pure function.
      outline: a function for analysis and diagnosis, which computes the loss and metrics like the
        step, but does not update the parameters.
      name: the name of the user's function, for messages.
      donate: whether the step may overwrite the arrays of its state.
    """

    def __init__(
        self, step: Callable[..., Any], outline: Outline, name: str, *, donate: bool = False
    ) -> None:
        self._outline, self._name = outline, name
        self._ranges: dict[_Shape, list[tuple[int, Noted]]] = {}
        self._counts: dict[_Shape, Measured] = {}
        self._cut: dict[_Shape, str | None] = {}

        @functools.wraps(step)
        def noting(state: TrainState, batch: Any, *rest: Any) -> Any:
            with noting_ranges() as noted:
                result = step(state, batch, *rest)
            self._ranges[_shape(batch)] = _places(noted, batch)
            return result

        self._compiled = jax.jit(noting, donate_argnums=0 if donate else None)
        functools.update_wrapper(self, step)

    def __call__(self, state: TrainState, batch: Any, *rest: Any) -> tuple[TrainState, Any]:
        """Check the batch, leave out filler rows if needed, and run the compiled step."""
        return self.run(state, as_arrays(batch), *rest)

    def run(
        self,
        state: TrainState,
        batch: Any,
        *rest: Any,
        host: Any = None,
        place: Callable[[Any], Any] | None = None,
    ) -> tuple[TrainState, Any]:
        """Check the copy of a batch on the host, then run the step on the batch.

        Args:
          state: the `TrainState`.
          batch: the batch, a pytree of arrays that may be on devices.
          *rest: further arguments of the step.
          host: the same batch on the host. If None, `batch` is checked.
          place: a function that puts a batch onto the devices.
        """
        host = batch if host is None else host
        shape = _shape(host)
        first = shape not in self._ranges
        self._check_ranges(shape, host)
        real = self._real_rows(shape, state, host, batch, *rest)
        if real is not host:
            batch = real if place is None else place(real)
        result: tuple[TrainState, Any] = self._compiled(state, batch, *rest)
        if first:  # the ranges to check are known only now, after tracing
            self._check_ranges(shape, host, everywhere=True)
        return result

    def explain(self, state: TrainState, batch: Any, *rest: Any, deeply: bool = False) -> str:
        """Run the user's function without compilation, so that its checks can raise.

        Return a description of the batch if no check raises.
        """
        if jax.process_count() > 1:  # each process examines its own rows at its own time
            state, batch, rest = sharding.to_one_device((state, batch, rest))

        def measured() -> PyTree:
            watch = diagnosis.watch_embeddings
            return self._outline(state, batch, *rest, watch=watch).values

        return diagnosis.explain(measured, batch, deeply=deeply)

    def _check_ranges(self, shape: _Shape, batch: Any, *, everywhere: bool = False) -> None:
        """Raise an error if a value of the batch is outside the range recorded for its argument.

        Arrays on devices are only checked if `everywhere` is True.
        """
        ranges = self._ranges.get(shape)
        if not ranges:
            return
        leaves, _ = jax.tree.flatten_with_path(batch)
        for place, noted in ranges:
            path, leaf = leaves[place]
            if everywhere or isinstance(leaf, np.ndarray):
                name = f"batch{jax.tree_util.keystr(path)}: {noted.name}"
                checks.require_range(name, leaf, noted.high)

    def _real_rows(
        self, shape: _Shape, state: TrainState, batch: Any, there: Any, *rest: Any
    ) -> Any:
        """Return the batch, without its filler rows if these rows would change results.

        `there` is the batch on the devices. If the devices belong to several processes, the rows
        are gathered from them, since a process may have read only its own rows.
        """
        marks = [found.values for found in filler.find_marks(batch)]
        on_host = all(isinstance(values, np.ndarray) for values in marks)
        if checks.is_traced(marks) or (on_host and all(values.all() for values in marks)):
            return batch
        if shape not in self._counts:
            self._counts[shape] = filler.counts_filler(self._outline, state, batch, *rest)
        counts = self._counts[shape]
        if not any(jax.tree.leaves(counts)):
            return batch
        hint = "pass mask=batch['weights'] to losses and metrics"
        try:
            if jax.process_count() > 1:
                batch = jax.tree.map(sharding.whole, batch, there)
            real = filler.without_filler(batch)
            reason = None if real is batch else self._why_not(state, real, *rest)
        except ValueError as error:
            reason = str(error)
            hint += ", or remove fields that do not have one entry per row from the batch"
        if reason is None:
            return real
        if any(jax.tree.leaves(counts.values)):
            raise ValueError(
                f"{self._name}: expected a function that depends on batch['weights'], since the "
                f"batch has filler rows that cannot be left out ({reason}); {hint}"
            )
        return batch  # only the model's state, with one entry per row, depends on the filler rows

    def _why_not(self, state: TrainState, batch: Any, *rest: Any) -> str | None:
        """Return the reason why the model cannot run on a batch of this shape, or None."""
        shape = _shape(batch)
        if shape not in self._cut:
            try:
                found = jax.eval_shape(self._outline, state, batch, *rest).model_state
                same = jax.tree.map(np.shape, found) == jax.tree.map(np.shape, state.model_state)
                self._cut[shape] = None if same else "the shape of the model's state would change"
            except (TypeError, ValueError) as error:
                self._cut[shape] = str(error).splitlines()[0]
        return self._cut[shape]


def nan_out_of_range(values: PyTree, noted: list[Noted], batch: Any) -> PyTree:
    """Replace all floats by NaN if a field of the batch is outside its recorded range.

    If the host read arrays of a device before each step, it would have to wait for the device.
    Instead, NaN in the results shows that a value is wrong, as for labels out of range.
    `GuardedStep.explain` then finds the value.

    Args:
      values: the loss and the metrics.
      noted: the ranges that were recorded while the values were computed.
      batch: the traced batch.
    """
    leaves = jax.tree.leaves(batch)
    ranges = [(leaves[place], found.high) for place, found in _places(noted, batch)]
    if not ranges:
        return values
    good = jnp.stack([jnp.all((leaf >= 0) & (leaf <= high)) for leaf, high in ranges]).all()

    def one(value: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
        return jnp.where(good, value, jnp.nan) if floating else value

    return jax.tree.map(one, values)


def _places(noted: list[Noted], batch: Any) -> list[tuple[int, Noted]]:
    """Return pairs (index, range) for the leaves of a batch that have a recorded range."""
    places = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves(batch))}
    return [(places[found.identity], found) for found in noted if found.identity in places]


def _shape(batch: Any) -> _Shape:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple(np.shape(leaf) for leaf in leaves)
