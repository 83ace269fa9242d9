"""Every cell on the device against the same values computed on the CPU: outputs and gradients."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from benchmarks.device.precisions import PRECISIONS
from benchmarks.device.programs import Program, compile_all, relative_error
from benchmarks.device.rows import described, measured, reason
from benchmarks.device.worker import Reporter
from seqjax.cells.minimal import LinearCell

__all__ = ["run"]

LIMITS = {"float32": 1e-4, "bf16": 5e-2}
"""Largest relative error that rounding explains over a few steps."""


def run(
    reporter: Reporter, precision: str, shape: Sequence[int], cells: Sequence[str] = ()
) -> None:
    """Compare each cell and kernel, with masks, resets and both directions of time.

    Args:
      reporter: the conversation.
      precision: a name of `PRECISIONS`.
      shape: B, T, I, H.
      cells: names of `seqjax.CELLS`; all if empty.
    """
    batch, steps, inputs, hidden = shape
    cpu, device = jax.local_devices(backend="cpu")[0], jax.devices()[0]
    programs, expected = [], {}
    for name in cells or seqjax.CELLS:
        cell = seqjax.CELLS[name](input_size=inputs, hidden_size=hidden)
        numbers = draw(cell, batch, steps, PRECISIONS[precision].dtype)
        for variant, kernels in variants(cell, jax.default_backend(), precision).items():
            arguments = without_resets(numbers) if variant == "mask" else numbers
            reference = functools.partial(values_and_gradients, cell, "scan")
            for kernel in kernels:
                row = described(
                    "correctness", kernel, precision, cell=name, variant=variant, shape=shape
                )
                function = functools.partial(values_and_gradients, cell, kernel)
                programs.append(Program(row, function, jax.device_put(arguments, device)))
            reporter.doing(described("correctness", "scan on the CPU", precision, cell=name))
            with jax.default_device(cpu), jax.default_matmul_precision("highest"):
                there = jax.device_put(arguments, cpu)
                expected[name, variant] = jax.tree.map(np.asarray, jax.jit(reference)(*there))
    for program in compile_all(reporter, programs):
        row = program.row
        reporter.doing(row)
        try:
            error = relative_error(program(), expected[row.cell, row.variant])
        except Exception as failure:
            reporter.row(measured(row, reason=reason(failure)))
            continue
        limit = LIMITS[precision]
        verdict = None if error <= limit else f"disagrees: {error:.1e} is above {limit:.0e}"
        reporter.row(measured(row, agreement=error, reason=verdict))


def variants(cell: Any, platform: str, precision: str) -> dict[str, list[str]]:
    """Return the kernels that run a cell, by what else is given."""
    kernels = ["scan", "fused", *(["associative"] if isinstance(cell, LinearCell) else [])]
    found = {"mask and resets": kernels}
    if type(cell) is seqjax.cells.LSTM and platform == "gpu" and precision == "float32":
        found["mask"] = ["cudnn"]
    return found


def draw(cell: Any, batch: int, steps: int, dtype: str) -> tuple[Any, ...]:
    """Return params, xs, state, mask, resets and the weights of the loss; no bias is zero."""
    rng = np.random.default_rng(0)

    def normal(like: Any, scale: float) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape), dtype), like)

    params = normal(jax.eval_shape(cell.init, jax.random.key(0)), 0.2)
    xs = normal(jax.ShapeDtypeStruct((steps, batch, *cell.input_shape), np.float32), 1.0)
    state = normal(jax.eval_shape(lambda: cell.initial_state((batch,))), 0.5)
    mask = rng.random((steps, batch)) < 0.8
    mask[:, -1] = False
    resets = rng.random((steps, batch)) < 0.2
    outputs = jax.eval_shape(lambda: seqjax.unroll(cell, params, xs, state=state, time_major=True))
    weights = normal(outputs, 1.0)
    return params, xs, state, weights, jnp.asarray(mask), jnp.asarray(resets)


def without_resets(numbers: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the same problem without resets."""
    return *numbers[:-1], None


def values_and_gradients(
    cell: Any, kernel: str, params: Any, xs: Any, state: Any, weights: Any, mask: Any, resets: Any
) -> Any:
    """Return outputs and final state, and gradients of a loss of both, in both directions."""
    found = []
    for reverse in (False, True):

        def loss(params: Any, xs: Any, state: Any, reverse: bool = reverse) -> Any:
            unrolled = seqjax.unroll(
                cell, params, xs, state=state, mask=mask, resets=resets, reverse=reverse,
                time_major=True, implementation=kernel,
            )  # fmt: skip
            products = jax.tree.map(
                lambda a, b: jnp.vdot(a.astype(jnp.float32), b.astype(jnp.float32)),
                unrolled, weights,
            )  # fmt: skip
            return sum(jax.tree.leaves(products)), unrolled

        (_, unrolled), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            params, xs, state
        )
        found.append((unrolled, gradients))
    return found
