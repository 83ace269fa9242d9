"""Suite `budget`: temporary memory and time of a gradient with memory budgets, for 65,536 steps.

The cells are those that are made for long sequences. The loss is the mean square of the final
state, so the program needs no outputs. The inputs and their gradient are not temporary memory.
"""

import gc
from collections.abc import Callable
from typing import Any

import seqjax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.cell_programs import Apply, cell_rows
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
                "seqjax": _final_state(cell),
                "seqjax remat=none": _final_state(cell, remat="none"),
            }
            for budget in BUDGETS:
                options = {"memory_budget": budget * 2**20}
                contestants[f"seqjax budget={budget} MiB"] = _final_state(cell, **options)
            rows += cell_rows("budget", name, cell, shape, contestants, settings)
            gc.collect()
    return rows


def _final_state(cell: seqjax.cells.Cell[Any, Any], **execution: Any) -> Apply:
    """Return the contestant that computes the final state of a cell."""
    return lambda params, xs: seqjax.unroll(cell, params, xs, **execution).state
