"""Time one workload for all contestants and precisions, alternately, in one process."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import seqjax
from benchmarks import timing
from benchmarks.device import pytorch, workloads
from benchmarks.device.cases import Setup
from benchmarks.device.precisions import PRECISIONS
from benchmarks.device.programs import Program, compile_all, relative_error
from benchmarks.device.rows import described, measured, reason
from benchmarks.device.worker import Reporter
from benchmarks.device.workloads import Recurrence
from benchmarks.results import Row

__all__ = ["run"]

TORCH, LOOP = "pytorch", "pytorch cell loop"
WHATS = ("forward", "gradient")
SECONDS = 6.0
"""Seconds after which no new round of timing begins, once five rounds are done."""
RESERVE = 3.0
"""Timing stops, and reporting begins, this many seconds before the time limit of the process."""


def run(
    reporter: Reporter,
    cell: str,
    variant: str,
    shape: Sequence[int],
    setups: Sequence[Mapping[str, Any]],
    loop: bool = False,
    suffix: str = "",
) -> None:
    """Measure a workload.

    If the results of a contestant differ too much from the results of the kernel `scan` in float32,
    the contestant is not timed.

    Args:
      reporter: sends progress and rows to the parent process.
      cell: "lstm", "gru" or "min_gru".
      variant: "plain", "lengths" or "resets".
      shape: B, T, I, H.
      setups: the configurations of seqjax to measure, each a dict of the arguments of `Setup`.
      loop: whether PyTorch runs its cell step by step instead of its layer.
      suffix: text that is added to the names of all contestants. It names the flags of XLA if the
        case sets any.
    """
    problem = workloads.make(cell, variant, shape)
    at = functools.partial(described, cell=cell, variant=variant, shape=shape)

    # Once a dtype: the programs of a case share their arrays.
    on_device = functools.cache(functools.partial(_arguments, problem))

    def ours(name: str, setup: Setup, what: str, precision: str) -> Program:
        arguments = on_device(PRECISIONS[precision].dtype)
        return Program(at(what, name, precision), _function(problem, setup, what), arguments)

    contestants = [Setup(**each) for each in setups]
    reference = {what: ours("reference", Setup("scan"), what, "float32") for what in WHATS}
    programs = [
        ours(setup.name + suffix, setup, what, precision)
        for setup in contestants
        for precision in setup.precisions
        for what in WHATS
    ]
    precisions = dict.fromkeys(name for setup in contestants for name in setup.precisions)
    ready = compile_all(reporter, [*reference.values(), *programs])
    expected = {program.row.what: program() for program in ready if program in reference.values()}
    if len(expected) < len(WHATS):
        raise RuntimeError("the reference, scan in float32, could not be compiled")

    entered: list[tuple[Row, Callable[[], Any]]] = []
    for program in ready:
        if program in reference.values():
            continue
        row = measured(
            program.row,
            flops=workloads.operations(cell, shape, program.row.what),
            temp_bytes=temporaries(program.compiled),
            extra={"compile_s": program.seconds},
        )
        enter(reporter, entered, row, program, program, expected)
    for row, call, results in torch_contestants(at, problem, precisions, loop, suffix):
        row = measured(row, flops=workloads.operations(cell, shape, row.what))
        enter(reporter, entered, row, call, results, expected)
    report_times(reporter, entered)


def _arguments(problem: Recurrence, dtype: str) -> tuple[Any, ...]:
    """Return params, xs, lengths, resets and cotangent on the device."""

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)

    given = [None if a is None else jnp.asarray(a) for a in (problem.lengths, problem.resets)]
    return cast(problem.params), cast(problem.xs), *given, cast(problem.cotangent)


def _function(problem: Recurrence, setup: Setup, what: str) -> Callable[..., Any]:
    """Return a function that computes outputs, or gradients with respect to inputs and parameters.

    The function takes the arrays that `_arguments` returns.
    """

    def outputs(params: Any, xs: Any, lengths: Any, resets: Any) -> Any:
        return seqjax.unroll(
            problem.cell, params, xs, lengths=lengths, resets=resets, time_major=True,
            implementation=setup.kernel, unroll=setup.unroll,
        ).outputs  # fmt: skip

    def forward(params: Any, xs: Any, lengths: Any, resets: Any, cotangent: Any) -> Any:
        del cotangent
        return {"outputs": outputs(params, xs, lengths, resets)}

    def gradient(params: Any, xs: Any, lengths: Any, resets: Any, cotangent: Any) -> Any:
        _, transpose = jax.vjp(lambda p, x: outputs(p, x, lengths, resets), params, xs)
        d_params, d_xs = transpose(cotangent)
        return {"xs": d_xs} | d_params._asdict()

    return {"forward": forward, "gradient": gradient}[what]


def temporaries(compiled: Any) -> int | None:
    """Return the bytes of a program's temporary arrays, if the backend reports them."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)


def torch_contestants(
    at: Callable[..., Row], problem: Recurrence, precisions: Iterable[str], loop: bool, suffix: str
) -> Any:
    """Yield a row, a function to time and a function that returns results, for each measurement.

    The measurements are a forward pass and a gradient in each precision. If PyTorch cannot run,
    None takes the place of the first function, and the reason takes the place of the second.
    """
    if problem.common is None:
        return
    name = (LOOP if loop else TORCH) + suffix
    missing = pytorch.obstacle()
    for precision in precisions:
        for what in WHATS:
            row = at(what, name, precision)
            if missing is not None:
                yield row, None, missing
                continue
            from benchmarks.device.torch_contestants import TorchContestant

            # The contestant is made when it is called, so that a crash is attributed to it.
            made = functools.cache(
                functools.partial(TorchContestant, problem, precision, loop=loop)
            )
            yield (
                row,
                lambda made=made, what=what: made().calls()[what](),
                (lambda made=made, what=what: made().results(what)),
            )


def enter(
    reporter: Reporter, entered: list[tuple[Row, Callable[[], Any]]], row: Row, call: Any,
    results: Any, expected: Mapping[str, Any],
) -> None:  # fmt: skip
    """Add a contestant to `entered` if its results are right; otherwise report what is wrong."""
    if not reporter.wanted(row):
        return
    if call is None:
        reporter.row(measured(row, reason=results))
        return
    reporter.doing(row)
    try:
        error = relative_error(results(), expected[row.what])
        call()  # once more: some programs fail when they run for the second time
    except Exception as failure:
        reporter.row(measured(row, reason=reason(failure)))
        return
    limit = PRECISIONS[row.precision].limit
    row = measured(row, agreement=error)
    if not error <= limit:
        verdict = f"disagrees: {error:.1e} is above {limit:.0e}"
        reporter.row(measured(row, reason=verdict))
        return
    entered.append((row, call))


def report_times(reporter: Reporter, entered: Sequence[tuple[Row, Callable[[], Any]]]) -> None:
    """Time all contestants alternately, and report their rows."""
    seconds = timing.interleaved(
        {index: call for index, (_, call) in enumerate(entered)},
        repeats=15,
        warmup=1,
        budget=max(0.0, min(SECONDS, reporter.seconds_left() - RESERVE)),
        announce=lambda index: reporter.doing(entered[index][0]),
    )
    for index, (row, _) in enumerate(entered):
        reporter.row(measured(row, seconds[index]))
