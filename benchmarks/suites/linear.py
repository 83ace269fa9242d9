"""Suite `linear`: cells that are linear in their state, by loops and by parallel scans.

The contestants "handwritten" and "associative_scan" compute the terms a_t and b_t of a cell for all
steps and pass them to `jax.lax.scan` or `jax.lax.associative_scan`, as a user would write it. They
have no masks, resets or initial states. "memax" is the LRU of the library memax. The planner's
choice of a kernel is based on the rows of "seqjax scan", "seqjax fused" and "seqjax associative".
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
            contestants["handwritten"] = _plain(cell, _states_by_loop)
            contestants["associative_scan"] = _plain(cell, _states_in_parallel)
            if name == "lru":
                contestants["memax"] = memax.lru(cell)
            rows += cell_rows(
                "linear", name, cell, shape, contestants, settings, whats=("forward", "gradient")
            )
            gc.collect()
    return rows


def _plain(cell: Any, states: Callable[[jax.Array, jax.Array], jax.Array]) -> Apply:
    """Return a contestant that computes all states from the terms of a cell by `states`."""

    def apply(params: Any, xs: jax.Array) -> jax.Array:
        p = cell.prepare(params)
        gates = cell.project(p, jnp.swapaxes(xs, 0, 1))
        a, b = cell.linear_terms(p, gates)
        outputs = cell.output(p, gates, states(jnp.broadcast_to(a, b.shape), b))
        return jnp.swapaxes(outputs, 0, 1)

    return apply


def _states_by_loop(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return s_t = a_t s_{t-1} + b_t for all steps, one after another."""

    def step(state: jax.Array, terms: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a_t, b_t = terms
        state = a_t * state + b_t
        return state, state

    return jax.lax.scan(step, jnp.zeros_like(b[0]), (a, b))[1]


def _states_in_parallel(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return s_t = a_t s_{t-1} + b_t for all steps by a parallel scan."""

    def composed(first: Any, second: Any) -> Any:
        return second[0] * first[0], second[0] * first[1] + second[1]

    states: jax.Array = jax.lax.associative_scan(composed, (a, b))[1]
    return states
