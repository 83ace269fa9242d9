"""Plots of fixed points and Lyapunov exponents: the data in the figures, and their errors."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from seqjax import viz
from tests.test_viz import UNFIT, renders

RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(3, 20, 5)) * [0.1, 3.0, 0.2, 2.0, 0.3] + 1.0
POINTS = np.array([[1.0, 4.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 3.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])


def offsets(axes: Any) -> dict[Any, np.ndarray]:
    return {drawn.get_label(): np.asarray(drawn.get_offsets()) for drawn in axes.collections}


def test_fixed_points_are_in_the_principal_components_of_the_states():
    figure = viz.fixed_points(POINTS, [True, False, True], states=STATES, title=UNFIT)
    assert renders(figure)
    rows = STATES.reshape(-1, 5)
    variances, vectors = np.linalg.eigh(np.cov(rows.T))
    components = vectors[:, ::-1][:, :3]
    share = variances[::-1] / variances.sum()
    for panel, axes in enumerate(figure.axes, start=1):
        drawn = offsets(axes)
        assert list(drawn) == ["stable (2)", "unstable (1)"]
        expected = ((POINTS - rows.mean(axis=0)) @ components)[:, [0, panel]]
        np.testing.assert_allclose(np.abs(drawn["stable (2)"]), np.abs(expected[[0, 2]]))
        np.testing.assert_allclose(np.abs(drawn["unstable (1)"]), np.abs(expected[[1]]))
        assert len(axes.lines) == len(STATES)
        line = np.asarray(axes.lines[1].get_xydata())
        expected = ((STATES[1] - rows.mean(axis=0)) @ components)[:, [0, panel]]
        np.testing.assert_allclose(np.abs(line), np.abs(expected))
        assert axes.get_ylabel() == f"component {panel + 1} ({share[panel]:.0%})"
    assert len(figure.axes) == 2
    assert figure.axes[0].get_xlabel() == f"component 1 ({share[0]:.0%} of the variance)"
    one, other = figure.axes[0].collections
    assert not np.array_equal(one.get_facecolor(), other.get_facecolor())


@pytest.mark.parametrize("size", [1, 2])
def test_fixed_points_of_small_states_have_one_panel(size):
    points = np.arange(3.0 * size).reshape(3, size)
    figure = viz.fixed_points(points, np.array([True, True, True]))
    (axes,) = figure.axes
    assert renders(figure) and list(offsets(axes)) == ["stable (3)"]
    drawn = offsets(axes)["stable (3)"]
    distances = np.linalg.norm(points - points[0], axis=1)
    np.testing.assert_allclose(np.linalg.norm(drawn - drawn[0], axis=1), distances, atol=1e-12)
    assert len(viz.fixed_points(np.zeros((0, size)), np.zeros(0, bool), states=points).axes) == 1


@pytest.mark.parametrize(
    ("points", "stable", "states", "message"),
    [
        (POINTS[0], [True], None, r"points: expected \[P, H\], got shape \(5,\)"),
        (POINTS, [True], None, r"stable: expected bool \[3\], one per point, got bool \(1,\)"),
        (POINTS, [1, 0, 1], None, r"stable: expected bool \[3\], .*got int64 \(3,\)"),
        (POINTS, [True] * 3, STATES[..., :4], r"states: expected \[\.\.\., T, 5\] .*\(3, 20, 4\)"),
        (POINTS * np.nan, [True] * 3, None, "points: expected finite numbers, got NaN or inf"),
        (POINTS * 1j, [True] * 3, None, "points: expected real numbers, got dtype complex128"),
        (POINTS[:0], np.zeros(0, bool), None, "points: expected at least one point or states"),
    ],
)
def test_errors_of_fixed_points(points, stable, states, message):
    with pytest.raises(ValueError, match=message):
        viz.fixed_points(points, stable, states=states)


def test_lyapunov_exponents_are_means_with_bands():
    values: dict[str, Any] = {
        "gru": np.array([[0.1, -0.5, -np.inf], [0.3, -0.7, -2.0]]),
        UNFIT: np.array([-0.2], np.float32),
    }
    figure = viz.lyapunov_exponents(values, title=UNFIT)
    assert renders(figure)
    (axes,) = figure.axes
    gru, one, zero = axes.lines
    expected = np.array([[1, 0.2], [2, -0.6], [3, np.nan]])
    np.testing.assert_allclose(np.asarray(gru.get_xydata()), expected)
    np.testing.assert_allclose(np.asarray(one.get_xydata()), np.array([[1, -0.2]]), rtol=1e-6)
    assert list(np.ravel(zero.get_ydata())) == [0, 0]
    (band,) = axes.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    assert corners[:, 1].min() == -0.7 and corners[:, 1].max() == 0.3
    legend: Any = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["gru", UNFIT.replace("$", r"\$")]
    for bad, message in (
        ({}, "values: expected at least one network, got none"),
        ({"a": np.zeros((2, 0))}, r"values\['a'\]: expected real numbers \[\.\.\., K\], got float"),
        ({"a": 1.0}, r"values\['a'\]: .*shape \(\)"),
        ({"a": np.array([1j])}, r"values\['a'\]: .*got complex128"),
    ):
        with pytest.raises(ValueError, match=message):
            viz.lyapunov_exponents(bad)
