"""Functions that find filler rows of a batch, test whether they change results, and remove them.

Filler rows are rows of zeros that `seqjax.data.batches` adds to fill up a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax import checks
from seqjax.training._dependence import dependences
from seqjax.types import PyTree

__all__ = ["Marks", "counts_filler", "find_marks", "has_filler", "real_rows", "without_filler"]


class Marks(NamedTuple):
    """The field "weights", which marks the filler rows of a batch or of a part of a batch.

    Attributes:
      values: the marks, bool [B], False in filler rows.
      place: the index of the marks among the leaves of the batch.
      rows: the indices of all leaves in the dict that contains the marks, including the marks.
    """

    values: Any
    place: int
    rows: tuple[int, ...]


def find_marks(batch: PyTree) -> list[Marks]:
    """Return the fields "weights" that mark filler rows. `seqjax.data.batches` adds such fields.

    Only one-dimensional arrays of booleans are marks. Float "weights", such as importance weights
    of examples, are ignored.

    Example:
      >>> batch = {"x": np.zeros((2, 3)), "weights": np.array([True, False])}
      >>> [marks] = find_marks(batch)
      >>> marks.place, marks.rows
      (0, (0, 1))
    """
    leaves, _ = jax.tree.flatten_with_path(batch)
    found: list[tuple[Any, ...]] = []
    result = []
    for index, (path, leaf) in enumerate(leaves):
        named = path and getattr(path[-1], "key", getattr(path[-1], "name", None)) == "weights"
        if not named or getattr(leaf, "dtype", None) != np.bool_ or np.ndim(leaf) != 1:
            continue
        prefix = path[:-1]
        if any(prefix[: len(outer)] == outer for outer in found):
            continue
        found.append(prefix)
        rows = (i for i, (p, _) in enumerate(leaves) if p[: len(prefix)] == prefix)
        result.append(Marks(leaf, index, tuple(rows)))
    return result


def has_filler(batch: PyTree) -> bool:
    """Return whether a batch on the host has filler rows. Arrays on devices are not read.

    Example:
      >>> has_filler({"weights": np.array([True, False])}), has_filler({"x": np.zeros(2)})
      (True, False)
    """
    return any(
        isinstance(marks.values, np.ndarray) and not marks.values.all()
        for marks in find_marks(batch)
    )


def real_rows(batch: PyTree) -> Any:
    """Return the filler marks that apply to all fields of a batch, or None if there are none."""
    whole = len(jax.tree.leaves(batch))
    return next((marks.values for marks in find_marks(batch) if len(marks.rows) == whole), None)


def counts_filler(
    function: Callable[..., PyTree], state: PyTree, batch: PyTree, *rest: Any
) -> PyTree:
    """Return, for each output of a function, whether it counts filler rows like real rows.

    An output counts filler rows if it depends on the rows of a batch but not on the marks that say
    which rows are filler rows.

    Args:
      function: `function(state, batch, *rest)`, which is traced once.
      state: the first argument of the function.
      batch: a batch with marks.
      *rest: further arguments of the function.

    Example:
      >>> def function(state, batch):
      ...     return {"all": batch["x"].sum(), "real": (batch["x"] * batch["weights"]).sum()}
      >>> counts_filler(function, None, {"x": np.ones(2), "weights": np.array([True, False])})
      {'all': True, 'real': False}
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(state, batch, *rest)
    before, within = len(jax.tree.leaves(state)), len(jax.tree.leaves(batch))
    inputs = len(program.jaxpr.invars)
    sources = [
        frozenset({index - before}) if before <= index < before + within else frozenset()
        for index in range(inputs)
    ]
    found = dependences(program, sources)
    marks = find_marks(batch)
    counted = [any(used & set(m.rows) and m.place not in used for m in marks) for used in found]
    return jax.tree.unflatten(jax.tree.structure(shapes), counted)


def without_filler(batch: PyTree) -> PyTree:
    """Return a batch without its filler rows, or the batch itself if it has no filler rows.

    Raises:
      ValueError: a field does not have one entry per row.

    Example:
      >>> without_filler({"x": np.arange(3), "weights": np.array([True, True, False])})
      {'weights': array([ True,  True]), 'x': array([0, 1])}
    """
    leaves, treedef = jax.tree.flatten_with_path(batch)
    values = [leaf for _, leaf in leaves]
    changed = False
    for marks in find_marks(batch):
        if not checks.is_readable(marks.values) or (keep := np.asarray(marks.values)).all():
            continue
        changed = True
        for index in marks.rows:
            if np.ndim(values[index]) == 0:
                continue
            if np.shape(values[index])[0] != len(keep):
                raise ValueError(
                    f"batch{jax.tree_util.keystr(leaves[index][0])}: expected {len(keep)} rows, as "
                    f"in its weights, got shape {np.shape(values[index])}"
                )
            values[index] = values[index][keep]
    return jax.tree.unflatten(treedef, values) if changed else batch
