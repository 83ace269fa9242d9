"""Suite `budget`: temporary memory and time of a gradient with memory budgets, for 65,536 steps.

The cells are those that are made for long sequences. The temporary memory of a program contains the
gradient of the outputs and the outputs in another layout, which grow with T and which no budget
covers.
"""

import gc
from collections.abc import Callable

import seqjax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.cell_programs import Apply, cell_rows, unrolled
from benchmarks.workload import Shape

__all__ = ["run"]

CELLS = ("lru", "s5", "rg_lru", "sru", "slstm")
SHAPES = (Shape(1, 65536, 64, 64),)
SHORT = (Shape(1, 4096, 64, 64),)
BUDGETS = (16, 4, 1)
"""Memory budgets in MiB."""


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure the gradient of all cells without and with each memory budget; return the rows."""
    rows = []
    for shape in settings.shapes or (SHORT if settings.short else SHAPES):
        for name in CELLS:
            say(f"{name} {','.join(map(str, shape))}")
            cell = seqjax.CELLS[name](shape.inputs, shape.hidden)
            contestants: dict[str, Apply | str] = {
                "seqjax": unrolled(cell),
                "seqjax remat=none": unrolled(cell, remat="none"),
            }
            for budget in BUDGETS:
                options = {"memory_budget": budget * 2**20}
                contestants[f"seqjax budget={budget} MiB"] = unrolled(cell, **options)
            rows += cell_rows("budget", name, cell, shape, contestants, settings)
            gc.collect()
    return rows
