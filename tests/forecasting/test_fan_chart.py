"""The fan chart shows the quantiles of the samples."""

import numpy as np
import pandas
import pytest

pytest.importorskip("matplotlib")

from seqjax import viz

SAMPLES = np.stack([np.arange(101.0), 10 + np.arange(101.0)])  # [H = 2, S]


def test_bands_are_quantiles():
    times = pandas.date_range("2024-01-01", periods=3, freq="D")
    figure = viz.fan_chart(
        SAMPLES, times=times[1:], past=[np.nan], past_times=times[:1], truth=[1.0, 2.0],
        intervals=(0.5, 0.8), label="$ sold", title="one",
    )  # fmt: skip
    [axes] = figure.axes
    low = [band.get_paths()[0].get_extents().ymin for band in axes.collections]
    high = [band.get_paths()[0].get_extents().ymax for band in axes.collections]
    np.testing.assert_allclose(low, [10, 25])  # the wide band is drawn first
    np.testing.assert_allclose(high, [100, 85])
    drawn = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    assert drawn["median"] == [50.0, 60.0] and drawn["true values"] == [1.0, 2.0]
    assert axes.get_ylabel() == r"\$ sold" and axes.get_title() == "one"


def test_periods_are_times():
    months = pandas.period_range("2024-01", periods=3, freq="M")
    figure = viz.fan_chart(SAMPLES, times=months[1:], past=[1.0], past_times=months[:1])
    drawn = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    np.testing.assert_array_equal(drawn["median"], months[1:].to_timestamp())


def test_wrong_charts():
    for message, call in {
        r"samples: expected a non-empty \[H, S\]": lambda: viz.fan_chart(SAMPLES[0]),
        "samples: expected finite": lambda: viz.fan_chart(SAMPLES * np.nan),
        "intervals: expected shares": lambda: viz.fan_chart(SAMPLES, intervals=(1.0,)),
        "times: expected 2 times": lambda: viz.fan_chart(SAMPLES, times=[1]),
        "past_times: expected the times": lambda: viz.fan_chart(SAMPLES, times=[1, 2], past=[1.0]),
        r"truth: expected \[2\]": lambda: viz.fan_chart(SAMPLES, truth=[1.0]),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
