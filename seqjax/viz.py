"""Plots of training and of what a recurrent network does; needs the extra `seqjax[viz]`.

Each function returns a new `matplotlib.figure.Figure` and touches no global state, so it works in
scripts, notebooks and threads alike: `figure.savefig("curve.png")`. Colours are safe for
colour-blind readers (Okabe, Ito 2008, Color universal design), and lines differ in style too.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attention", "confusion", "gradient_flow", "hidden_states", "learning_curve"]

# Okabe and Ito's palette, without the yellow that is faint on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", "-.", ":")
# Fonts with the characters of many languages, of which one is on most machines.
_WIDE = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "IPAexGothic", "Hiragino Sans",
    "Yu Gothic", "Microsoft YaHei", "PingFang SC", "WenQuanYi Micro Hei", "Arial Unicode MS",
)  # fmt: skip
# In a training history, but not learning.
_NOT_CURVES = ("epoch", "step", "seconds", "grad_norm", "skipped")


def learning_curve(
    history: Sequence[Mapping[str, Any]], *, keys: Sequence[str] | None = None
) -> "Figure":
    """Metrics over the epochs, those of training and of evaluation in one panel a metric.

    Args:
      history: records such as `seqjax.training.fit` returns: `{"epoch": 1, "loss": …, "eval_loss":
        …}`. A record may lack a key. Without "epoch" the records count from 1.
      keys: what to draw; all numbers but epoch, step, seconds, grad_norm and skipped by default.

    Returns:
      A figure with a panel for `name` and `eval_name` together.

    Raises:
      ImportError: matplotlib is missing.
      ValueError: the history is empty, or has no such key.

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
    known = list(dict.fromkeys(key for record in history for key in record))
    if keys is None:
        keys = [key for key in known if key not in _NOT_CURVES]
    if not keys or not set(keys) <= set(known):
        raise ValueError(f"keys: expected some of {', '.join(known)}; got {list(keys)}")
    panels: dict[str, list[str]] = {}
    for key in keys:
        panels.setdefault(key.removeprefix("eval_"), []).append(key)
    figure = _figure(width=4.5 * len(panels), height=3.2)
    for column, (metric, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), column + 1)
        for key in curves:
            points = [
                (record.get("epoch", position), float(record[key]))
                for position, record in enumerate(history, start=1)
                if key in record
            ]
            evaluated = key.startswith("eval_")
            label = "evaluation" if evaluated else "training"
            x, y = zip(*points, strict=True)
            _line(axes, int(evaluated), x, y, label=label, marker="o", markersize=3)
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric)
        axes.locator_params(axis="x", integer=True)
        axes.legend(frameon=False)
    return figure


def hidden_states(
    outputs: ArrayLike,
    *,
    length: int | None = None,
    title: str | None = None,
    step_labels: Sequence[str] | None = None,
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
    values = np.asarray(outputs)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"outputs: expected a non-empty [T, H], got shape {values.shape}")
    if length is not None and not 1 <= length <= len(values):
        raise ValueError(f"length: expected 1 to T={len(values)}, got {length}")
    values = values[:length].astype(np.float64).T
    steps = values.shape[1]
    if step_labels is not None and len(step_labels) != steps:
        raise ValueError(
            f"step_labels: expected one for each of {steps} steps, got {len(step_labels)}"
        )
    bound = np.abs(values[np.isfinite(values)]).max(initial=0.0) or 1.0
    figure = _figure(width=min(12.0, max(5.0, 0.15 * steps)), height=3.6)
    axes = figure.add_subplot()
    image = axes.imshow(
        values, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest"
    )
    figure.colorbar(image, ax=axes, label="$h_t$")
    axes.set_xlabel("time step")
    axes.set_ylabel("unit")
    axes.locator_params(integer=True)
    if step_labels is not None:
        axes.set_xticks(range(steps), step_labels, rotation=90, fontfamily=_fonts())
    if title is not None:
        axes.set_title(title)
    return figure


def gradient_flow(norms: Mapping[str, ArrayLike], *, log: bool = True) -> "Figure":
    """How much of the loss's gradient reaches each time step, one line a model.

        norms[name][t] = ‖∂loss/∂h_t‖

    A line that falls towards early steps shows a vanishing gradient, one that rises an exploding
    one.

    Args:
      norms: for each model the norms, float [T]; T may differ.
      log: whether the norms are on a logarithmic axis, where zeros are left out.

    Returns:
      A figure with one panel.

    Raises:
      ImportError: matplotlib is missing.
      ValueError: there are no norms, or one is not [T].

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
    figure = _figure(width=5.5, height=3.6)
    axes = figure.add_subplot()
    for index, (name, norm) in enumerate(norms.items()):
        values = np.asarray(norm)
        if values.ndim != 1:
            raise ValueError(f"norms[{name!r}]: expected [T], got shape {values.shape}")
        _line(axes, index, np.arange(len(values)), values.astype(np.float64), label=name)
    if log:
        axes.set_yscale("log", nonpositive="mask")
    axes.set_xlabel("time step $t$")
    axes.set_ylabel(r"$\Vert\partial L / \partial h_t\Vert$")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False)
    return figure


def attention(
    weights: ArrayLike,
    source: Sequence[str],
    target: Sequence[str],
    *,
    title: str | None = None,
) -> "Figure":
    """Attention weights as a heat map: target tokens down, source tokens across.

    Args:
      weights: float [T, S], for each target token its weights over the source.
      source: the S source tokens; a string is its characters.
      target: the T target tokens.
      title: what to write above.

    Returns:
      A figure with one panel and a colour bar, dark where the weight is large. Characters that no
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
    figure = _figure(width=2.2 + 0.42 * len(source), height=1.4 + 0.32 * len(target))
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="Blues", vmin=0.0, vmax=max(1.0, values.max()))
    figure.colorbar(image, ax=axes, label="weight")
    turned = max(map(len, source)) > 2
    fonts = _fonts()
    axes.set_xticks(
        range(len(source)), list(source), rotation=90 if turned else 0, fontfamily=fonts
    )
    axes.set_yticks(range(len(target)), list(target), fontfamily=fonts)
    if title is not None:
        axes.set_title(title, wrap=True)
    return figure


def confusion(right: Sequence[str], found: Sequence[str], *, most: int = 24) -> "Figure":
    """Which classes are taken for which: of each right class, the shares found as each.

    Args:
      right: the right class of each example.
      found: the class found for each.
      most: the classes that are shown at most, those with the most examples.

    Returns:
      A figure with one panel: right classes down, found ones across, shares in per cent.

    Raises:
      ImportError: matplotlib is missing.
      ValueError: no examples, or not as many found as right.

    Example:
      >>> figure = confusion(["yes", "yes", "no"], ["yes", "no", "no"])
      >>> sorted(text.get_text() for text in figure.axes[0].texts)
      ['100', '50', '50']
    """
    if len(right) != len(found) or not len(right):
        raise ValueError(
            f"right, found: expected as many of both, got {len(right)} and {len(found)}"
        )
    totals = collections.Counter(right)
    totals.update(dict.fromkeys(found, 0))
    shown = sorted(name for name, _ in totals.most_common(most))
    counts = collections.Counter(zip(right, found, strict=True))
    shares = np.array([[counts[a, b] / max(totals[a], 1) for b in shown] for a in shown])
    side = 0.36 * len(shown)
    figure = _figure(width=2.2 + side, height=1.6 + side)
    axes = figure.add_subplot(xlabel="found", ylabel="right", title="Shares of each row, %")
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0.0, vmax=1.0)  # small shares show, too
    axes.set_xticks(range(len(shown)), shown, rotation=90, fontfamily=_fonts())
    axes.set_yticks(range(len(shown)), shown, fontfamily=_fonts())
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            color = "white" if share > 0.4 else "black"
            text = f"{100 * share:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    return figure


def _figure(*, width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("seqjax.viz needs matplotlib: pip install seqjax[viz]") from error
    return Figure(figsize=(width, height), layout="constrained")


def _fonts() -> list[str]:
    """Matplotlib's font, and for characters that it lacks those of `_WIDE` that are installed."""
    import matplotlib
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return [*matplotlib.rcParams["font.family"], *(font for font in _WIDE if font in installed)]


def _line(axes: "Axes", index: int, x: Any, y: Any, *, label: str, **style: Any) -> None:
    """Draws the line number `index` of a panel, in a colour and style of its own."""
    axes.plot(
        x,
        y,
        color=_COLORS[index % len(_COLORS)],
        linestyle=_STYLES[index % len(_STYLES)],
        label=label,
        **style,
    )
