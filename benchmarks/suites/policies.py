"""Suite `policies`: the gradient through the rollouts of eight policies, which `jax.vmap` maps.

The batch of one call of `unroll` is compared with the same sequences in eight groups, over which
`vmap` maps. Either all groups share their parameters, or each group has parameters of its own.
"""

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers.jax_network import Recurrence
from benchmarks.peers.ours import Seqjax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import gradient_rows
from benchmarks.workload import Shape, Structure, Weights

__all__ = ["run"]

POLICIES = 8
SHAPES = (Shape(32, 100, 128, 128), Shape(128, 64, 32, 64))
SHORT = SHAPES[:1]


@dataclasses.dataclass(frozen=True)
class Mapped(Seqjax):
    """seqjax under `vmap` over groups of the batch, with shared or with separate parameters."""

    separate: bool = False

    def obstacle(self, batch: int) -> str | None:
        return f"a batch of {batch} has no {POLICIES} equal groups" if batch % POLICIES else None

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        found = super().recurrence(structure, lengths=lengths)
        assert isinstance(found, Recurrence)
        axes = (0 if self.separate else None, 1)

        def apply(params: Any, xs: jax.Array, lengths: None) -> jax.Array:
            groups = xs.reshape(xs.shape[0], POLICIES, -1, xs.shape[2])
            run = jax.vmap(lambda params, xs: found.apply(params, xs, lengths), axes, 1)
            return run(params, groups).reshape(*xs.shape[:2], -1)

        def from_common(weights: Weights) -> Any:
            params = found.from_common(weights)
            if not self.separate:
                return params
            return jax.tree.map(lambda p: jnp.broadcast_to(p, (POLICIES, *p.shape)), params)

        return Recurrence(apply, from_common)


CONTESTANTS = {
    "seqjax": Seqjax(),
    "seqjax, vmap, shared parameters": Mapped(),
    "seqjax, vmap, separate parameters": Mapped(separate=True),
}


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure all cells and shapes; return the rows."""
    rows = []
    for shape in settings.shapes or (SHORT if settings.short else SHAPES):
        for cell in settings.cells:
            say(f"{cell} {shape.batch},{shape.steps},{shape.inputs},{shape.hidden}")
            rows += gradient_rows("policies", cell, shape, CONTESTANTS, settings)
            gc.collect()
    return rows
