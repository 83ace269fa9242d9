"""Compare every cell on the device with the same computation on the CPU."""

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
from seqjax.kernels import KERNELS, Spec, target

__all__ = ["run"]

ON_CPU = "scan on the CPU"
"""Name of the reference contestant."""

LIMITS = {"float32": 1e-4, "bf16": 5e-2}
"""Largest relative error that rounding explains over a few steps."""


def run(
    reporter: Reporter, precision: str, shape: Sequence[int], cells: Sequence[str] = ()
) -> None:
    """Compare each cell and kernel, with a mask and resets.

    Args:
      reporter: sends progress and rows to the parent process.
      precision: a name of `PRECISIONS`.
      shape: B, T, I, H.
      cells: names of `seqjax.CELLS`; all if empty.
    """
    batch, steps, inputs, hidden = shape
    cpu, device = jax.local_devices(backend="cpu")[0], jax.devices()[0]
    programs = []
    for name in cells or seqjax.CELLS:
        cell = seqjax.CELLS[name](input_size=inputs, hidden_size=hidden)
        numbers = draw(cell, batch, steps, PRECISIONS[precision].dtype)
        at = functools.partial(
            described, "correctness", precision=precision, cell=name, shape=shape
        )
        spec = Spec((batch,), steps, jnp.dtype(numbers[1].dtype), target.this_machine())
        for variant, kernels in variants(cell, spec).items():
            given = numbers if variant == "mask and resets" else (*numbers[:-1], None)
            for contestant, kernel, where in (
                (ON_CPU, "scan", cpu),
                *((kernel, kernel, device) for kernel in kernels),
            ):
                function = functools.partial(values_and_gradients, cell, kernel)
                arguments = jax.device_put(given, where)
                row = at(contestant=contestant, variant=variant)
                programs.append(Program(row, function, arguments))
    ready = compile_all(reporter, programs)
    expected = {}
    for program in ready:
        row = program.row
        reporter.doing(row)
        try:
            if row.contestant == ON_CPU:
                expected[row.cell, row.variant] = jax.tree.map(np.asarray, program())
                continue
            if (row.cell, row.variant) not in expected:
                reporter.row(measured(row, reason="not compared: the CPU reference failed"))
                continue
            error = relative_error(program(), expected[row.cell, row.variant])
        except Exception as failure:
            reporter.row(measured(row, reason=reason(failure)))
            continue
        limit = LIMITS[precision]
        verdict = None if error <= limit else f"disagrees: {error:.1e} is above {limit:.0e}"
        reporter.row(measured(row, agreement=error, reason=verdict))


def variants(cell: Any, spec: Spec) -> dict[str, list[str]]:
    """Return the kernels that run a cell, by what else is given.

    Kernels that not all transformations work for, such as cuDNN's, have no resets.
    """
    able = [kernel for kernel in KERNELS.values() if kernel.refuses(cell, spec) is None]
    found = {
        "mask and resets": [kernel.name for kernel in able if kernel.transforms],
        "mask": [kernel.name for kernel in able if not kernel.transforms],
    }
    return {variant: names for variant, names in found.items() if names}


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


def values_and_gradients(
    cell: Any, kernel: str, params: Any, xs: Any, state: Any, weights: Any, mask: Any, resets: Any
) -> Any:
    """Return outputs and final state, and gradients of a loss of both."""

    def loss(params: Any, xs: Any, state: Any) -> Any:
        unrolled = seqjax.unroll(
            cell, params, xs, state=state, mask=mask, resets=resets, time_major=True,
            implementation=kernel,
        )  # fmt: skip
        products = jax.tree.map(
            lambda a, b: jnp.vdot(a.astype(jnp.float32), b.astype(jnp.float32)), unrolled, weights
        )
        return sum(jax.tree.leaves(products)), unrolled

    (_, unrolled), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, state)
    return unrolled, gradients
