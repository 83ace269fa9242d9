"""A compiled step that first checks the values of its batch that are on the host."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
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


# A step without its update, `outline(state, batch, *rest, watch=None)`; `watch` may change the
# module before it is used.
Outline: TypeAlias = Callable[..., Measured]


class GuardedStep:
    """A jitted step `step(state, batch, *rest) -> (state, metrics)`.

    Values that a compiled program cannot check are checked on the host:

    - integers must fit into 32 bits, to which JAX cuts them by default;
    - lengths that go into a layer must be between 0 and the number of steps (for arrays on devices,
      this is checked only when a shape is new; later, `nan_out_of_range` applies);
    - if a loss or metric does not depend on `batch["weights"]`, the filler rows would count, and
      are left out.

    Inside another transformation (`jax.jit`, `jax.vmap`) the values are not known, and the step
    does none of this.

    Args:
      step: the pure function.
      outline: the user's function alone, without the update, for analysis and diagnosis.
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
        """Check the batch, and run the compiled step on its real rows."""
        return self.run(state, as_arrays(batch), *rest)

    def run(
        self,
        state: TrainState,
        batch: Any,
        *rest: Any,
        host: Any = None,
        place: Callable[[Any], Any] | None = None,
    ) -> tuple[TrainState, Any]:
        """Run the step on a batch that is already on the devices, checked by its host copy.

        Args:
          state: the `TrainState`.
          batch: the batch, of arrays.
          *rest: further arguments of the step.
          host: the same batch on the host; `batch` if None.
          place: puts a batch onto the devices.
        """
        host = batch if host is None else host
        shape = _shape(host)
        first = shape not in self._ranges
        self._check_ranges(shape, host)
        real = self._real_rows(shape, state, host, *rest)
        if real is not host:
            batch = real if place is None else place(real)
        result: tuple[TrainState, Any] = self._compiled(state, batch, *rest)
        if first:  # tracing has found the ranges to check
            self._check_ranges(shape, host, everywhere=True)
        return result

    def explain(self, state: TrainState, batch: Any, *rest: Any, deeply: bool = False) -> str:
        """Raise the error of a check of the batch without compilation, or describe its fields."""

        def measured() -> PyTree:
            watch = diagnosis.watch_embeddings
            return self._outline(state, batch, *rest, watch=watch).values

        return diagnosis.explain(measured, batch, deeply=deeply)

    def _check_ranges(self, shape: _Shape, batch: Any, *, everywhere: bool = False) -> None:
        """Raises on a noted range that does not hold; of arrays on devices only if `everywhere`."""
        ranges = self._ranges.get(shape)
        if not ranges:
            return
        leaves, _ = jax.tree.flatten_with_path(batch)
        for place, noted in ranges:
            path, leaf = leaves[place]
            if everywhere or isinstance(leaf, np.ndarray):
                name = f"batch{jax.tree_util.keystr(path)}: {noted.name}"
                checks.require_range(name, leaf, noted.high)

    def _real_rows(self, shape: _Shape, state: TrainState, batch: Any, *rest: Any) -> Any:
        """Return the batch; without its filler rows if they would count."""
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
            real = filler.without_filler(batch)
            reason = None if real is batch else self._why_not(state, real, *rest)
        except ValueError as error:
            reason = str(error)
            hint += ", or keep a field that has not one entry a row out of the batch"
        if reason is None:
            return real
        if any(jax.tree.leaves(counts.values)):
            raise ValueError(
                f"{self._name}: expected a function that reads batch['weights'], for its batch has "
                f"rows of filler and cannot do without them ({reason}); {hint}"
            )
        return batch  # only the model's own state has these rows, and it has one entry a row

    def _why_not(self, state: TrainState, batch: Any, *rest: Any) -> str | None:
        """Return why the model cannot run on a batch of this shape; None if it can."""
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
    """Return values; all of floats are NaN if a field of the batch is outside its noted range.

    Values of arrays on devices are not read before a step, since the step would wait for them. NaN
    shows that a value is wrong, as for labels, and `GuardedStep.explain` names the value.

    Args:
      values: the loss and the metrics.
      noted: the ranges that were noted while the values were computed.
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
    """Return the noted ranges of fields of the batch, each with the index of its leaf."""
    places = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves(batch))}
    return [(places[found.identity], found) for found in noted if found.identity in places]


def _shape(batch: Any) -> _Shape:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple(np.shape(leaf) for leaf in leaves)
