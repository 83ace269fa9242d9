"""Suite `linear`: cells that are linear in their state, by loops and by parallel scans.

The contestant "associative_scan" computes the terms a_t and b_t of a cell and passes them to
`jax.lax.associative_scan`, as a user would write it. It has no masks, resets or states. "memax" is
the LRU of the library memax. The rows of "seqjax scan", "seqjax fused" and "seqjax associative" are
the reason for the planner's choice of a kernel.
"""

import gc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import seqjax
from benchmarks.peers import memax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.cell_programs import Apply, cell_rows, unrolled
from benchmarks.workload import Shape

__all__ = ["CELLS", "run"]

CELLS: dict[str, dict[str, Any]] = {
    "lru": {},
    "s5": {},
    "rg_lru": {},
    "min_gru": {},
    "sru": {"use_peephole": False},
}
"""The cells and their options. With peepholes, the SRU is not linear in its state."""

SHAPES = (Shape(8, 1024, 128, 128), Shape(1, 16384, 64, 64), Shape(32, 256, 256, 256))
SHORT = (Shape(8, 256, 64, 64),)


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure forward and gradient of all cells and shapes; return the rows."""
    rows = []
    for shape in settings.shapes or (SHORT if settings.short else SHAPES):
        for name, options in CELLS.items():
            say(f"{name} {','.join(map(str, shape))}")
            cell = seqjax.CELLS[name](shape.inputs, shape.hidden, **options)
            contestants: dict[str, Apply | str] = {"seqjax": unrolled(cell)}
            for kernel in ("scan", "fused", "associative"):
                contestants[f"seqjax {kernel}"] = unrolled(cell, implementation=kernel)
            contestants["associative_scan"] = _plain(cell)
            if name == "lru":
                contestants["memax"] = memax.lru(cell)
            rows += cell_rows(
                "linear", name, cell, shape, contestants, settings, whats=("forward", "gradient")
            )
            gc.collect()
    return rows


def _plain(cell: Any) -> Apply:
    """Return the contestant that passes the terms of a cell to `jax.lax.associative_scan`."""

    def composed(first: Any, second: Any) -> Any:
        return second[0] * first[0], second[0] * first[1] + second[1]

    def apply(params: Any, xs: jax.Array) -> jax.Array:
        p = cell.prepare(params)
        gates = cell.project(p, xs)
        a, b = cell.linear_terms(p, gates)
        terms = jnp.broadcast_to(a, b.shape), b
        _, states = jax.lax.associative_scan(composed, terms, axis=1)
        outputs: jax.Array = cell.output(p, gates, states)
        return outputs

    return apply
