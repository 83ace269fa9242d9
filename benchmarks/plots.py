"""Plots of results, with matplotlib and without a display."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.results import Row
from benchmarks.summary import BEST, geomeans, with_best
from benchmarks.tables import BASE, cases, contestants

__all__ = ["draw"]


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def ratios(rows: list[Row], path: Path) -> bool:
    """Draw a heat map: each peer's gradient time divided by that of seqjax in its best setting."""
    rows = [row for row in with_best(rows) if row.suite == "speed" and row.what == "gradient"]
    groups = {case: group for (case, _), group in cases(rows).items() if BEST in group}
    names = [name for name in contestants(rows) if not name.startswith(BASE)]
    if not groups or not names:
        return False
    values = np.full((len(groups), len(names)), np.nan)
    for row, group in enumerate(groups.values()):
        for column, name in enumerate(names):
            theirs = group[name].median_ms if name in group else None
            if theirs:
                values[row, column] = theirs / (group[BEST].median_ms or np.nan)
    figure, (axes,) = _figure(2.6 + 0.75 * len(names), 1.6 + 0.2 * len(groups))
    image = axes.imshow(np.log2(values), cmap="PuOr_r", vmin=-2, vmax=2, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="left", fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(groups)), list(groups), fontsize=7)
    bar = figure.colorbar(image, ax=axes, ticks=[-2, -1, 0, 1, 2])
    bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"])
    bar.set_label(f"gradient: time / time of {BEST}; above 1, seqjax is faster")
    _save(figure, path)
    return True


def means(rows: list[Row], path: Path) -> bool:
    """Draw bars of each peer's gradient time divided by seqjax's, for each cell and variant."""
    rows = [row for row in rows if row.suite == "speed" and row.what == "gradient"]
    names = [name for name in contestants(rows) if not name.startswith(BASE)]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        cell = row.cell.upper() if row.cell != "elman" else "Elman"
        groups.setdefault(f"{cell}, {row.variant}", []).append(row)
    found = {label: geomeans(group, BASE) for label, group in groups.items()}
    found = {label: ratios for label, ratios in found.items() if ratios}
    if not found:
        return False
    figure, (axes,) = _figure(7, 3)
    width = 0.8 / len(names)
    for column, name in enumerate(names):
        key = ("speed", "gradient", name)
        values = [ratios.get(key, (np.nan, 0))[0] for ratios in found.values()]
        axes.bar(np.arange(len(found)) + column * width, values, width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(np.arange(len(found)) + 0.4 - width / 2, list(found), fontsize=8)
    axes.tick_params(axis="x", rotation=25)
    axes.set_ylabel("time of a gradient / time of seqjax", fontsize=8)
    axes.legend(fontsize=8)
    _save(figure, path)
    return True


def _lines(axes: Any, rows: list[Row], size: int, value: Callable[[Row], float | None]) -> None:
    """Draw a line of values for each contestant; `size` is the index in the shape of the x axis."""
    for name in contestants(rows):
        points = [(row.shape[size], value(row)) for row in rows if row.contestant == name]
        kept = sorted((x, y) for x, y in points if y is not None)
        if kept:
            axes.plot(*zip(*kept, strict=True), marker="o", markersize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)


def scaling(rows: list[Row], path: Path) -> bool:
    """Draw the time of the gradient over the number of steps, batch size and hidden size."""
    rows = [row for row in rows if row.suite == "scaling"]
    sizes = {"steps": 1, "batch": 0, "hidden": 3}
    present = [variant for variant in sizes if any(row.variant == variant for row in rows)]
    if not present:
        return False
    figure, panels = _figure(4 * len(present), 3.4, len(present))
    for axes, variant in zip(panels, present, strict=True):
        of_variant = [row for row in rows if row.variant == variant and row.cell == rows[0].cell]
        _lines(axes, of_variant, sizes[variant], lambda row: row.median_ms)
        axes.set_xlabel(variant)
    panels[0].set_ylabel(f"{rows[0].cell} gradient, ms")
    panels[0].legend(fontsize="small")
    _save(figure, path)
    return True


def memory(rows: list[Row], path: Path) -> bool:
    """Draw the gradient's temporary memory over the number of steps."""
    rows = [row for row in rows if row.suite == "memory"]
    if not rows:
        return False
    # Use the width and batch of the first row: longer sequences may have smaller ones.
    first = rows[0]
    same = [row for row in rows if row.cell == first.cell and row.shape[::2] == first.shape[::2]]
    figure, (axes,) = _figure(6, 4)
    _lines(axes, same, 1, lambda row: row.temp_bytes / 1e6 if row.temp_bytes else None)
    axes.set_xlabel("steps")
    axes.set_ylabel("temporaries of the gradient, MB")
    axes.legend(fontsize="small")
    _save(figure, path)
    return True


def draw(rows: list[Row], folder: Path) -> dict[str, Path]:
    """Draw the plots for which there are rows.

    Returns:
      The files by suite.
    """
    plots = {"speed": ratios, "speed_means": means, "scaling": scaling, "memory": memory}
    found = {suite: folder / f"{suite}.png" for suite in plots}
    return {suite: found[suite] for suite, plot in plots.items() if plot(rows, found[suite])}
