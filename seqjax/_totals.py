"""The sums of a linear read-out's cross entropies, computed by chunks or by the native engine.

Both compute the value and all gradients in one pass. On a CPU, the native engine takes large
problems in float32: one custom call computes the products and, while the logits of a block of
positions are in the cache, their softmax. Everything else is computed by chunks (`_chunked`).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import partial_eval

from seqjax import _chunked
from seqjax import _native as cpp
from seqjax.cells import ops
from seqjax.kernels import _engines as engines
from seqjax.kernels import _scan as scanning
from seqjax.kernels import target
from seqjax.kernels._engine_forms import Engine
from seqjax.kernels._native import CPU
from seqjax.types import Array

__all__ = ["suits_native", "totals"]

LEAST_POSITIONS = 128
"""The least number of positions for which the native engine is taken on a CPU.

For fewer positions, preparing the matrix takes more time than is saved."""
LEAST_OPERATIONS = 4 * 10**6
"""The least product N·H·C of the sizes for which the native engine is taken."""
SLOPES = ("kernel", "bias", "hidden")
"""The arrays that have gradients, in the order of the engine's results."""


def suits_native(readout: _chunked.Readout, positions: _chunked.Positions) -> bool:
    """Return whether the native engine is taken for a problem, if the program runs on one CPU.

    The function looks for the engine last, because the search may compile the engine.
    """
    floats = [a for a in (*readout, positions.hidden) if a is not None]
    count = positions.labels.shape[0]
    sizes = (*readout.kernel.shape, count)
    return (
        target.platforms() == ("cpu",)
        and all(a.dtype == jnp.float32 for a in floats)
        and all(isinstance(size, int) for size in sizes)
        and count >= LEAST_POSITIONS
        and math.prod(sizes) >= LEAST_OPERATIONS
        and max(sizes) < 2**31
        and not engines.is_divided((readout, positions))
        and cpp.why_absent() is None
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def totals(
    setting: _chunked.Setting,
    native: bool,
    readout: _chunked.Readout,
    positions: _chunked.Positions,
    divisor: Array,
) -> _chunked.Scores:
    """Return the sums of the scores over the real positions, the nats divided by a number.

    The derivative computes the value and all gradients in one pass. Forward mode and higher
    derivatives work.

    Args:
      setting: the options that are known when a program is traced.
      native: whether the native engine computes the sums on a CPU.
      readout: matrix and bias.
      positions: hidden states, labels and mask.
      divisor: a scalar that has no derivative.
    """
    scores, _ = _pass(setting, native, (), readout, positions, divisor)
    return scores


@functools.partial(totals.defjvp, symbolic_zeros=True)
def _totals_jvp(
    setting: _chunked.Setting, native: bool, primals: Any, tangents: Any
) -> tuple[_chunked.Scores, _chunked.Scores]:
    readout, positions, divisor = primals
    moved, (moved_hidden, *_), _ = tangents
    moving = dict(zip(SLOPES, (moved.kernel, moved.bias, moved_hidden), strict=True))
    if readout.bias is None:
        del moving["bias"]
    wanted = tuple(name for name, t in moving.items() if not isinstance(t, SymbolicZero))
    value, slopes = _pass(setting, native, wanted, readout, positions, divisor)
    dtype = ops.accumulator_dtype(readout.kernel.dtype)
    moves = [
        (slope * moving[name].astype(dtype)).sum()
        for name, slope in zip(wanted, slopes, strict=True)
    ]
    still = scanning.varying_like(jnp.zeros((), dtype), (readout, positions))
    return value, _chunked.Scores(sum(moves, still), still)


def _pass(
    setting: _chunked.Setting,
    native: bool,
    wanted: tuple[str, ...],
    readout: _chunked.Readout,
    positions: _chunked.Positions,
    divisor: Array,
) -> tuple[_chunked.Scores, list[Array]]:
    """Return the sums, and the gradients of the first sum, both divided by the divisor."""
    divisor = divisor.astype(ops.accumulator_dtype(readout.kernel.dtype))
    if native:
        pass_ = Pass(setting, wanted, readout.bias is not None)
        arrays = [a for a in (*readout, *positions, divisor) if a is not None]
        found = _run.bind(*scanning.varying_like(arrays, arrays), setting=pass_)
    else:
        found = _by_chunks(setting, wanted, readout, positions, divisor)
    nats, hits, *slopes = found
    return _chunked.Scores(nats, hits), slopes


def _by_chunks(
    setting: _chunked.Setting,
    wanted: tuple[str, ...],
    readout: _chunked.Readout,
    positions: _chunked.Positions,
    divisor: Array,
) -> list[Array]:
    if wanted:
        scores, slopes = _chunked.sums_and_slopes(setting, wanted, readout, positions)
    else:
        scores, slopes = _chunked.sums(setting, readout, positions), []
    return [scores.nats / divisor, scores.hits, *(slope / divisor for slope in slopes)]


# The custom call of the native engine.


class Pass(NamedTuple):
    """The arguments of a pass of the native engine that are not arrays.

    Attributes:
      chunks: the options of the pass, also for the computation by chunks.
      wanted: the arrays whose gradients are computed, a subset of `SLOPES`.
      biased: whether there is a bias.
      engine: the engine.
    """

    chunks: _chunked.Setting
    wanted: tuple[str, ...]
    biased: bool
    engine: Engine = CPU

    def parts(self, arrays: Any) -> tuple[_chunked.Readout, _chunked.Positions, Any]:
        """Return read-out, positions and divisor, given the arrays of the primitive."""
        matrix, *rest = arrays
        bias, rest = (rest[0], rest[1:]) if self.biased else (None, rest)
        return _chunked.Readout(matrix, bias), _chunked.Positions(*rest[:-1]), rest[-1]

    def types_of_slopes(self, arrays: Any) -> list[Any]:
        """Return the arrays, or their types, that have the shapes of the gradients."""
        readout, positions, _ = self.parts(arrays)
        of = dict(zip(SLOPES, (*readout, positions.hidden), strict=True))
        return [of[name] for name in self.wanted]


def _run_by_chunks(*arrays: Array, setting: Pass) -> list[Array]:
    return _by_chunks(setting.chunks, setting.wanted, *setting.parts(arrays))


def _run_by_engine(*arrays: Array, setting: Pass) -> list[Array]:
    readout, positions, divisor = setting.parts(arrays)
    shapes = [positions.labels.shape] * 2 + [a.shape for a in setting.types_of_slopes(arrays)]
    call = jax.ffi.ffi_call(
        cpp.engine().readout, [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    )
    labels = positions.labels.astype(jnp.int32)
    given = [*readout, positions.hidden, labels, positions.real]
    nats, hits, *slopes = call(
        *(a for a in given if a is not None),
        *([1 / divisor] if setting.wanted else []),
        smoothing=np.float32(setting.chunks.label_smoothing),
        transposed=bool(setting.chunks.features_axis),
        biased=setting.biased,
        wanted=np.int32(sum(1 << SLOPES.index(name) for name in setting.wanted)),
    )
    return [nats.sum() / divisor, hits.sum(), *slopes]


_run = engines.engine_primitive("readout", _run_by_chunks, _run_by_engine, _run_by_chunks)


def _of_run(*arrays: Any, setting: Pass) -> list[Any]:
    like = functools.partial(engines.result_like, arrays[0], dtype=jnp.float32)
    return [like(shape=()), like(shape=())] + [
        like(shape=a.shape) for a in setting.types_of_slopes(arrays)
    ]


_run.def_abstract_eval(_of_run)


def _forget(used: list[bool], *live_and_equation: Any) -> Any:
    """Remove the gradients that nothing reads, as in the first run under `jax.checkpoint`."""
    equation = live_and_equation[-1]  # JAX 0.12 passes the live operands before it
    setting = equation.params["setting"]
    if not any(used):
        return [False] * len(equation.invars), None
    kept = [True, True, *used[2:]]
    wanted = tuple(name for name, keep in zip(setting.wanted, used[2:], strict=True) if keep)
    equation = equation.replace(
        outvars=[out for out, keep in zip(equation.outvars, kept, strict=True) if keep],
        params={"setting": setting._replace(wanted=wanted)},
    )
    return [True] * len(equation.invars), equation


partial_eval.dce_rules[_run] = _forget
