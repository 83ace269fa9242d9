"""Plots of fixed points and of Lyapunov exponents."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from seqjax.viz._draw import COLORS, MOST_LINES, entitle, legend, line, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fixed_points", "lyapunov_exponents"]


def fixed_points(
    points: ArrayLike,
    stable: ArrayLike,
    *,
    states: ArrayLike | None = None,
    title: str | None = None,
) -> "Figure":
    """Plot fixed points and visited states in the plane of their principal components.

    The principal components are those of the visited states or, without them, of the points. Stable
    points are filled blue circles, and unstable points are orange crosses. Grey lines are the
    visited states.

    Args:
      points: float [P, H], the points: one array of the states `points` that
        `seqjax.traces.fixed_points` returns.
      stable: bool [P], whether each point is stable.
      states: float [..., T, H], the states that a network visits at successive steps.
      title: the title of the figure.

    Returns:
      A figure with two panels: the second component over the first, and the third over the first.
      If H is 2 or less, there is one panel.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there is neither a point nor a state, shapes do not fit, or values are complex
        or not finite.

    References:
      Sussillo, Barak (2013), Opening the black box: low-dimensional dynamics in high-dimensional
      recurrent neural networks.

    Example:
      >>> points = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
      >>> figure = fixed_points(points, [True, False, True])
      >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
      ['stable (2)', 'unstable (1)']
    """
    places = _finite("points", points)
    if places.ndim != 2 or not places.shape[1]:
        raise ValueError(f"points: expected [P, H], got shape {places.shape}")
    is_stable = np.asarray(stable)
    if is_stable.dtype != bool or is_stable.shape != places.shape[:1]:
        raise ValueError(
            f"stable: expected bool [{len(places)}], one per point, got {is_stable.dtype} "
            f"{is_stable.shape}"
        )
    visited = np.zeros([0, 1, places.shape[1]]) if states is None else _finite("states", states)
    if visited.ndim < 2 or visited.shape[-1] != places.shape[1]:
        raise ValueError(
            f"states: expected [..., T, {places.shape[1]}] as of the points, got {visited.shape}"
        )
    basis = visited.reshape(-1, visited.shape[-1]) if visited.size else places
    if not len(basis):
        raise ValueError("points: expected at least one point or states, got none")
    centre = basis.mean(axis=0)
    _, sizes, rows = np.linalg.svd(basis - centre, full_matrices=False)
    rows, shares = rows[:3], (sizes**2 / (np.sum(sizes**2) or 1.0))[:3]
    missing = max(0, 2 - len(rows))  # a state of one unit has one component
    rows = np.concatenate([rows, np.zeros([missing, places.shape[1]])])
    shares = np.concatenate([shares, np.zeros(missing)])
    places, visited = (places - centre) @ rows.T, (visited - centre) @ rows.T
    panels = len(rows) - 1
    figure = new_figure(width=4.4 * panels + 0.4, height=4.0)
    for panel in range(1, panels + 1):
        axes = figure.add_subplot(1, panels, panel)
        for row in visited.reshape(-1, *visited.shape[-2:]):
            axes.plot(row[:, 0], row[:, panel], color="0.75", linewidth=0.6, zorder=1)
        for name, chosen, color, marker in (
            ("stable", is_stable, COLORS[0], "o"),
            ("unstable", ~is_stable, COLORS[1], "x"),
        ):
            if chosen.any():
                axes.scatter(
                    places[chosen, 0], places[chosen, panel], color=color, marker=marker, s=36,
                    label=f"{name} ({chosen.sum()})", zorder=2,
                )  # fmt: skip
        axes.set_xlabel(f"component 1 ({shares[0]:.0%} of the variance)")
        axes.set_ylabel(f"component {panel + 1} ({shares[panel]:.0%})")
        if panel == 1 and len(places):
            axes.legend(loc="best", fontsize=8)
    entitle(figure, title)
    return figure


def lyapunov_exponents(values: Mapping[str, ArrayLike], *, title: str | None = None) -> "Figure":
    """Plot Lyapunov exponents in descending order, one line per network, with a line at zero.

    Exponents above the line at zero are directions in which small differences grow.

    Args:
      values: a dict from the names of networks to exponents, float [..., K], as from
        `seqjax.traces.lyapunov_exponents`. K may differ between networks. A line is the mean over
        the leading axes, and a band shows the range. Exponents of -inf are not drawn.
      title: the title of the figure.

    Returns:
      A figure with one panel.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there are no networks, or exponents are empty, complex or have no axis.

    References:
      Vogt, Puelma Touzel, Shlizerman, Lajoie (2022), On Lyapunov exponents for RNNs.

    Example:
      >>> figure = lyapunov_exponents({"gru": np.array([[0.1, -0.5], [0.3, -0.7]])})
      >>> figure.axes[0].lines[0].get_ydata().round(2).tolist()
      [0.2, -0.6]
    """
    if not values:
        raise ValueError("values: expected at least one network, got none")
    figure = new_figure(width=5.5 if len(values) <= MOST_LINES else 7.5, height=3.6)
    axes = figure.add_subplot(xlabel="index $i$", ylabel=r"$\lambda_i$ (nats per step)")
    for index, (name, value) in enumerate(values.items()):
        exponents = np.asarray(value)
        if not exponents.ndim or not exponents.size or np.iscomplexobj(exponents):
            raise ValueError(
                f"values[{name!r}]: expected real numbers [..., K], got {exponents.dtype} of shape "
                f"{exponents.shape}"
            )
        rows = exponents.reshape(-1, exponents.shape[-1]).astype(np.float64)
        rows = np.where(np.isfinite(rows), rows, np.nan)
        ranks = np.arange(1, rows.shape[1] + 1)
        line(axes, index, ranks, rows.mean(axis=0), label=name, marker="o", markersize=3)
        if len(rows) > 1:
            color = COLORS[index % len(COLORS)]
            lowest, highest = rows.min(axis=0), rows.max(axis=0)
            axes.fill_between(ranks, lowest, highest, color=color, alpha=0.2, linewidth=0)
    legend(axes)
    axes.axhline(0.0, color="black", linewidth=0.8, linestyle="--")
    axes.locator_params(axis="x", integer=True)
    entitle(figure, title, above=axes)
    return figure


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    """Return real and finite values as float64."""
    array = np.asarray(values)
    if np.iscomplexobj(array):
        raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if not np.isfinite(floats := array.astype(np.float64)).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or inf")
    return floats
