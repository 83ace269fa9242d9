"""Selection of the best epoch, and early stopping."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from seqjax import checks

__all__ = ["Monitor"]

Mode = Literal["min", "max"]
_SCORES = {
    "acc", "accuracy", "auc", "auprc", "auroc", "bleu", "chrf", "dice", "f1", "iou", "mcc", "miou",
    "precision", "r2", "recall", "return", "reward", "rouge",
}  # fmt: skip
_ERRORS = {
    "bpc", "bpd", "cer", "cost", "crps", "distance", "error", "loss", "mae", "mape", "mase", "mse",
    "nats", "nll", "perplexity", "ppl", "rmse", "smape", "wer",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A metric of the history by which epochs are compared.

    Attributes:
      metric: the name of the metric in the history: "loss", or "eval_NAME" for each NAME that your
        `metric_fn` returns. For example, use "eval_loss" if `metric_fn` returns {"loss": ...}.
      mode: "min" if smaller values are better, "max" if larger values are better. If the name of
        the metric contains the name of a common score, such as `eval_accuracy`, `eval_macro_f1` or
        `eval_auc`, the default is "max". If it contains the name of a common error, such as `loss`,
        `eval_nll` or `eval_wer`, the default is "min". For other names, `mode` is required.
      patience: the number of epochs without improvement after which training stops. If patience is
        None, training does not stop early.

    Raises:
      TypeError, ValueError: an attribute is of the wrong type or out of its range, or mode is
        missing and the name of the metric does not determine it.

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
            object.__setattr__(self, "mode", _mode(self.metric))
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


def _mode(metric: str) -> Mode:
    """Return the mode of a metric whose name contains the name of a common score or error."""
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    score, error = bool(words & _SCORES), bool(words & _ERRORS)
    if score == error:
        raise ValueError(
            f"mode: expected 'min' or 'max' for the metric {metric!r}, got None; use 'min' if "
            "smaller values are better and 'max' if larger values are better"
        )
    return "max" if score else "min"
