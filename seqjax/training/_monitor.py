"""Selection of the best epoch, and early stopping."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from seqjax import checks

__all__ = ["Monitor"]

Mode = Literal["min", "max"]
SCORES = ("accuracy", "f1", "bleu")
"""If the name of a metric contains one of these texts, larger values are better by default."""


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A metric of the history by which epochs are compared.

    Attributes:
      metric: the name of the metric in the history: "loss", or "eval_NAME" for each NAME that your
        `metric_fn` returns. For example, use "eval_loss" if `metric_fn` returns {"loss": ...}.
      mode: "min" if smaller values are better, "max" if larger values are better. The default is
        "max" if the name of the metric contains "accuracy", "f1" or "bleu", and "min" otherwise.
      patience: the number of epochs without improvement after which training stops. If patience is
        None, training does not stop early.

    Example:
      >>> monitor = Monitor("eval_loss", patience=2)
      >>> history = [{"eval_loss": loss} for loss in (3.0, 1.0, 2.0, float("nan"))]
      >>> monitor.best(history), monitor.stops(history[:3]), monitor.stops(history)
      (1, False, True)
    """

    metric: str
    mode: Mode | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str):
            raise TypeError(f"metric: expected a name, got {checks.brief(self.metric)}")
        if self.mode is None:
            mode: Mode = "max" if any(name in self.metric.lower() for name in SCORES) else "min"
            object.__setattr__(self, "mode", mode)
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode: expected one of {get_args(Mode)}, got {self.mode!r}")
        if self.patience is not None:
            checks.require_integer("patience", self.patience)

    def best(self, history: Sequence[Mapping[str, float]]) -> int | None:
        """Return the index of the best record, or None if no value is finite.

        If several records are equally good, the first one is chosen.

        Args:
          history: records that contain the metric.

        Raises:
          ValueError: a record does not contain the metric.
        """
        values = []
        for record in history:
            if self.metric not in record:
                raise ValueError(
                    f"monitor: expected one of {', '.join(record)}, got {self.metric!r}; "
                    "eval_NAME needs a metric_fn that returns NAME"
                )
            values.append(record[self.metric])
        sign = 1 if self.mode == "min" else -1
        finite = [
            (sign * value, index) for index, value in enumerate(values) if math.isfinite(value)
        ]
        return min(finite)[1] if finite else None

    def stops(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether training should stop.

        Training should stop if none of the last `patience` epochs was the best.

        Args:
          history: records that contain the metric.
        """
        if self.patience is None:
            return False
        best = self.best(history)
        return len(history) - 1 - (-1 if best is None else best) >= self.patience
