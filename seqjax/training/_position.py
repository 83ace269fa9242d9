"""The position of a training run, which a checkpoint stores in addition to arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

from seqjax.training._totals import Totals

__all__ = ["Position", "Record"]

Record: TypeAlias = dict[str, float]
"""The numbers of one epoch, by name."""


@dataclasses.dataclass
class Position:
    """The finished epochs of a run, and the progress of the current epoch.

    Attributes:
      history: one record for each finished epoch.
      totals: the metrics of the current epoch's batches, and the number of these batches.
      seconds: the training time of the current epoch so far.
      ended_at: the number of steps after which an earlier process ended because of `steps=`,
        possibly in the middle of an epoch; None if it did not end for this reason, or if it ended
        with the last batch of an epoch.

    Example:
      >>> position = Position([{"epoch": 1, "step": 9}])
      >>> position.epoch, position.step, Position.from_record(position.record()).epoch
      (1, 9, 1)
    """

    history: list[Record] = dataclasses.field(default_factory=list)
    totals: Totals = dataclasses.field(default_factory=Totals)
    seconds: float = 0.0
    ended_at: int | None = None

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return len(self.history)

    @property
    def step(self) -> int:
        """The number of steps done in all epochs."""
        return self.totals.batches + (int(self.history[-1]["step"]) if self.history else 0)

    def end_epoch(self, record: Record) -> None:
        """Add the record of the current epoch, and go to the beginning of the next one."""
        self.history.append(record)
        self.totals, self.seconds = Totals(), 0.0

    def record(self) -> dict[str, Any]:
        """Return the position, without `ended_at`, as values that JSON represents without loss."""
        totals = self.totals.record()
        return {"history": self.history, "totals": totals, "seconds": self.seconds}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Position":
        """Return the position that the result of `record` describes."""
        totals = Totals.from_record(record["totals"])
        ended_at = record.get("ended_at")
        return cls(list(record["history"]), totals, record["seconds"], ended_at)
