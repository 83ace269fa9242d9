"""Suite `compile`: the time to trace and compile the gradient, for several numbers of steps.

Before each measurement, JAX's caches are cleared; the persistent compilation cache is off.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import jax

from benchmarks import timing
from benchmarks.peers.jax_peer import JaxPrepared
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.workload import Shape, make

__all__ = ["run"]

PERSISTENT_CACHE = "jax_enable_compilation_cache"
CONTESTANTS = ("seqjax", "handwritten", "flax_nnx")
SHAPES = tuple(Shape(8, steps, 64, 64) for steps in (16, 128, 1024, 8192))
SHORT = (SHAPES[0], SHAPES[-1])


@contextlib.contextmanager
def no_persistent_cache() -> Iterator[None]:
    """Turn off the compilation cache on disk inside the context."""
    before = getattr(jax.config, PERSISTENT_CACHE)
    jax.config.update(PERSISTENT_CACHE, False)
    try:
        yield
    finally:
        jax.config.update(PERSISTENT_CACHE, before)


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure all cells and numbers of steps; return the rows."""
    rows = []
    with no_persistent_cache():
        for cell in settings.cells:
            for shape in settings.shapes or (SHORT if settings.short else SHAPES):
                say(f"{cell}, {shape.steps} steps")
                rows += _group(cell, shape, settings)
    return rows


def _measure(prepared: JaxPrepared, phases: list[tuple[float, float]]) -> None:
    start = time.perf_counter()
    lowered = prepared.lower("gradient")
    traced = time.perf_counter()
    lowered.compile()
    phases.append((traced - start, time.perf_counter() - traced))


def _group(cell: str, shape: Shape, settings: Settings) -> list[Row]:
    """Measure one cell and shape. The contestants are timed alternately."""
    workload = make(cell, "plain", shape)
    found = {
        name: prepared
        for name, peer in settings.some(CONTESTANTS).items()
        if isinstance(prepared := peer.prepare(workload), JaxPrepared)
    }
    phases: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    calls = {name: functools.partial(_measure, each, phases[name]) for name, each in found.items()}
    repeats = max(3, settings.repeats if not settings.short else 3)
    timing.interleaved(calls, repeats=repeats, warmup=0, before=jax.clear_caches)
    return [
        Row(
            suite="compile",
            cell=cell,
            variant="plain",
            shape=shape,
            what=what,
            contestant=name,
            samples_ms=tuple(1e3 * phase[index] for phase in phases[name]),
        )
        for name in found
        for index, what in enumerate(("lower", "compile"))
    ]
