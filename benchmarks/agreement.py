"""Agreement of contestants with the reference, which is tested before anything is timed."""

import numpy as np

from benchmarks.peers.base import Prepared
from benchmarks.workload import Workload

__all__ = ["Disagreement", "check", "difference", "require", "tolerance"]


class Disagreement(Exception):
    """The error that is raised if a contestant's results differ from those of the reference."""


def tolerance(platform: str) -> float:
    """Return the largest relative difference that rounding explains on this platform."""
    return 1e-4 if platform == "cpu" else 5e-3


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of two arrays, relative to the largest expected value.

    Raises:
      Disagreement: the shapes differ.
    """
    if found.shape != expected.shape:
        raise Disagreement(f"shape {found.shape} instead of {expected.shape}")
    if not expected.size:
        return 0.0
    scale = max(float(np.abs(expected).max()), 1e-6)
    largest = float(np.abs(found - expected).max()) / scale
    return largest if np.isfinite(largest) else np.inf


def require(name: str, found: np.ndarray, expected: np.ndarray, limit: float) -> float:
    """Return the difference of two arrays.

    Raises:
      Disagreement: the difference is above the limit.
    """
    largest = difference(found, expected)
    if largest > limit:
        raise Disagreement(f"{name} differ by {largest:.1e} of their scale")
    return largest


def check(contestant: Prepared, reference: Prepared, workload: Workload, limit: float) -> float:
    """Compare outputs at real steps, and the gradients of all weights and of the inputs.

    Returns:
      The largest difference. The difference of two arrays is relative to the largest absolute value
      of the reference's array.

    Raises:
      Disagreement: a difference is above the limit.
    """
    real = workload.real
    worst = require("outputs", contestant.outputs() * real, reference.outputs() * real, limit)
    ours, theirs = contestant.gradients(), reference.gradients()
    worst = max(worst, require("gradients of xs", ours.xs, theirs.xs, limit))
    for layer, expected_layer in zip(ours.weights, theirs.weights, strict=True):
        for found, expected in zip(layer, expected_layer, strict=True):
            for name, array in expected.items():
                what = f"gradients of {name}"
                worst = max(worst, require(what, found[name], array, limit))
    return worst
