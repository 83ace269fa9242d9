"""Heat maps of what a network holds at each step: states, gates, attention."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from seqjax.viz._draw import (
    MOST_WIDTH,
    check_labels,
    entitle,
    heat_map,
    new_figure,
    over_time,
    plain,
    real_steps,
    ticks,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attention", "gates", "hidden_states"]


def hidden_states(
    outputs: ArrayLike,
    *,
    length: int | None = None,
    title: str | None = None,
    step_labels: Sequence[Any] | None = None,
) -> "Figure":
    """The hidden states of one sequence as a heat map, units down and time across.

    The scale is symmetric around zero, which is white.

    Args:
      outputs: float [T, H], what a recurrent layer put out for one sequence.
      length: how many steps are real; the others are not drawn. None: all.
      title: what to write above.
      step_labels: a text for each drawn step, such as its token.

    Returns:
      A figure with one panel and a colour bar.

    Raises:
      ImportError: matplotlib is missing.
      ValueError: outputs is not [T, H] or empty, length is not in [1, T], or the number of labels
        is not that of the drawn steps.

    Example:
      >>> figure = hidden_states(np.tanh(np.arange(12.0).reshape(4, 3) - 6), length=2)
      >>> figure.axes[0].images[0].get_array().shape
      (3, 2)
    """
    values = real_steps("outputs", outputs, length, "[T, H]").T
    steps = values.shape[1]
    check_labels(step_labels, steps)
    bound = np.abs(values[np.isfinite(values)]).max(initial=0.0) or 1.0
    width = _width(steps)
    figure = new_figure(width=width, height=3.6)
    axes = figure.add_subplot()
    image = heat_map(axes, values, cmap="RdBu_r", vmin=-bound, vmax=bound)
    figure.colorbar(image, ax=axes, label="$h_t$")
    axes.set_ylabel("unit")
    axes.locator_params(axis="y", integer=True)
    over_time(axes, step_labels, inches=width - 1.5)
    entitle(figure, title, above=axes)
    return figure


def gates(
    values: Mapping[str, ArrayLike],
    *,
    length: int | None = None,
    title: str | None = None,
    step_labels: Sequence[Any] | None = None,
) -> "Figure":
    """The gates of one sequence over time, a heat map a gate: units down and time across.

    Gates that are never negative are drawn from 0, shut, to 1, open; candidates such as an LSTM's
    g or a GRU's n symmetrically around zero, which is white.

    Args:
      values: for each gate float [T, H], one layer and one sequence of what `seqjax.traces.gates`
        gives.
      length: how many steps are real; the others are not drawn. None: all.
      title: what to write above.
      step_labels: a text for each drawn step, such as its token.

    Returns:
      A figure with a panel and a colour bar for each gate.

    Raises:
      ImportError: matplotlib is missing.
      ValueError: no gates, gates that are not [T, H] or of different shapes, length not in [1, T],
        or the number of labels is not that of the drawn steps.

    Example:
      >>> figure = gates({"r": np.full([4, 3], 0.5), "n": np.full([4, 3], -0.5)}, length=2)
      >>> [axes.get_ylabel() for axes in figure.axes[:2]]
      ['unit of $r_t$', 'unit of $n_t$']
    """
    if not values:
        raise ValueError("values: expected at least one gate, got none")
    panels = {
        name: real_steps(f"values[{name!r}]", value, length, "[T, H]").T
        for name, value in values.items()
    }
    shapes = {name: panel.shape[::-1] for name, panel in panels.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"values: expected equal shapes [T, H], got {shapes}")
    steps = next(iter(panels.values())).shape[1]
    check_labels(step_labels, steps)
    width = _width(steps)
    figure = new_figure(width=width, height=0.8 + 1.7 * len(panels))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
        finite = panel[np.isfinite(panel)]
        gate = finite.min(initial=0.0) >= 0
        bound = max(1.0, np.abs(finite).max(initial=0.0))
        colours, lowest = ("Blues", 0.0) if gate else ("RdBu_r", -bound)
        image = heat_map(axes, panel, cmap=colours, vmin=lowest, vmax=bound)
        figure.colorbar(image, ax=axes, label=_symbol(name))
        axes.set_ylabel(f"unit of {_symbol(name)}")
        axes.locator_params(axis="y", integer=True)
    over_time(all_axes[-1], step_labels, inches=width - 1.5)
    entitle(figure, title)
    return figure


def attention(
    weights: ArrayLike,
    source: Sequence[Any],
    target: Sequence[Any],
    *,
    title: str | None = None,
) -> "Figure":
    """Attention weights as a heat map: target tokens down, source tokens across.

    Args:
      weights: float [T, S], for each target token its weights over the source.
      source: the S source tokens, or their ids; a string is its characters.
      target: the T target tokens.
      title: what to write above.

    Returns:
      A figure with one panel and a colour bar, dark where the weight is large. Of more than 400
      tokens, neighbours are drawn as one, with the largest of their weights. Characters that no
      installed font has are drawn as boxes, and matplotlib warns of them.

    Raises:
      ImportError: matplotlib is missing.
      ValueError: weights that are not [T, S] for these tokens, or are empty.

    Example:
      >>> figure = attention(np.eye(3), "cat", ["K", "AE", "T"])
      >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
      ['K', 'AE', 'T']
    """
    values = np.asarray(weights, np.float64)
    if values.shape != (len(target), len(source)) or not values.size:
        raise ValueError(
            f"weights: expected a non-empty [{len(target)}, {len(source)}] for these tokens, "
            f"got shape {values.shape}"
        )
    across, down = 0.42 * len(source), 0.32 * len(target)
    large = across > MOST_WIDTH or down > MOST_WIDTH
    across, down = min(across, MOST_WIDTH), min(down, MOST_WIDTH)
    figure = new_figure(width=2.2 + across, height=1.4 + down)
    axes = figure.add_subplot(xlabel="source", ylabel="target")
    top = np.max(values[np.isfinite(values)], initial=1.0)
    rows, columns = values.shape
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    scale: dict[str, Any] = {"cmap": "Blues", "vmin": 0.0, "vmax": top, "extent": extent}
    aspect = "auto" if large else "equal"
    image = heat_map(axes, _pooled(values), aspect=aspect, **scale)
    figure.colorbar(image, ax=axes, label="weight")
    ticks(axes, "x", source, inches=across)
    ticks(axes, "y", target, inches=down)
    entitle(figure, title, above=axes)
    return figure


def _pooled(values: np.ndarray, most: int = 400) -> np.ndarray:
    """At most so many rows and columns: maxima of blocks, as means would hide an alignment."""
    for axis, size in enumerate(values.shape):
        starts = np.arange(0, size, -(-size // most))
        values = np.maximum.reduceat(values, starts, axis=axis)
    return values


def _symbol(gate: str) -> str:
    return f"${gate}_t$" if len(gate) == 1 and gate.isalpha() else plain(gate)


def _width(steps: int) -> float:
    """Inches for so many steps side by side."""
    return min(MOST_WIDTH, max(5.5, 0.17 * steps + 1.5))
