"""Choice of the best epoch, and early stopping."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from seqjax import checks

__all__ = ["Monitor"]

Mode = Literal["min", "max"]


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A metric of the history by which epochs are compared.

    Attributes:
      metric: its name in the history: "loss", or "eval_NAME" for each NAME of the dict that your
        `metric_fn` returns, such as "eval_loss".
      mode: "min" if less is better, "max" if more is.
      patience: the number of epochs without improvement after which training stops; None: never.

    Example:
      >>> monitor = Monitor("eval_loss", patience=2)
      >>> history = [{"eval_loss": loss} for loss in (3.0, 1.0, 2.0, float("nan"))]
      >>> monitor.best(history), monitor.stops(history[:3]), monitor.stops(history)
      (1, False, True)
    """

    metric: str
    mode: Mode = "min"
    patience: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str):
            raise TypeError(f"metric: expected a name, got {checks.brief(self.metric)}")
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode: expected one of {get_args(Mode)}, got {self.mode!r}")
        if self.patience is not None:
            checks.require_integer("patience", self.patience)

    def best(self, history: Sequence[Mapping[str, float]]) -> int | None:
        """Return the index of the best record, the first of equals; None if no value is finite.

        Args:
          history: records, each with the metric.

        Raises:
          ValueError: a record without the metric.
        """
        values = []
        for record in history:
            if self.metric not in record:
                raise ValueError(
                    f"monitor: expected one of {', '.join(record)}, got {self.metric!r}"
                )
            values.append(record[self.metric])
        sign = 1 if self.mode == "min" else -1
        finite = [
            (sign * value, index) for index, value in enumerate(values) if math.isfinite(value)
        ]
        return min(finite)[1] if finite else None

    def stops(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether none of the last `patience` epochs was better than those before.

        Args:
          history: as for `best`.
        """
        if self.patience is None:
            return False
        best = self.best(history)
        return len(history) - 1 - (-1 if best is None else best) >= self.patience
