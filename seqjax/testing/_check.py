"""`check_cell`, which checks that a cell obeys all laws."""

from typing import Any

from seqjax import checks
from seqjax._arguments import check_cell as require_cell
from seqjax.cells._base import Cell
from seqjax.testing._laws import LAWS, gradients_are_slopes, shapes_hold
from seqjax.testing._sample import Sample, drawn
from seqjax.types import Shape

__all__ = ["CellError", "check_cell"]


class CellError(AssertionError):
    """The error of `check_cell` for a cell that breaks laws, with a line for each broken law.

    Example:
      >>> issubclass(CellError, AssertionError)
      True
    """


def check_cell(
    cell: Cell[Any, Any],
    *,
    params: Any = None,
    batch_shape: Shape = (2,),
    steps: int = 6,
    tolerance: float = 1e-4,
    finite_differences: bool = True,
    seed: int = 0,
) -> None:
    """Check that a cell obeys all laws.

    The laws are about masks, resets, dtypes, kernels and gradients. The check takes some seconds.
    The cell need not be in `CELLS`.

    Args:
      cell: the cell.
      params: the parameters of the cell. By default, they are random numbers in arrays of the
        shapes that `cell.init` returns.
      batch_shape: the sizes of the batch axes for the test.
      steps: the number of steps to run, at least 4.
      tolerance: the largest allowed difference in float32, relative to the largest value or to 1,
        whichever is greater. The laws about bfloat16 and about finite differences have other
        tolerances.
      finite_differences: whether to compare gradients with finite differences. Pass False if the
        cell has custom derivatives that are not the slopes of its values, such as surrogate
        gradients or `stop_gradient`.
      seed: the seed of the random parameters, inputs and states.

    Raises:
      CellError: the cell breaks laws. The message names each broken law and says how the cell
        breaks it.
      TypeError, ValueError: an argument has a wrong type or value.

    Example:
      >>> from seqjax.cells import GRU
      >>> check_cell(GRU(3, 5))
      >>> class Forgetful(GRU):
      ...     def update(self, p, gates, state):
      ...         return super().update(p, gates, state)[..., :1]
      >>> check_cell(Forgetful(3, 5))
      Traceback (most recent call last):
      seqjax.testing._check.CellError: Forgetful breaks ...
    """
    require_cell(cell)
    if checks.require_integer("steps", steps) < 4:
        raise ValueError(f"steps: expected 4 or more, got {steps}")
    if params is None:
        params = drawn(cell.param_specs(), seed, 0.4)
    sample = Sample(cell, params, tuple(batch_shape), steps, seed)
    failures = []
    checks.require_bool("finite_differences", finite_differences)
    for law in LAWS:
        if law is gradients_are_slopes and not finite_differences:
            continue
        try:
            found = law(sample, tolerance)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if found is not None:
            said = (law.__doc__ or "").strip().split("\n")[0]
            failures.append(f"- {said} {found}")
        if law is shapes_hold and failures:
            break  # the other laws cannot run with wrong shapes
    if failures:
        raise CellError(
            "\n".join([f"{type(cell).__name__} breaks {len(failures)} of the laws:", *failures])
        )
