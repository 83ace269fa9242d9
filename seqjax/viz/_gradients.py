"""Plots of gradients over time, of saliency, and of the eigenvalues of recurrent weights."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from seqjax.viz._draw import (
    COLORS,
    MOST_LINES,
    MOST_WIDTH,
    check_labels,
    entitle,
    legend,
    line,
    new_figure,
    over_time,
    plain,
    real_steps,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["eigenvalues", "gradient_flow", "saliency"]


def gradient_flow(norms: Mapping[str, ArrayLike], *, log: bool = True) -> "Figure":
    """Plot the norm of the loss gradient that reaches each time step, one line per model.

        norms[name][t] = ‖∂loss/∂h_t‖

    If a line falls towards early steps, the gradient vanishes. If a line rises towards early steps,
    the gradient explodes.

    Args:
      norms: a dict from the names of models to norms, float [T], of one sequence, as from
        `seqjax.traces.gradient_norms`. T may differ between models.
      log: whether the axis of the norms is logarithmic. A logarithmic axis does not show zeros.

    Returns:
      A figure with one panel.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there are no norms, or an array of norms is empty or not of the shape [T].

    References:
      Bengio, Simard, Frasconi (1994), Learning long-term dependencies with gradient descent is
      difficult.

    Example:
      >>> figure = gradient_flow({"elman": 0.5 ** np.arange(8.0)[::-1], "lstm": np.ones(8)})
      >>> [line.get_label() for line in figure.axes[0].lines], figure.axes[0].get_yscale()
      (['elman', 'lstm'], 'log')
    """
    if not norms:
        raise ValueError("norms: expected at least one model, got none")
    figure = new_figure(width=5.5 if len(norms) <= MOST_LINES else 7.5, height=3.6)
    axes = figure.add_subplot()
    for index, (name, norm) in enumerate(norms.items()):
        values = np.asarray(norm)
        if values.ndim != 1 or not values.size:
            raise ValueError(f"norms[{name!r}]: expected [T], got shape {values.shape}")
        line(axes, index, np.arange(len(values)), values.astype(np.float64), label=name)
    if log:
        axes.set_yscale("log", nonpositive="mask")
    over_time(axes, None, inches=0)
    axes.set_ylabel(r"$\Vert\partial L / \partial h_t\Vert$")
    legend(axes)
    return figure


def saliency(
    values: ArrayLike,
    *,
    length: int | None = None,
    title: str | None = None,
    step_labels: Sequence[Any] | None = None,
    label: str | None = None,
) -> "Figure":
    """Plot the influence of each step of one sequence on a chosen output, one bar per step.

    Positive values are blue. Negative values, which occur only for gradient times input, are
    orange. Steps with negative values reduce the output.

    Args:
      values: float [T], the saliency of one sequence, as from `seqjax.traces.saliency`.
      length: the number of steps before the padding. Only these steps are drawn. The default is T.
      title: the title of the figure.
      step_labels: a text for each drawn step, such as its token.
      label: the label of the vertical axis. The default label names the norm of the gradient or, if
        there are negative values, the product of gradient and input.

    Returns:
      A figure with one panel.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if the values are empty, not finite or not of the shape [T], the length is not in
        [1, T], or there is not one label for each drawn step.

    References:
      Simonyan, Vedaldi, Zisserman (2014), Deep inside convolutional networks.

    Example:
      >>> figure = saliency([0.1, 0.9, 0.0], step_labels=["a", "good", "film"], length=3)
      >>> [round(float(bar.get_height()), 1) for bar in figure.axes[0].patches]
      [0.1, 0.9, 0.0]
    """
    heights = real_steps("values", values, length, "[T]")
    if not np.isfinite(heights).all():
        raise ValueError("values: expected finite numbers, got NaN or inf")
    steps = len(heights)
    check_labels(step_labels, steps)
    signed = bool((heights < 0).any())
    if label is None:
        x, s = r"x_t", r"\partial s / \partial x_t"
        label = rf"${x} \cdot {s}$" if signed else rf"$\Vert{s}\Vert$"
    else:
        label = plain(label)
    width = min(MOST_WIDTH, max(5.5, 0.2 * steps + 1))
    figure = new_figure(width=width, height=3.2)
    axes = figure.add_subplot(ylabel=label)
    places = np.arange(steps)
    if steps <= 300:
        colors = [COLORS[0] if height >= 0 else COLORS[1] for height in heights]
        axes.bar(places, heights, color=colors, width=0.8)
    else:  # bars thinner than a pixel
        for color, part in ((COLORS[0], heights.clip(min=0)), (COLORS[1], heights.clip(max=0))):
            axes.fill_between(places, part, color=color, step="mid", linewidth=0.3)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(x=0.01)
    over_time(axes, step_labels, inches=width - 1)
    entitle(figure, title, above=axes)
    return figure


def eigenvalues(values: Mapping[str, ArrayLike], *, title: str | None = None) -> "Figure":
    """Plot the eigenvalues of recurrent weights in the complex plane, with the unit circle.

    The title of each panel contains the spectral radius ρ, the largest absolute value.

    Args:
      values: a dict from the names of gates to eigenvalues, complex [H], as from
        `seqjax.traces.eigenvalues`.
      title: the title of the figure.

    Returns:
      A figure with one panel per gate, all with the same scale.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there are no gates, or eigenvalues are empty, not finite or not of the shape
        [H].

    References:
      Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural networks.

    Example:
      >>> figure = eigenvalues({"h": np.array([0.5 + 0.5j, 0.5 - 0.5j, -2.0])})
      >>> figure.axes[0].get_title()
      'h: ρ = 2.00'
    """
    if not values:
        raise ValueError("values: expected at least one gate, got none")
    points = {name: np.asarray(value, np.complex128) for name, value in values.items()}
    for name, point in points.items():
        if point.ndim != 1 or not point.size:
            raise ValueError(f"values[{name!r}]: expected a non-empty [H], got {point.shape}")
        if not np.isfinite(point).all():
            raise ValueError(f"values[{name!r}]: expected finite numbers, got NaN or inf")
    bound = 1.1 * max(
        1.0, *(max(np.abs(p.real).max(), np.abs(p.imag).max()) for p in points.values())
    )
    columns = min(4, len(points))
    rows = math.ceil(len(points) / columns)
    figure = new_figure(width=max(3.6, 2.7 * columns + 0.6), height=3.1 * rows + 0.3)
    angles = np.linspace(0, 2 * np.pi, 200)
    for index, (name, point) in enumerate(points.items()):
        axes = figure.add_subplot(rows, columns, index + 1, aspect="equal")
        axes.axhline(0, color="0.85", linewidth=0.8)
        axes.axvline(0, color="0.85", linewidth=0.8)
        axes.plot(np.cos(angles), np.sin(angles), color="black", linewidth=0.8, linestyle="--")
        alpha = 0.8 if len(point) <= 200 else 0.3
        axes.plot(
            point.real, point.imag, linestyle="", marker="o", color=COLORS[0], alpha=alpha,
            markersize=4 if len(point) <= 200 else 2, markeredgewidth=0,
        )  # fmt: skip
        axes.set(xlim=(-bound, bound), ylim=(-bound, bound), xlabel="real part")
        if index % columns == 0:
            axes.set_ylabel("imaginary part")
        axes.set_title(plain(f"{name}: ρ = {np.abs(point).max():.2f}"))
    entitle(figure, title)
    return figure
