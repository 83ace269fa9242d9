"""Heat maps of the hidden states, gates and attention weights at each step."""

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
    """Plot the hidden states of one sequence as a heat map; rows are units, columns are steps.

    The colour scale is symmetric around zero, which is white.

    Args:
      outputs: float [T, H], the outputs of a recurrent layer for one sequence.
      length: the number of steps before the padding. Only these steps are drawn. The default is T.
      title: the title of the figure.
      step_labels: a text for each drawn step, such as its token.

    Returns:
      A figure with one panel and a colour bar.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if the outputs are empty or not of the shape [T, H], the length is not in [1, T],
        or there is not one label for each drawn step.

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
    """Plot the gates of one sequence, one heat map per gate; rows are units, columns are steps.

    The colour scale of a gate without negative values ranges from 0 (closed) to 1 (open), or to the
    largest value if that is above 1. The colour scale of candidates, such as g of an LSTM or n of a
    GRU, is symmetric around zero, which is white.

    Args:
      values: a dict from the names of gates to their values, float [T, H], for one layer and one
        sequence, as from `seqjax.traces.gates`.
      length: the number of steps before the padding. Only these steps are drawn. The default is T.
      title: the title of the figure.
      step_labels: a text for each drawn step, such as its token.

    Returns:
      A figure with a panel and a colour bar for each gate.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there are no gates, the gates do not share one shape [T, H], the length is not
        in [1, T], or there is not one label for each drawn step.

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
    """Plot attention weights as a heat map; rows are target tokens, columns are source tokens.

    Args:
      weights: float [T, S], the weights over the source for each target token.
      source: the S source tokens or their ids. The tokens of a string are its characters.
      target: the T target tokens.
      title: the title of the figure.

    Returns:
      A figure with one panel, in which large weights are dark, and a colour bar. If there are more
      than 400 tokens, adjacent tokens share a cell of the heat map, and the cell shows their
      largest weight. A character that no installed font has is drawn as a box, and matplotlib
      issues a warning.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if the weights are empty, or T and S are not the numbers of tokens.

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
    """Reduce a matrix to `most` rows and columns by maxima, since means would hide an alignment."""
    for axis, size in enumerate(values.shape):
        starts = np.arange(0, size, -(-size // most))
        values = np.maximum.reduceat(values, starts, axis=axis)
    return values


def _symbol(gate: str) -> str:
    return f"${gate}_t$" if len(gate) == 1 and gate.isalpha() else plain(gate)


def _width(steps: int) -> float:
    """Return the width in inches of a figure with this number of steps."""
    return min(MOST_WIDTH, max(5.5, 0.17 * steps + 1.5))
