"""Suite `scaling`: the gradient's time as one size grows, on one device and on all.

The variant of a row is the size that grows: "steps", "batch" or "hidden".
"""

import gc
from collections.abc import Callable

from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import gradient_rows
from benchmarks.workload import Shape

__all__ = ["run", "sweep"]

CONTESTANTS = ("seqjax", "seqjax_sharded", "handwritten", "pytorch", "flax_nnx")
BASE = Shape(32, 100, 128, 128)
SIZES = {
    "steps": (25, 100, 400, 1600),
    "batch": (2, 8, 32, 128, 512),
    "hidden": (32, 64, 128, 256, 512, 1024),
}
SHORT = {"steps": (25, 100, 400), "batch": (2, 32, 128), "hidden": (32, 128, 256)}


def sweep(base: Shape, variant: str, size: int) -> Shape:
    """Return the base shape with one size changed; inputs are as wide as the state."""
    if variant == "hidden":
        return base._replace(inputs=size, hidden=size)
    return base._replace(**{variant: size})


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Vary one size of each given shape at a time. The cell is the LSTM unless cells are given."""
    cells = settings.cells if len(settings.cells) < 3 else ("lstm",)
    contestants = settings.some(CONTESTANTS)
    rows = []
    for cell in cells:
        for base in settings.shapes or (BASE,):
            for variant, sizes in (SHORT if settings.short else SIZES).items():
                for size in sizes:
                    say(f"{cell}, {variant} {size}")
                    shape = sweep(base, variant, size)
                    rows += gradient_rows(
                        "scaling", cell, shape, contestants, settings, variant=variant
                    )
                    gc.collect()
    return rows
