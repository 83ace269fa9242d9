"""Suite `speed`: forward and gradient of every cell, variant and shape; some shapes are random.

For one cell and shape, all variants are timed alternately. The times of the variants "plain" and
"lengths" can therefore be compared, which shows the cost of masking.
"""

import gc
from collections.abc import Callable

from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import Entered, enter, milliseconds, reference
from benchmarks.workload import Shape, flops, make

__all__ = ["run"]

SHAPES = (
    Shape(32, 100, 128, 128),
    Shape(64, 100, 256, 256),
    Shape(32, 100, 512, 512),
    Shape(128, 50, 64, 64),
    Shape(1, 256, 128, 128),
)
SHORT = (Shape(32, 100, 128, 128), Shape(1, 256, 128, 128))


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure all cells and shapes; return the rows."""
    rows = []
    for shape in (settings.shapes or (SHORT if settings.short else SHAPES)) + settings.drawn:
        for cell in settings.cells:
            say(f"{cell} {shape.batch},{shape.steps},{shape.inputs},{shape.hidden}")
            rows += _group(cell, shape, settings)
            gc.collect()
    return rows


def _group(cell: str, shape: Shape, settings: Settings) -> list[Row]:
    """Measure one cell and shape: all variants and contestants."""
    entered: dict[tuple[str, str], Entered] = {}
    structures = {}
    for variant in settings.variants:
        workload = make(cell, variant, shape)
        structures[variant] = workload.structure
        expected = reference(workload)
        for name, peer in settings.peers.items():
            entered[variant, name] = enter(peer, workload, expected)
    rows = []
    for what in ("forward", "gradient"):
        samples = milliseconds(entered, what, settings)
        for (variant, name), each in entered.items():
            ours = name == "seqjax" and each.prepared is not None
            rows.append(
                Row(
                    suite="speed",
                    cell=cell,
                    variant=variant,
                    shape=shape,
                    what=what,
                    contestant=name,
                    samples_ms=samples.get((variant, name), ()),
                    flops=flops(structures[variant], shape.batch, shape.steps, what),
                    agreement=each.agreement,
                    setting=each.setting,
                    reason=each.reason,
                    temp_bytes=each.prepared.temp_bytes(what) if ours and each.prepared else None,
                )
            )
    return rows
