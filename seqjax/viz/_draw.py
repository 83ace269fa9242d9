"""Helpers that the plots share: figures, colours, heat maps, and labels of the time axis."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = [
    "COLORS",
    "MOST_WIDTH",
    "check_labels",
    "entitle",
    "heat_map",
    "legend",
    "line",
    "new_figure",
    "over_time",
    "plain",
    "real_steps",
    "shortened",
    "ticks",
]

# The palette of Okabe and Ito without yellow, which is hardly visible on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", "-.", ":")
# Fonts with the characters of many languages; most machines have one of them.
WIDE = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "IPAexGothic", "Hiragino Sans",
    "Yu Gothic", "Microsoft YaHei", "PingFang SC", "WenQuanYi Micro Hei", "Arial Unicode MS",
)  # fmt: skip
MOST_WIDTH = 12.0
"""Maximum width of a time axis in inches; the steps of longer sequences are drawn narrower."""
LONGEST_TEXT = 16
"""Maximum number of characters of a label on an axis."""
LARGEST = 1e300
"""Larger numbers are treated as infinite, because their differences overflow in matplotlib."""
MOST_LINES = 12
"""Maximum number of lines of a legend inside a panel. Longer legends are beside the panel."""


def new_figure(*, width: float, height: float) -> "Figure":
    """Return a new figure of a size in inches, without registering it in pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "seqjax.viz: expected matplotlib to be installed; run pip install seqjax[viz]"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def plain(text: Any) -> str:
    """Return a text with its dollar signs escaped, so that matplotlib does not draw a formula.

    All texts that callers pass are converted by this function. The option `parse_math` of
    matplotlib is not enough, since matplotlib ignores this option when it wraps a text.
    """
    return str(text).replace("$", r"\$")


def _fonts() -> list[str]:
    """Return matplotlib's fonts, followed by the installed fonts of `WIDE` as fallbacks."""
    import matplotlib
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return [*matplotlib.rcParams["font.family"], *(font for font in WIDE if font in installed)]


def entitle(figure: "Figure", title: str | None, *, above: "Axes | None" = None) -> None:
    """Write a title above a figure or a panel; with None, nothing is written."""
    if title is None:
        return
    write = figure.suptitle if above is None else above.set_title
    write(plain(title), wrap=True, fontfamily=_fonts())


def legend(axes: "Axes") -> None:
    """Add a legend inside a panel, or beside the panel if there are many lines."""
    lines = axes.get_lines()
    outside: dict[str, Any] = {}
    if len(lines) > MOST_LINES:
        columns = math.ceil(len(lines) / 30)
        outside = {
            "loc": "upper left", "bbox_to_anchor": (1.0, 1.02), "fontsize": 6, "ncols": columns
        }  # fmt: skip
    # Matplotlib omits names that begin with "_", so the names are set after the legend is made.
    drawn = axes.legend(
        lines, [str(place) for place in range(len(lines))], frameon=False, **outside
    )
    for text, one in zip(drawn.get_texts(), lines, strict=True):
        text.set_text(plain(shortened(str(one.get_label()), 40)))
        text.set_fontfamily(_fonts())


def line(axes: "Axes", index: int, x: Any, y: Any, *, label: str, **style: Any) -> None:
    """Draw line number `index` of a panel, with its own colour and style."""
    if not np.isfinite(np.asarray(y, np.float64)).any():
        label = f"{label}: not finite"  # the line will be invisible
    if len(x) == 1:  # a line of one point is invisible without a marker
        style.setdefault("marker", "o")
    axes.plot(
        x,
        y,
        color=COLORS[index % len(COLORS)],
        linestyle=STYLES[index % len(STYLES)],
        label=label,
        **style,
    )


def heat_map(
    axes: "Axes", values: np.ndarray, *, cmap: str, vmin: float, vmax: float, **options: Any
) -> "AxesImage":
    """Draw a matrix with the first row at the top; NaN and inf are grey."""
    # If there are more cells than pixels, each pixel shows the mean of its cells, not one of them.
    many = values.shape[0] > 250 or values.shape[1] > 500
    return axes.imshow(
        np.ma.masked_invalid(values),
        cmap=_with_grey(cmap),
        vmin=vmin,
        vmax=vmax,
        interpolation="antialiased" if many else "nearest",
        **{"aspect": "auto", **options},
    )


def _with_grey(name: str) -> "Colormap":
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad="0.7")  # a copy


def real_steps(name: str, values: ArrayLike, length: int | None, shape: str) -> np.ndarray:
    """Return the first `length` steps of one sequence `[T, …]` as float64."""
    array = np.asarray(values)
    if array.ndim != shape.count(",") + 1 or not array.size:
        raise ValueError(f"{name}: expected a non-empty {shape}, got shape {array.shape}")
    if np.iscomplexobj(array):
        raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if length is not None and checks.require_integer("length", length) > len(array):
        raise ValueError(f"length: expected 1 to T={len(array)}, got {length}")
    floats = array[:length].astype(np.float64)
    return np.where(np.abs(floats) > LARGEST, np.copysign(np.inf, floats), floats)


def check_labels(labels: Sequence[Any] | None, steps: int) -> None:
    """Raise an error if the numbers of labels and of drawn steps differ."""
    if labels is not None and len(labels) != steps:
        raise ValueError(
            f"step_labels: expected one label for each of {steps} steps, got {len(labels)}"
        )


def ticks(axes: "Axes", axis: str, labels: Sequence[Any], *, inches: float) -> None:
    """Write labels along the axis "x" or "y", or every n-th label if not all of them fit."""
    every = max(1, math.ceil(0.15 * len(labels) / inches))
    places = range(0, len(labels), every)
    texts = [shortened(str(labels[place])) for place in places]
    font = _fonts()
    if axis == "x":
        turned = max(map(len, texts)) > 2 or 0.12 * max(map(len, texts)) * len(texts) > inches
        rotation = 90 if turned else 0
        axes.set_xticks(places, list(map(plain, texts)), rotation=rotation, fontfamily=font)
    else:
        axes.set_yticks(places, list(map(plain, texts)), fontfamily=font)


def shortened(text: str, most: int = LONGEST_TEXT) -> str:
    """Return a text of at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def over_time(axes: "Axes", labels: Sequence[Any] | None, *, inches: float) -> None:
    """Write the labels of the time axis of a panel."""
    axes.set_xlabel("time step $t$")
    axes.locator_params(axis="x", integer=True)
    if labels is not None:
        ticks(axes, "x", labels, inches=inches)
