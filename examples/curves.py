"""Learning curves over several seeds: median and range, as a picture and as a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

__all__ = ["load", "plot", "save", "table"]


def save(
    path: Path, curves: Mapping[str, Sequence[float]], x: Sequence[float], **labels: Any
) -> None:
    """Write the curves of one run to a JSON file.

    Args:
      path: the file.
      curves: a dict from the name of each curve to its values at the points x.
      x: the positions of the points on the horizontal axis.
      **labels: all other arguments of `plot`.
    """
    record = {"curves": curves, "x": x, "labels": labels}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the arguments of `plot` for the files of several runs of one script.

    Args:
      paths: files that `save` wrote, one for each seed.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    first = records[0]
    curves = {name: [record["curves"][name] for record in records] for name in first["curves"]}
    return {"curves": curves, "x": first["x"], **first["labels"]}


def plot(
    curves: Mapping[str, Any],
    x: Sequence[float],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    top: float,
    levels: Mapping[str, float],
) -> Figure:
    """Plot the median over seeds, and the range as an area.

    Args:
      curves: a dict from the name of each curve to its values `[seeds, points]`.
      x: the positions of the points on the horizontal axis.
      title: the title.
      xlabel: the label of x.
      ylabel: the label of the values.
      top: the largest possible value.
      levels: a dict from names to values for comparison, which are drawn as horizontal lines.
    """
    axes = (figure := Figure(figsize=(6, 3.6), layout="constrained")).add_subplot()
    for (name, values), style in zip(curves.items(), ("-", "--", "-."), strict=False):
        (line,) = axes.plot(x, np.median(values, axis=0), style, label=name)
        if len(values) > 1:
            low, high = np.min(values, axis=0), np.max(values, axis=0)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    for name, level in levels.items():
        axes.axhline(level, color="black", linewidth=0.8, linestyle=":", label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.02 * top), title=title)
    axes.legend(frameon=False)
    return figure


def table(curves: Mapping[str, Any], x: Sequence[float], *, rows: int = 8, **labels: Any) -> str:
    """Return a table in Markdown: the median over seeds, and the range in parentheses.

    Args:
      curves: as for `plot`.
      x: as for `plot`.
      rows: number of points in the table, equally spaced; the last point is one of them.
      **labels: the labels as for `plot`, of which only `xlabel` is used.
    """
    chosen = np.linspace(0, len(x) - 1, min(rows + 1, len(x))).round().astype(int)[-rows:]
    lines = [f"| {labels['xlabel']} | {' | '.join(curves)} |", "|---" * (len(curves) + 1) + "|"]
    for index in chosen:
        cells = [_spread(np.asarray(values)[:, index]) for values in curves.values()]
        lines.append(f"| {x[index]:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.3g} ({values.min():.3g} to {values.max():.3g})"
