"""Rows for any cell of `seqjax.CELLS`: programs that are compiled, compared and timed in turn.

`common.py` does the same for the cells that other libraries have, too.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import seqjax
from benchmarks import agreement, timing
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import failure
from benchmarks.workload import Shape

__all__ = ["Apply", "cell_rows", "unrolled"]

Apply: TypeAlias = Callable[[Any, jax.Array], Any]
"""A function from parameters and inputs `[B, T, ...]` to the outputs, or to other arrays."""


def unrolled(cell: seqjax.cells.Cell[Any, Any], **execution: Any) -> Apply:
    """Return the contestant that runs a cell by `seqjax.unroll` with the given options."""
    return lambda params, xs: seqjax.unroll(cell, params, xs, **execution).outputs


def cell_rows(
    suite: str,
    name: str,
    cell: seqjax.cells.Cell[Any, Any],
    shape: Shape,
    contestants: Mapping[str, Apply | str],
    settings: Settings,
    *,
    whats: tuple[str, ...] = ("gradient",),
    variant: str = "plain",
) -> list[Row]:
    """Measure one cell and shape. All contestants are timed alternately.

    Args:
      suite: the name of the suite in the rows.
      name: the name of the cell in the rows.
      cell: the cell, whose parameters are drawn from a fixed seed.
      shape: B, T, I, H.
      contestants: a dict from names to functions, or to the reason why a contestant cannot run. The
        results of all contestants are compared with those of the first.
      settings: the number of repetitions and the time budget.
      whats: "forward", which runs the contestants' functions, and "gradient", which computes the
        gradient of the mean square of each result by the parameters and the inputs.
      variant: the name of the variant in the rows.
    """
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (shape.batch, shape.steps, *cell.input_shape))
    rows = []
    for what in whats:
        entered = _entered(what, contestants, params, xs)
        calls = {
            contestant: functools.partial(_wait, each.program, params, xs)
            for contestant, each in entered.items()
            if each.reason is None
        }
        seconds = timing.interleaved(calls, repeats=settings.repeats, budget=settings.budget)
        rows += [
            Row(
                suite=suite,
                cell=name,
                variant=variant,
                shape=shape,
                what=what,
                contestant=contestant,
                samples_ms=tuple(1e3 * s for s in seconds.get(contestant, ())),
                agreement=each.agreement,
                temp_bytes=_temp_bytes(each.program),
                reason=each.reason,
            )
            for contestant, each in entered.items()
        ]
    return rows


class _Entered(NamedTuple):
    """A compiled program and its difference from the reference, or why it is not timed."""

    program: Any = None
    agreement: float | None = None
    reason: str | None = None


def _entered(
    what: str, contestants: Mapping[str, Apply | str], params: Any, xs: jax.Array
) -> dict[str, _Entered]:
    """Compile all contestants and compare their results with those of the first."""
    found: dict[str, _Entered] = {}
    expected = None
    for name, apply in contestants.items():
        if isinstance(apply, str):
            found[name] = _Entered(reason=apply)
            continue
        try:
            program = jax.jit(_function(apply, what)).lower(params, xs).compile()
            results = [np.asarray(leaf) for leaf in jax.tree.leaves(program(params, xs))]
            expected = expected or results
            limit = agreement.tolerance(jax.default_backend())
            pairs = zip(results, expected, strict=True)
            largest = max(agreement.require("results", *pair, limit) for pair in pairs)
            found[name] = _Entered(program, largest)
        except Exception as error:
            found[name] = _Entered(reason=failure(error))
    return found


def _function(apply: Apply, what: str) -> Callable[[Any, jax.Array], Any]:
    """Return the function that is compiled for "forward" or "gradient"."""

    def loss(params: Any, xs: jax.Array) -> jax.Array:
        leaves = jax.tree.leaves(apply(params, xs))
        return sum((jnp.real(leaf * leaf.conj()).mean() for leaf in leaves), jnp.zeros(()))

    return apply if what == "forward" else jax.grad(loss, argnums=(0, 1))


def _wait(program: Any, params: Any, xs: jax.Array) -> None:
    jax.block_until_ready(program(params, xs))


def _temp_bytes(program: Any) -> int | None:
    """Return the temporary memory of a compiled program."""
    return None if program is None else program.memory_analysis().temp_size_in_bytes
