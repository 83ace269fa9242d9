"""The record of an epoch's training, and the warning or error if steps were skipped."""

import warnings

from seqjax.training._position import Position, Record

__all__ = ["epoch_record"]

_NOT_FINITE = "their loss, gradient or update was not finite"


def epoch_record(epoch: int, position: Position, held: str) -> Record:
    """Return the record of an epoch's training; warn or raise if steps were skipped.

    Args:
      epoch: its index.
      position: the position of the run.
      held: a description of a batch whose step was skipped.
    """
    totals = position.totals
    if not totals.batches:
        used = "; an iterator is used up by the epochs before" if epoch else ""
        raise ValueError(f"train_batches: expected batches, got none in epoch {epoch}{used}")
    if totals.skipped:
        what = f"{totals.skipped} of {totals.batches} steps of epoch {epoch + 1}"
        hint = f"; one of their batches has {held}" if held else ""
        if totals.skipped == totals.batches:
            raise FloatingPointError(f"all {what}: {_NOT_FINITE}{hint}")
        warnings.warn(f"{what}: {_NOT_FINITE}, and changed nothing{hint}", stacklevel=3)
    values = totals.values()
    step, skipped = position.step, totals.skipped
    return {"epoch": epoch + 1, "step": step, "loss": values["loss"], **values, "skipped": skipped}
