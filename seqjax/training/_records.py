"""Functions that make the record of an epoch, report skipped steps, and call `on_epoch_end`."""

import json
import warnings
from collections.abc import Callable

import jax
import numpy as np

from seqjax import checks
from seqjax.training._position import Position, Record
from seqjax.training._state import TrainState

__all__ = ["call_on_epoch_end", "epoch_record"]

_NOT_FINITE = "their loss, gradient, update or optimiser state was not finite"


def epoch_record(epoch: int, position: Position, held: str) -> Record:
    """Return the training record of an epoch, and warn or raise if steps were skipped.

    Args:
      epoch: the index of the epoch.
      position: the metrics of the epoch so far, and the records of earlier epochs.
      held: a description of a batch whose step was skipped, or "" if no step was skipped.
    """
    totals = position.totals
    if not totals.batches:
        used = "; an iterator can be read in one epoch only" if epoch else ""
        raise ValueError(f"train_batches: expected batches, got none in epoch {epoch}{used}")
    if totals.skipped:
        what = f"{totals.skipped} of {totals.batches} steps of epoch {epoch + 1}"
        hint = f"; one of their batches has {held}" if held else ""
        if totals.skipped == totals.batches:
            raise FloatingPointError(f"all {what} were skipped: {_NOT_FINITE}{hint}")
        warnings.warn(f"{what} were skipped: {_NOT_FINITE}{hint}", stacklevel=3)
    values = totals.values()
    step, skipped = position.step, totals.skipped
    return {"epoch": epoch + 1, "step": step, "loss": values["loss"], **values, "skipped": skipped}


def call_on_epoch_end(
    function: Callable[[Record, TrainState], object], record: Record, state: TrainState
) -> None:
    """Call `on_epoch_end`, which may add values to the record.

    Scalars of NumPy and JAX become numbers of Python, so that checkpoints can store the record.

    Raises:
      TypeError: JSON cannot represent a value of the record.
      ValueError: the function has removed a value.
    """
    names = list(record)
    function(record, state)
    for name in names:
        if name not in record:
            raise ValueError(f"on_epoch_end: expected a record that still has {name!r}, got none")
    for name, value in record.items():
        if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0:
            record[name] = value = value.item()
        try:
            json.dumps({name: value})
        except (TypeError, ValueError):
            raise TypeError(
                f"on_epoch_end: expected values in the record that JSON can represent, got "
                f"{checks.brief(value)} for {name!r}"
            ) from None
