"""Suite `deferred`: the gain of computing weight gradients after the backward loop.

The gradient of each cell is timed alternately with two kernels of the library. The loop of `scan`
adds to each weight's gradient at every step. `fused` computes each weight's gradient as one
product.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import seqjax
from benchmarks import timing
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.workload import Shape

__all__ = ["run"]

KERNELS = ("seqjax scan", "seqjax fused")
SHAPE = Shape(32, 100, 128, 128)
SMALL = Shape(4, 10, 16, 16)
CELLS = (
    "lstm", "gru", "cho_gru", "mgu", "projected_lstm", "peephole_lstm", "layer_norm_lstm",
    "elman_readout", "indrnn",
)  # fmt: skip
SPATIAL = {"conv_lstm_1d": Shape(8, 20, 8, 16), "conv_lstm_2d": Shape(8, 20, 8, 16)}
"""The shapes for convolutional cells. I and H are numbers of channels.

Each spatial axis has 16 points.
"""


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure the gradients of all cells with both kernels; return the rows."""
    rows = []
    small = SMALL if settings.short else None
    for name in CELLS:
        rows += _group(name, seqjax.CELLS[name], small or SHAPE, {}, settings, say)
    for name, shape in SPATIAL.items():
        points = {"spatial_shape": 4 if settings.short else 16}
        rows += _group(name, seqjax.CELLS[name], small or shape, points, settings, say)
    return rows


def _group(
    name: str,
    kind: Any,
    shape: Shape,
    options: dict[str, int],
    settings: Settings,
    say: Callable[[str], None],
) -> list[Row]:
    """Measure one cell by both kernels."""
    say(f"{name} {shape.batch},{shape.steps},{shape.inputs},{shape.hidden}")
    cell = kind(shape.inputs, shape.hidden, **options)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (shape.batch, shape.steps, *cell.input_shape))

    def gradient(kernel: str, params: Any, xs: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            ran = seqjax.unroll(cell, params, xs, implementation=kernel, remat="none")
            return jnp.square(ran.outputs).mean()

        return jax.grad(loss)(params)

    compiled = {
        contestant: jax.jit(functools.partial(gradient, contestant.split()[1]))
        .lower(params, xs)
        .compile()
        for contestant in KERNELS
    }
    got, want = (jax.tree.leaves(compiled[each](params, xs)) for each in reversed(KERNELS))
    scale = max(float(jnp.abs(leaf).max()) for leaf in want)
    worst = max(float(jnp.abs(a - b).max()) for a, b in zip(got, want, strict=True))

    def waited(contestant: str) -> None:
        jax.block_until_ready(compiled[contestant](params, xs))

    calls = {contestant: functools.partial(waited, contestant) for contestant in KERNELS}
    seconds = timing.interleaved(calls, repeats=settings.repeats, budget=settings.budget)
    return [
        Row(
            suite="deferred",
            cell=name,
            variant="x".join(["16"] * (len(cell.input_shape) - 1)) or "plain",
            shape=shape,
            what="gradient",
            contestant=contestant,
            samples_ms=tuple(1e3 * s for s in seconds[contestant]),
            agreement=worst / scale,
            temp_bytes=_temp_bytes(compiled[contestant]),
        )
        for contestant in KERNELS
    ]


def _temp_bytes(program: Any) -> int:
    """Return the temporary memory of a compiled program."""
    size: int = program.memory_analysis().temp_size_in_bytes
    return size
