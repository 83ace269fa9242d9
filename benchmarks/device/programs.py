"""Programs of one case: they are traced one by one and compiled side by side."""

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

__all__ = ["Program", "compile_all", "relative_error"]


@dataclasses.dataclass(eq=False)
class Program:
    """A function to compile, with the row that its measurement belongs to.

    Attributes:
      row: says what it is; its precision decides how float32 is multiplied.
      function: of `arguments`.
      arguments: arrays on the device that it runs on.
      compiled: the program, once `compile_all` has run; or the reason why there is none.
      seconds: for tracing and compiling; includes waiting for programs compiled in parallel.
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
    """Compile programs, and report a row for each that cannot be compiled.

    Args:
      reporter: sends progress and rows to the parent process. With one thread it says which
        program is compiled next, so that a crash of the compiler can be blamed on it; with several
        threads it says only that there is progress.
      programs: to compile; those that ended an earlier process are left out.

    Returns:
      The programs that are ready.
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


@jax.jit
def _error(found: Any, expected: Any) -> jax.Array:
    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        return jnp.linalg.norm(a - b) / jnp.maximum(jnp.linalg.norm(b), 1e-6)

    return jnp.stack(jax.tree.leaves(jax.tree.map(one, found, expected))).max()


def relative_error(found: Any, expected: Any) -> float:
    """Return the largest ‖found - expected‖ / ‖expected‖ of the arrays of two equal pytrees."""
    return float(_error(found, expected))
