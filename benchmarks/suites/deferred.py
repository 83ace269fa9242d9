"""Suite `deferred`: the gain of computing weight gradients after the backward loop.

The gradient of each cell is timed alternately with two kernels of the library. The loop of `scan`
adds to each weight's gradient at every step. `fused` computes each weight's gradient as one
product.
"""

from collections.abc import Callable
from typing import Any

import seqjax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.cell_programs import cell_rows, unrolled
from benchmarks.workload import Shape

__all__ = ["run"]

KERNELS = ("scan", "fused")
SHAPE = Shape(32, 100, 128, 128)
SMALL = Shape(4, 10, 16, 16)
CELLS = (
    "lstm", "gru", "cho_gru", "mgu", "projected_lstm", "peephole_lstm", "layer_norm_lstm",
    "elman_readout", "indrnn",
)  # fmt: skip
SPATIAL = {"conv_lstm_1d": Shape(8, 20, 8, 16), "conv_lstm_2d": Shape(8, 20, 8, 16)}
"""The shapes for convolutional cells. I and H are numbers of channels.

Each spatial axis has 16 points.
"""


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure the gradients of all cells with both kernels; return the rows."""
    rows = []
    small = SMALL if settings.short else None
    for name in CELLS:
        rows += _group(name, seqjax.CELLS[name], small or SHAPE, {}, settings, say)
    for name, shape in SPATIAL.items():
        points = {"spatial_shape": 4 if settings.short else 16}
        rows += _group(name, seqjax.CELLS[name], small or shape, points, settings, say)
    return rows


def _group(
    name: str,
    kind: Any,
    shape: Shape,
    options: dict[str, int],
    settings: Settings,
    say: Callable[[str], None],
) -> list[Row]:
    """Measure one cell by both kernels."""
    say(f"{name} {shape.batch},{shape.steps},{shape.inputs},{shape.hidden}")
    cell = kind(shape.inputs, shape.hidden, **options)
    contestants = {
        f"seqjax {kernel}": unrolled(cell, implementation=kernel, remat="none")
        for kernel in KERNELS
    }
    variant = "x".join(["16"] * (len(cell.input_shape) - 1)) or "plain"
    return cell_rows("deferred", name, cell, shape, contestants, settings, variant=variant)
