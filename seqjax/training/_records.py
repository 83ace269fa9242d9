"""A function that makes the training record of an epoch, and reports skipped steps."""

import warnings

from seqjax.training._position import Position, Record

__all__ = ["epoch_record"]

_NOT_FINITE = "their loss, gradient or update was not finite"


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
