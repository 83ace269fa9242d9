"""Learning curves and confusion matrices."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqjax import checks
from seqjax.viz._draw import legend, line, new_figure, plain, ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["confusion", "learning_curve"]

# Entries of a training history that are not learning curves.
NOT_CURVES = ("epoch", "step", "seconds", "grad_norm", "skipped")


def learning_curve(
    history: Sequence[Mapping[str, Any]], *, keys: str | Sequence[str] | None = None
) -> "Figure":
    """Plot metrics over epochs; the training and evaluation values of a metric share a panel.

    Args:
      history: records as returned by `seqjax.training.fit`, such as
        `{"epoch": 1, "loss": …, "eval_loss": …}`. Keys may be missing in a record. Records without
        "epoch" are numbered from 1.
      keys: the key or keys to draw. By default, all keys with numbers are drawn except epoch, step,
        seconds, grad_norm and skipped. Values that are not numbers are not drawn.

    Returns:
      A figure with one panel for each metric `name`. The panel also shows the metric `eval_name`.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if the history is empty, or has no numbers for a key.

    Example:
      >>> history = [
      ...     {"epoch": 1, "loss": 0.9, "eval_loss": 1.0, "eval_accuracy": 0.5},
      ...     {"epoch": 2, "loss": 0.4, "eval_loss": 0.6, "eval_accuracy": 0.8},
      ... ]
      >>> figure = learning_curve(history)
      >>> [axes.get_ylabel() for axes in figure.axes]
      ['loss', 'accuracy']
    """
    if not history:
        raise ValueError("history: expected at least one record, got none")
    numbers = [
        {key: number for key, value in record.items() if (number := _number(value)) is not None}
        for record in history
    ]
    known = list(dict.fromkeys(key for record in numbers for key in record))
    if isinstance(keys, str):
        keys = [keys]
    if keys is None:
        keys = [key for key in known if key not in NOT_CURVES]
    if not keys or not set(keys) <= set(known):
        raise ValueError(f"keys: expected some of {', '.join(known)}; got {list(keys)}")
    panels: dict[str, list[str]] = {}
    for key in keys:
        panels.setdefault(key.removeprefix("eval_"), []).append(key)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(width=4.5 * columns, height=3.2 * rows)
    for place, (metric, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        for key in curves:
            points = [
                (record.get("epoch", position), record[key])
                for position, record in enumerate(numbers, start=1)
                if key in record
            ]
            evaluated = key.startswith("eval_")
            label = "evaluation" if evaluated else "training"
            x, y = zip(*points, strict=True)
            line(axes, int(evaluated), x, y, label=label, marker="o", markersize=3)
        axes.set_xlabel("epoch")
        axes.set_ylabel(plain(metric))
        axes.locator_params(axis="x", integer=True)
        legend(axes)
    return figure


def _number(value: Any) -> float | None:
    """Return a number or an array without axes as a float, and None for anything else."""
    try:
        array = np.asarray(value)
        return float(array) if array.ndim == 0 and array.dtype.kind not in "US" else None
    except (TypeError, ValueError):
        return None


def confusion(right: Sequence[Any], found: Sequence[Any], *, most: int = 24) -> "Figure":
    """Plot a confusion matrix: for each true class, the percentage of each predicted class.

    Args:
      right: the true class of each example, texts or numbers in a sequence or an array.
      found: the predicted class of each example.
      most: the maximum number of classes to show. The classes with the most examples are shown.

    Returns:
      A figure with one panel, with true classes as rows and predicted classes as columns.

    Raises:
      ImportError: if matplotlib is not installed.
      TypeError: if `most` is not an integer.
      ValueError: if there are no examples, `right` and `found` differ in length, an array does not
        have the shape [N], or `most` is below 1.

    Example:
      >>> figure = confusion(["yes", "yes", "no"], ["yes", "no", "no"])
      >>> sorted(text.get_text() for text in figure.axes[0].texts)
      ['100', '50', '50']
    """
    right, found = _classes("right", right), _classes("found", found)
    checks.require_integer("most", most)
    if len(right) != len(found):
        raise ValueError(f"right, found: expected equal lengths, got {len(right)} and {len(found)}")
    if not right:
        raise ValueError("right, found: expected at least one example, got none")
    totals = collections.Counter(right)
    totals.update(dict.fromkeys(found, 0))
    shown = sorted((name for name, _ in totals.most_common(most)), key=_order)
    counts = collections.Counter(zip(right, found, strict=True))
    shares = np.array([[counts[a, b] / max(totals[a], 1) for b in shown] for a in shown])
    side = 0.36 * len(shown)
    figure = new_figure(width=2.2 + side, height=1.6 + side)
    axes = figure.add_subplot(
        xlabel="predicted class", ylabel="true class", title="Percentages of each row"
    )
    axes.imshow(
        np.sqrt(shares), cmap="Blues", vmin=0.0, vmax=1.0
    )  # the root makes small shares visible
    ticks(axes, "x", shown, inches=side)
    ticks(axes, "y", shown, inches=side)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            color = "white" if share > 0.4 else "black"
            text = f"{100 * share:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    return figure


def _classes(name: str, examples: Any) -> list[Any]:
    """Return classes as Python texts and numbers, which are hashable."""
    shape = np.shape(examples) if hasattr(examples, "shape") else (len(examples),)
    if len(shape) != 1:
        raise ValueError(f"{name}: expected [N], one class per example, got shape {shape}")
    values = np.asarray(examples) if hasattr(examples, "shape") else examples
    return [one.item() if hasattr(one, "item") else one for one in values]


def _order(name: Any) -> tuple[bool, float, str]:
    """Return a sort key that orders numbers by value, followed by texts."""
    number = isinstance(name, (int, float))
    return not number, name if number else 0.0, str(name)
