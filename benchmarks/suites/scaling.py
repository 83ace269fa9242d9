"""Suite `scaling`: the gradient's time as one size grows, and on all devices beside one.

The variant of a row is the size that grows: "steps", "batch" or "hidden".
"""

import gc
from collections.abc import Callable

from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import enter, milliseconds, reference
from benchmarks.workload import Shape, flops, make

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
    """The base shape with one size changed; inputs are as wide as the state."""
    if variant == "hidden":
        return base._replace(inputs=size, hidden=size)
    return base._replace(**{variant: size})


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measures all sizes around the given shapes, the LSTM unless other cells are asked for."""
    cells = settings.cells if len(settings.cells) < 3 else ("lstm",)
    contestants = settings.some(CONTESTANTS)
    rows = []
    for cell in cells:
        for base in settings.shapes or (BASE,):
            for variant, sizes in (SHORT if settings.short else SIZES).items():
                for size in sizes:
                    say(f"{cell}, {variant} {size}")
                    shape = sweep(base, variant, size)
                    workload = make(cell, "plain", shape)
                    expected = reference(workload)
                    entered = {n: enter(p, workload, expected) for n, p in contestants.items()}
                    samples = milliseconds(entered, "gradient", settings)
                    rows += [
                        Row(
                            suite="scaling",
                            cell=cell,
                            variant=variant,
                            shape=shape,
                            what="gradient",
                            contestant=name,
                            samples_ms=samples.get(name, ()),
                            flops=flops(workload.structure, shape.batch, shape.steps, "gradient"),
                            agreement=each.agreement,
                            setting=each.setting,
                            reason=each.reason,
                        )
                        for name, each in entered.items()
                    ]
                    gc.collect()
    return rows
