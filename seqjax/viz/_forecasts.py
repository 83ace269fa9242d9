"""Fan charts of forecasts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks
from seqjax.viz._draw import COLORS, entitle, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fan_chart"]


def fan_chart(
    samples: ArrayLike,
    *,
    times: Any = None,
    past: ArrayLike | None = None,
    past_times: Any = None,
    truth: ArrayLike | None = None,
    intervals: Sequence[float] = (0.5, 0.8, 0.95),
    title: str | None = None,
    label: str | None = None,
) -> "Figure":
    """Plot samples of a forecast as a fan: the median, and central intervals around it.

    The interval of the share p lies between the quantiles (1 - p) / 2 and (1 + p) / 2 of the
    samples of each step.

    Args:
      samples: float `[H, S]`, the samples of one series, such as `samples[0]` of
        `AutoregressiveForecaster.sample`.
      times: the H times or numbers of the steps. By default, they are 0 … H - 1.
      past: float `[T]`, the values before the forecast. NaN is a gap in the line.
      past_times: the T times of the past. By default, they are -T … -1, if `times` is not given.
      truth: float `[H]`, the true values of the forecast.
      intervals: the shares of the intervals, between 0 and 1.
      title: the title of the figure.
      label: the label of the values.

    Returns:
      A figure with one panel.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if an array has a wrong shape, a sample is not finite, or a share is not between 0
        and 1.

    Example:
      >>> samples = np.random.default_rng(0).normal(size=[5, 200])
      >>> figure = fan_chart(samples, past=[0.0, 1.0], intervals=(0.5, 0.9))
      >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
      ['past', '90 %', '50 %', 'median']
    """
    drawn = np.asarray(samples, np.float64)
    if drawn.ndim != 2 or not drawn.size:
        raise ValueError(f"samples: expected a non-empty [H, S] of one series, got {drawn.shape}")
    if not np.isfinite(drawn).all():
        raise ValueError("samples: expected finite numbers, got NaN or inf")
    shares = [checks.require_number("intervals", share) for share in intervals]
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"intervals: expected shares between 0 and 1, got {tuple(intervals)}")
    horizon = len(drawn)
    if past_times is None and past is not None and times is not None:
        raise ValueError(
            "past_times: expected the times of `past`, since `times` is given, got None"
        )
    x = _places("times", times, np.arange(horizon), horizon)
    figure = new_figure(width=8.0, height=3.6)
    axes = figure.add_subplot()
    if past is not None:
        before = _line("past", past, None)
        ahead = _places("past_times", past_times, np.arange(-len(before), 0), len(before))
        axes.plot(ahead, before, color=COLORS[-1], linewidth=1.0, label="past")
    for number, share in enumerate(sorted(shares, reverse=True)):
        low, high = np.quantile(drawn, [(1 - share) / 2, (1 + share) / 2], axis=1)
        alpha = 0.2 + 0.4 * number / max(len(shares), 1)
        axes.fill_between(
            x, low, high, color=COLORS[0], alpha=alpha, linewidth=0, label=f"{100 * share:g} %"
        )
    marker: Any = "o" if horizon == 1 else None  # a line of one point is invisible
    median = np.median(drawn, axis=1)
    axes.plot(x, median, color=COLORS[0], label="median", marker=marker)
    if truth is not None:
        true = _line("truth", truth, horizon)
        axes.plot(x, true, color=COLORS[1], linestyle="--", label="true values", marker=marker)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    if label is not None:
        axes.set_ylabel(plain(label))
    if not np.issubdtype(np.asarray(x).dtype, np.number):
        figure.autofmt_xdate()
    entitle(figure, title, above=axes)
    return figure


def _places(name: str, given: Any, default: np.ndarray, count: int) -> Any:
    """Return the places of values on the time axis, or raise if their number is another one."""
    if given is None:
        return default
    if len(given) != count:
        raise ValueError(f"{name}: expected {count} times, one for each value, got {len(given)}")
    # A period of pandas is drawn at its start.
    return given.to_timestamp() if hasattr(given, "to_timestamp") else given


def _line(name: str, values: ArrayLike, count: int | None) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or (count is not None and len(found) != count):
        expected = "[T]" if count is None else f"[{count}]"
        raise ValueError(f"{name}: expected {expected}, one value for each step, got {found.shape}")
    return found
