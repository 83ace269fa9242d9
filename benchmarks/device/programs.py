"""The programs of one case, which are traced one after another and compiled in parallel."""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.device.precisions import PRECISIONS
from benchmarks.device.rows import reason
from benchmarks.device.worker import Reporter
from benchmarks.results import Row

__all__ = ["Program", "compile_all", "relative_error", "wide_dtype"]


@dataclasses.dataclass(eq=False)
class Program:
    """A function to compile, with the row that its measurement belongs to.

    Attributes:
      row: the row that describes the program. The row's precision decides how float32 matrices are
        multiplied.
      function: the function to compile; it is called with `arguments`.
      arguments: the arguments, as arrays on the device that runs the function.
      compiled: the compiled program, or a string with the reason why compiling failed.
        `compile_all` sets this attribute.
      seconds: the time of tracing and compiling, including waits for programs that are compiled in
        parallel.
    """

    row: Row
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    compiled: Any = None
    seconds: float = 0.0

    def __call__(self) -> Any:
        """Run the program, and wait for its results."""
        return jax.block_until_ready(self.compiled(*self.arguments))


def compile_all(reporter: Reporter, programs: Sequence[Program]) -> list[Program]:
    """Compile programs, and report a row for each program that cannot be compiled.

    Args:
      reporter: sends progress and rows to the parent process. With one thread, the reporter names
        the program that is compiled next, so that a crash of the compiler can be blamed on this
        program; with several threads, it reports only that there is progress.
      programs: the programs to compile. A program that made an earlier process crash or hang is
        left out.

    Returns:
      The programs that were compiled.
    """
    wanted = [program for program in programs if reporter.wanted(program.row)]

    def one(program: Program) -> None:
        start = time.perf_counter()
        if reporter.threads == 1:
            reporter.doing(program.row, slow=True)
        try:
            program.compiled = lowered[id(program)].compile()
        except Exception as error:
            program.compiled = reason(error)
        program.seconds += time.perf_counter() - start
        if reporter.threads > 1:
            reporter.doing(None, slow=True)

    lowered = {}
    for program in wanted:
        start = time.perf_counter()
        reporter.doing(program.row)
        try:
            precision = PRECISIONS[program.row.precision]
            with jax.default_matmul_precision(precision.matmul or "default"):
                lowered[id(program)] = jax.jit(program.function).lower(*program.arguments)
        except Exception as error:
            reporter.row(dataclasses.replace(program.row, reason=reason(error)))
            continue
        program.seconds = time.perf_counter() - start
    traced = [program for program in wanted if id(program) in lowered]
    reporter.doing(None, slow=True)
    with concurrent.futures.ThreadPoolExecutor(reporter.threads) as pool:
        list(pool.map(one, traced))
    for program in traced:
        if isinstance(program.compiled, str):
            reporter.row(dataclasses.replace(program.row, reason=program.compiled))
    return [program for program in traced if not isinstance(program.compiled, str)]


def wide_dtype(array: jax.Array) -> Any:
    """Return the dtype in which an array is compared: complex64 for complex arrays, or float32."""
    return jnp.complex64 if jnp.iscomplexobj(array) else jnp.float32


@jax.jit
def _error(found: Any, expected: Any) -> jax.Array:
    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        kind = wide_dtype(a)
        a, b = a.astype(kind), b.astype(kind)
        return jnp.linalg.norm(a - b) / jnp.maximum(jnp.linalg.norm(b), 1e-6)

    return jnp.stack(jax.tree.leaves(jax.tree.map(one, found, expected))).max()


def relative_error(found: Any, expected: Any) -> float:
    """Return the largest ‖found - expected‖ / ‖expected‖ of the arrays of two equal pytrees."""
    return float(_error(found, expected))
