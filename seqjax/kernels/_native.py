"""The kernel of the native engine: on a CPU the whole time loop is one call of compiled C++.

`_engines.py` has the primitives that all engines share.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _native as cpp
from seqjax.cells._base import Cell
from seqjax.cells._elman import Elman
from seqjax.cells._gru import GRU
from seqjax.cells._lstm import LSTM
from seqjax.kernels._engine_forms import FORMS, OPERANDS, Engine, Setting, unsuited_cell
from seqjax.kernels._engines import is_divided, parted, run_on
from seqjax.kernels._fused import fused
from seqjax.kernels._kernel import INSTEAD, Kernel, Spec, by_choice, require
from seqjax.kernels._problem import Problem
from seqjax.types import Array, Unrolled

__all__ = ["CPU", "NATIVE", "native"]

PANEL = 4
"""The number of slots in a panel (a group of hidden units); a slot is one SIMD vector."""


def native(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
) -> Unrolled:
    """Run a cell, or a decoder with attention, over time in compiled C++ on a CPU, in float32.

    The values are those of `scan` up to rounding, and bitwise equal for any number of threads. The
    engine also computes reverse-mode gradients. The kernel `fused` computes forward mode and second
    derivatives. The kernel `fused` also runs the whole problem if the state is not float32, if an
    axis is empty (the planner refuses such a problem, but the part after a burn-in may have no
    steps) or of unknown size, or if arrays have explicit shardings. If XLA divides the batch
    over devices, each device runs its part of the batch.

    Args:
      cell: an `LSTM`, a `GRU`, an `Elman` with the activation tanh or relu, or the step of a
        decoder of one layer with additive attention (`seqjax.seq2seq`).
      problem: the time-major arrays of the call; see `Problem`. The inputs `xs` are `[T, ..., I]`
        in float32.
      reverse: whether to process the steps in the order t = T-1 … 0.

    Returns:
      `Unrolled` with time-major outputs, `[T, ..., H]` for a cell.

    Raises:
      ValueError: the kernel does not support the cell or the dtype, or the engine is absent.

    Example:
      >>> from seqjax.cells import MGU
      >>> cell = MGU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> native(cell, Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros))
      Traceback (most recent call last):
      ValueError: implementation: 'native' runs LSTM, GRU and Elman, got MGU; ...
    """
    require(_refuses(cell, Spec((), 1, problem.xs.dtype, "cpu")))
    if _is_left_to_fused(problem) or not FORMS[type(cell)].fits(cell, problem):
        return fused(cell, problem, reverse)
    return run_on(CPU, cell, problem, reverse)


def _refuses(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Return why the engine cannot run a cell, or None if it can.

    The function looks for the engine last, because the search may compile the engine.
    """
    unsuited = _unsuited(cell, spec)
    if unsuited is not None:
        return unsuited
    absent = cpp.why_absent()
    return None if absent is None else f"'native' is absent: {absent}; {INSTEAD}"


def _unsuited(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Return why the engine, even if it is present, cannot run a cell, or None if it can."""
    form = FORMS.get(type(cell))
    unsuited = unsuited_cell(cell) if form is None else form.unsuited(cell)
    if unsuited is not None:
        return f"'native' runs {unsuited}; {INSTEAD}"
    if spec.dtype != jnp.float32:
        return f"'native' runs float32, got xs of {spec.dtype}; {INSTEAD}"
    if spec.platform != "cpu":
        return f"'native' runs on CPUs, got the platform {spec.platform!r}; {INSTEAD}"
    if 0 in (spec.steps, *spec.batch_shape):
        sizes = f"{spec.steps} steps and the batch axes {spec.batch_shape}"
        return f"'native' runs at least one step of at least one sequence, got {sizes}; {INSTEAD}"
    return None


def _absent(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Return why the engine is absent, or None if it is present or cannot run the cell."""
    return None if _unsuited(cell, spec) else cpp.why_absent()


NATIVE = Kernel(
    "native", native, refuses=_refuses, takes=by_choice("native"), absent=_absent, loops=False
)
"""The kernel of the native engine for CPUs; "auto" takes it where the engine is present."""


def _is_left_to_fused(problem: Problem) -> bool:
    """Return whether `fused` runs the problem because the engine cannot."""
    states = jax.tree.leaves((problem.state, problem.reset_state))
    shape = problem.xs.shape
    return (
        any(leaf.dtype != jnp.float32 for leaf in states)
        or not all(isinstance(n, int) and n > 0 for n in shape)
        or is_divided(problem)
    )


# The custom calls of the engine for CPUs.


def _kept(setting: Setting) -> tuple[str, ...]:
    """Return the names of the results that a run stores for the gradient."""
    memory = ("cs",) if "c0" in setting.names else ()
    states = ("hs",) if "mask" in setting.names else ()
    return ("gates", *memory, *states, *(("queries",) if setting.attends else ()))


def _attributes(setting: Setting) -> dict[str, Any]:
    cell = setting.inner
    relu = isinstance(cell, Elman) and cell.activation == "relu"
    kind = 0 if isinstance(cell, LSTM) else 1 if isinstance(cell, GRU) else 3 if relu else 2
    return {
        "cell": np.int32(kind),
        "present": _bits(setting.names),
        "reverse": setting.reverse,
    }


def _bits(names: Sequence[str]) -> np.int32:
    return np.int32(sum(1 << OPERANDS.index(name) for name in names))


def _shapes(operands: Sequence[Any], setting: Setting) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the results of a run, by name."""
    arrays = dict(zip(setting.names, operands, strict=True))
    steps, batch, _ = arrays["xs"].shape
    size = arrays["w_hh"].shape[0]
    lanes = cpp.engine().lanes
    units = lanes * PANEL if isinstance(setting.inner, Elman) else lanes
    panels = -(-size // units)
    found = {
        "ys": (steps, batch, size),
        "h": (batch, size),
        "c": (batch, size),
        "gates": (panels, steps, batch, PANEL, lanes),
        "cs": (panels, steps, batch, lanes),
        "hs": (steps, batch, size),
    }
    if setting.attends:
        keys, values = arrays["keys"].shape, arrays["values"].shape
        found |= {
            "contexts": (steps, batch, values[-1]),
            "weights": (steps, batch, keys[-2]),
            "queries": (steps, batch, keys[-1]),
        }
    return found


def _run_by_engine(*operands: Array, setting: Setting, store: bool) -> list[Array]:
    shapes = _shapes(operands, setting)
    results = [jax.ShapeDtypeStruct(shapes[name], jnp.float32) for name in setting.results(store)]
    call = jax.ffi.ffi_call(cpp.engine().forward, results)
    return list(call(*operands, **_attributes(setting), store=store))


def _gradient_by_engine(*arrays: Array, setting: Setting, moving: tuple[str, ...]) -> list[Array]:
    operands, read, cotangents = parted(arrays, setting)
    of = dict(zip(setting.names, operands, strict=True))
    named = dict(zip(setting.read, read, strict=True))
    named.setdefault("hs", named["ys"])
    given = [
        named[name] for name in ("gates", "cs", "hs", "queries", *setting.attends) if name in named
    ]
    # The engine returns the cotangents of the queries in place of the gradient of their matrix.
    shapes = {name: of[name].shape for name in moving}
    if "w_q" in moving:
        shapes["w_q"] = named["queries"].shape
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes.values()]
    call = jax.ffi.ffi_call(cpp.engine().backward, results)
    attributes = _attributes(setting) | {"wanted": _bits(moving)}
    found = dict(zip(moving, call(*operands, *given, *cotangents, **attributes), strict=True))
    if "w_q" in moving:
        found["w_q"] = _of_query_matrix(of["y0"], named["ys"], found["w_q"], setting.reverse)
    return list(found.values())


def _of_query_matrix(y0: Array, ys: Array, d_queries: Array, reverse: bool) -> Array:
    """Return the gradient of the query matrix: one product of outputs and query cotangents."""
    before = [ys[1:], y0[None]] if reverse else [y0[None], ys[:-1]]
    outputs = jnp.concatenate(before).reshape(-1, y0.shape[-1])
    return outputs.T @ d_queries.reshape(-1, d_queries.shape[-1])


CPU = Engine("cpu", _kept, _shapes, _run_by_engine, _gradient_by_engine, divides=True)
"""The engine in C++."""
