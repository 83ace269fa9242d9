"""Compare every cell on the device with the same computation on the CPU."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from benchmarks.device.precisions import PRECISIONS
from benchmarks.device.programs import Program, compile_all, relative_error, wide_dtype
from benchmarks.device.rows import described, measured, reason
from benchmarks.device.worker import Reporter
from seqjax.kernels import KERNELS, Spec, target

__all__ = ["run"]

ON_CPU = "scan on the CPU"
"""Name of the reference contestant."""

LIMITS = {"float32": 1e-4, "bf16": 5e-2}
"""The largest relative error that is accepted as rounding, by precision, for a few time steps."""


def run(
    reporter: Reporter, precision: str, shape: Sequence[int], cells: Sequence[str] = ()
) -> None:
    """Compare each cell and kernel, with a mask and resets.

    Args:
      reporter: sends progress and rows to the parent process.
      precision: a name of `PRECISIONS`.
      shape: B, T, I, H.
      cells: the cells to compare, by their names in `seqjax.CELLS`; if empty, all cells.
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
    """Return a dict from variants of the inputs to the names of the kernels that run the cell.

    The variant "mask" has no resets. It is for kernels that do not support all transformations of
    JAX, such as cuDNN's.
    """
    able = [kernel for kernel in KERNELS.values() if kernel.refuses(cell, spec) is None]
    found = {
        "mask and resets": [kernel.name for kernel in able if kernel.transforms],
        "mask": [kernel.name for kernel in able if not kernel.transforms],
    }
    return {variant: names for variant, names in found.items() if names}


def draw(cell: Any, batch: int, steps: int, dtype: str) -> tuple[Any, ...]:
    """Return random params, xs, state, weights, mask and resets. No bias is zero.

    The loss is the sum of all outputs and final states, multiplied by these weights.
    """
    rng = np.random.default_rng(0)

    def normal(like: Any, scale: float) -> Any:
        return jax.tree.map(lambda a: one(a, scale), like)

    def one(like: Any, scale: float) -> Any:
        values = scale * rng.normal(size=like.shape)
        if jnp.iscomplexobj(like):
            return jnp.asarray(values + 1j * scale * rng.normal(size=like.shape), like.dtype)
        return jnp.asarray(values, dtype)

    params = normal(jax.eval_shape(cell.init, jax.random.key(0)), 0.2)
    xs = normal(jax.ShapeDtypeStruct((steps, batch, *cell.input_shape), np.float32), 1.0)
    if cell.reads_elapsed:  # the last feature is a time of at least 0
        xs = xs.at[..., -1].set(abs(xs[..., -1]))
    state = normal(jax.eval_shape(lambda: cell.initial_state((batch,))), 0.5)
    if isinstance(state, seqjax.cells.SLSTMState):  # after a step, its normaliser is at least 1
        state = state._replace(n=1 + abs(state.n))
    mask = rng.random((steps, batch)) < 0.8
    mask[:, -1] = False
    resets = rng.random((steps, batch)) < 0.2
    outputs = jax.eval_shape(lambda: seqjax.unroll(cell, params, xs, state=state, time_major=True))
    weights = normal(outputs, 1.0)
    return params, xs, state, weights, jnp.asarray(mask), jnp.asarray(resets)


def values_and_gradients(
    cell: Any, kernel: str, params: Any, xs: Any, state: Any, weights: Any, mask: Any, resets: Any
) -> Any:
    """Return the outputs and the final state, and the gradients of a loss that depends on both."""

    def loss(params: Any, xs: Any, state: Any) -> Any:
        unrolled = seqjax.unroll(
            cell, params, xs, state=state, mask=mask, resets=resets, time_major=True,
            implementation=kernel,
        )  # fmt: skip
        products = jax.tree.map(product, unrolled, weights)
        return sum(jax.tree.leaves(products)), unrolled

    def product(a: Any, b: Any) -> Any:
        kind = wide_dtype(a)
        return jnp.vdot(a.astype(kind), b.astype(kind)).real

    (_, unrolled), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, state)
    return unrolled, gradients
