"""Suite `memory`: temporary memory and time of the gradient for each `remat` setting.

The contestant "handwritten" is a plain `jax.lax.scan`. It is timed in turn with the others, whose
time and memory are divided by those of "handwritten".
"""

import gc
from collections.abc import Callable

from benchmarks import peers
from benchmarks.peers import Peer
from benchmarks.peers.ours import Seqjax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import gradient_rows
from benchmarks.workload import Shape

__all__ = ["run"]

REMAT = ("none", "chunk", "sqrt", "log", "auto")
UNBOUNDED = ("none",)
"""The settings of `remat` that store values of every step. They are not used for `LONG`."""

SHAPES = tuple(Shape(32, steps, 128, 128) for steps in (256, 1024, 4096))
LONG = Shape(1, 65536, 32, 32)
SHORT = tuple(Shape(8, steps, 64, 64) for steps in (256, 1024))


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure all shapes, with the LSTM unless other cells are given."""
    shapes = settings.shapes or (SHORT if settings.short else (*SHAPES, LONG))
    cells = settings.cells if len(settings.cells) < 3 else ("lstm",)
    rows = []
    for cell in cells:
        for shape in shapes:
            say(f"{cell}, {shape.steps} steps")
            wanted = [r for r in REMAT if shape != LONG or r not in UNBOUNDED]
            rows += _group(cell, shape, wanted, settings)
            gc.collect()
    return rows


def _group(cell: str, shape: Shape, settings_of_remat: list[str], settings: Settings) -> list[Row]:
    """Measure one shape with all settings."""
    contestants: dict[str, Peer] = {"handwritten": peers.load("handwritten")}
    contestants |= {f"seqjax remat={remat}": Seqjax(remat=remat) for remat in settings_of_remat}
    return gradient_rows("memory", cell, shape, contestants, settings, temp_bytes=True)
