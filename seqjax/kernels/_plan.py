"""The planner, which chooses a kernel and its options for a problem without measuring times.

The numbers that depend on the platform are in `_choices.py`, together with the measurements that
justify them. `tests/kernels/test_plan.py` lists the planner's decisions as a table.
"""

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from seqjax._units import readable_bytes
from seqjax.cells import ops
from seqjax.cells._base import Cell, input_specs, prepared, widened
from seqjax.cells.stepping import Now, advance
from seqjax.kernels import _taps as taps
from seqjax.kernels import target
from seqjax.kernels._choices import MEGABYTE, Choices
from seqjax.kernels._execution import Execution
from seqjax.kernels._kernel import Kernel, Spec
from seqjax.kernels._registry import KERNELS, find
from seqjax.types import PyTree, Shape

__all__ = ["WANTED", "Plan", "Reasons", "make_plan"]

Wanted = Literal["values", "gradient", "forward"]
WANTED: tuple[str, ...] = get_args(Wanted)
"""The purposes of a run: values only, reverse-mode derivatives, or forward-mode derivatives."""

CHUNK_SIZE, CHUNK_STEPS = 16 * MEGABYTE, 10
"""The size of a segment of the strategy "chunk": a number of bytes, and at least so many steps."""
LEAF, FANOUT = 16, 8
"""The sizes of the nested segments of the strategy "log".

`LEAF` is the number of steps in one of the smallest segments. `FANOUT` is the number of smaller
segments in a segment of the next level.
"""


class Reasons(NamedTuple):
    """The reasons for the decisions of a plan, one sentence each.

    Attributes:
      kernel: the reason for the kernel.
      inline: the reason why each step projects its own input, or why it does not.
      remat: the reason for the rematerialisation strategy.
      unroll: the reason for the number of steps in one iteration of the loop.
    """

    kernel: str
    inline: str
    remat: str
    unroll: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The kernel and the options with which a problem is run.

    Attributes:
      kernel: the kernel.
      inline: whether each step projects its own input. If `inline` is False, the inputs of all
        steps are projected at once, before the loop.
      remat: the rematerialisation strategy, a name in `REMAT` other than "auto".
      segments: the lengths of the segments of checkpointed backpropagation through time, in steps.
        The first number is the length of the outermost segments, and each later number is the
        length of the segments inside the previous ones. `segments` is empty if the values of every
        step are stored.
      unroll: the number of steps in one iteration of the compiled loop.
      stored_bytes: the approximate number of bytes that reverse mode keeps in addition to inputs
        and outputs.
      reasons: the reasons for the decisions.

    Example:
      >>> import jax.numpy as jnp
      >>> from seqjax.cells import LSTM
      >>> plan = make_plan(LSTM(128, 128), (32,), 100, jnp.float32, platform="tpu")
      >>> plan.kernel.name, plan.inline, plan.segments
      ('fused', False, ())
    """

    kernel: Kernel
    inline: bool
    remat: str
    segments: tuple[int, ...]
    unroll: int
    stored_bytes: int
    reasons: Reasons

    def __str__(self) -> str:
        product = "in each step" if self.inline else "for all steps at once"
        remat = self.remat
        if self.segments:
            remat += f", segments of {' < '.join(map(str, reversed(self.segments)))} steps"
        rows = (
            ("kernel", self.kernel.name),
            ("input product", product),
            ("remat", remat),
            ("unroll", str(self.unroll)),
            ("kept for gradients", f"about {readable_bytes(self.stored_bytes)}"),
        )
        lines = [f"{name:<20}{value}" for name, value in rows]
        return "\n".join([*lines, *(f"- {reason}" for reason in self.reasons)])


def make_plan(
    cell: Cell[Any, Any],
    batch_shape: Shape,
    steps: int,
    dtype: Any,
    execution: Execution | None = None,
    *,
    platform: str | None = None,
    wanted: str = "gradient",
) -> Plan:
    """Choose how to run a problem.

    Args:
      cell: the cell.
      batch_shape: the sizes of the batch axes, except axes that `jax.vmap` adds. If a program is
        exported for any size, the sizes in `batch_shape` and `steps` may be symbols.
      steps: the number of time steps, T.
      dtype: the compute dtype.
      execution: the options of the run. The planner chooses the options that are not set.
      platform: "cpu", "gpu", "cuda", "rocm" or "tpu". The default is the platform of this machine
        or, during an export, the platform for which the program is exported.
      wanted: one of `WANTED`. The memory strategy depends on `wanted`, but the choice of the kernel
        does not.

    Returns:
      The plan.

    Raises:
      ValueError: no strategy meets the memory budget, `remat="none"` exceeds the budget, or the
        kernel does not support the cell or the platform.

    Example:
      >>> import jax.numpy as jnp
      >>> from seqjax.cells import MinGRU
      >>> make_plan(MinGRU(64, 64), (8,), 512, jnp.float32, platform="tpu").kernel.name
      'associative'
    """
    targets = target.platforms() if platform is None else (platform,)
    if len(targets) > 1 or not all(isinstance(n, int) for n in (steps, *batch_shape)):
        # The plan is made for a problem of size 1. If the program is exported for any size, the
        # size is unknown. If it is exported for several platforms, their plans for larger problems
        # may differ.
        batch_shape, steps = (), 1
    execution = Execution.of(execution)
    spec = Spec(tuple(batch_shape), steps, jnp.dtype(dtype), targets[0])
    kernel = find(execution.implementation)
    return _planned(cell, spec, wanted, execution, kernel, tuple(KERNELS.values()))


@functools.lru_cache(maxsize=4096)
def _planned(
    cell: Cell[Any, Any],
    spec: Spec,
    wanted: str,
    execution: Execution,
    asked: Kernel | None,
    candidates: tuple[Kernel, ...],
) -> Plan:
    """Return the plan. `candidates` is an argument because `KERNELS` may change between calls."""
    remat: str = execution.remat
    budget = execution.memory_budget
    if asked is None:
        kernel, why_kernel = _first_that_takes(cell, spec, candidates)
    else:
        kernel, why_kernel = asked, f"{asked.name} was asked for"
    _check_remat(kernel, remat, budget)
    kernel.require(cell, spec)
    projected, gates, state = _sizes(cell, spec.batch_shape, spec.dtype)
    inline, why_inline = _inline(kernel, projected * spec.steps, spec.choices)
    # Approximate number of bytes that one step needs while its segment is differentiated: the
    # gates, the state and their gradients, and, if inputs are projected before the loop, the
    # projection and its gradient.
    step = 2 * (gates + state) + (0 if inline else 2 * projected)
    memory = _Memory(spec.steps, step, state)
    if wanted == "gradient":
        remat, segments, why_remat = _segments(kernel, remat, budget, memory, spec.choices)
        kept = memory.kept(segments)
    else:
        remat, segments, why_remat, kept = "none", (), f"nothing is kept for {wanted}", 0
    in_a_row = segments[-1] if segments else spec.steps
    unroll, why_unroll = _unroll(kernel, execution.unroll, in_a_row, spec.choices)
    reasons = Reasons(why_kernel, why_inline, why_remat, why_unroll)
    return Plan(kernel, inline, remat, segments, unroll, kept, reasons)


def _inline(kernel: Kernel, projected: int, choices: Choices) -> tuple[bool, str]:
    """Return whether each step projects its own input, and the reason.

    The projections of all steps have `projected` bytes together.
    """
    limit, because = choices.inline_from
    if not kernel.loops:
        return False, f"{kernel.name} has no loop that could project inputs"
    if limit is None:
        return False, f"inputs are projected for all steps at once ({because})"
    size = f"the projections of all steps, {readable_bytes(projected)},"
    if projected >= limit:
        return True, f"{size} are not less than {readable_bytes(limit)} ({because})"
    return False, f"{size} are less than {readable_bytes(limit)} ({because})"


def _first_that_takes(
    cell: Cell[Any, Any], spec: Spec, candidates: tuple[Kernel, ...]
) -> tuple[Kernel, str]:
    """Return the kernel that "auto" chooses, and the reason.

    The candidates are tried in reverse order. The result is the first one that can run the problem
    and whose `takes` gives a reason.
    """
    absent: list[str] = []
    for kernel in reversed(candidates):
        if kernel.refuses(cell, spec) is None:
            reason = kernel.takes(cell, spec)
            if reason is not None:
                return kernel, "; ".join([f"{kernel.name}: {reason}", *absent])
        elif (lack := kernel.absent(cell, spec)) is not None:
            absent.append(f"{kernel.name} is absent: {lack}")
    names = ", ".join(kernel.name for kernel in candidates)
    raise ValueError(
        f"implementation: expected a kernel for {type(cell).__name__}, none of {names} takes it"
    )


def _check_remat(kernel: Kernel, remat: str, budget: int | None) -> None:
    if not kernel.remat and (remat not in ("auto", "none") or budget is not None):
        raise ValueError(
            "remat: expected auto or none and no memory_budget with implementation="
            f"{kernel.name!r}, which cannot run by segments, got {remat!r} and {budget}"
        )


def _sizes(cell: Cell[Any, Any], batch_shape: Shape, dtype: Any) -> tuple[int, int, int]:
    """Return the sizes in bytes of one step's projection, of its gates, and of the state."""

    def one_step(params: PyTree, x: PyTree, state: Any) -> Any:
        p = prepared(cell, params, dtype)
        projected = cell.project(p, x)
        ran = advance(cell, p, Now(projected), state, output_dtype=dtype, with_output=False)
        here = cell.arrive(p, projected, widened(state))
        tapped = taps.tap(cell.update, p, ran.gates, here)
        made = () if tapped is None else tapped.run(p, ran.gates, here)[1]
        return projected, (ran.gates, made)

    wide = ops.accumulator_dtype(dtype)
    state = jax.eval_shape(lambda: cell.initial_state(batch_shape, wide))
    xs = input_specs(cell, batch_shape, dtype)
    projected, gates = jax.eval_shape(one_step, cell.param_specs(), xs, state)
    return _bytes(projected), _bytes(gates), _bytes(state)


class _Memory(NamedTuple):
    """The sizes that determine the memory of reverse mode.

    Attributes:
      steps: the number of time steps, T.
      step: the number of bytes that one step needs while its segment is differentiated.
      state: the number of bytes of the state, which is stored between segments.
    """

    steps: int
    step: int
    state: int

    def kept(self, segments: tuple[int, ...]) -> int:
        """Return the peak number of bytes of reverse mode.

        These bytes hold the states between segments, and the values of the steps of one segment.
        """
        kept, within = 0, self.steps
        for size in segments:
            kept += math.ceil(within / size) * self.state
            within = size
        return kept + within * self.step

    def chunks(self, budget: int | None) -> tuple[int, ...]:
        """Return the segments of the strategy "chunk".

        The segments are as long as the budget permits. Without a budget, each segment stores a few
        megabytes.
        """
        if budget is None:
            most = max(CHUNK_STEPS, CHUNK_SIZE // max(self.step, 1))
            return _chunks(self.steps, max(1, min(self.steps, most)))
        halvings = [max(1, self.steps >> n) for n in range(1, max(self.steps, 2).bit_length())]
        candidates = [_chunks(self.steps, size) for size in halvings]
        fitting = (segments for segments in candidates if self.kept(segments) <= budget)
        return next(fitting, _chunks(self.steps, max(1, math.isqrt(self.steps))))


def _unroll(kernel: Kernel, asked: int | None, steps: int, choices: Choices) -> tuple[int, str]:
    """Return the number of steps in one iteration of a loop over `steps` steps, and the reason."""
    if not kernel.loops:
        return asked or 1, "there is no loop to unroll"
    if asked is not None:
        return asked, f"unroll={asked} was asked for"
    chosen, because = choices.unroll
    if chosen > 1 and steps < 2 * chosen:
        return 1, f"unroll=1: only {steps} steps run in a row"
    return chosen, f"unroll={chosen} ({because})"


def _segments(
    kernel: Kernel, remat: str, budget: int | None, memory: _Memory, choices: Choices
) -> tuple[str, tuple[int, ...], str]:
    """Return the rematerialisation strategy, the sizes of its segments, and the reason."""
    if not kernel.remat:
        return "none", (), f"{kernel.name} keeps what its backward pass needs"

    asked = f"{remat} was asked for"
    candidates = {
        "none": (),
        "chunk": memory.chunks(budget),
        "sqrt": _chunks(memory.steps, max(1, math.isqrt(memory.steps))),
        "log": _levels(memory.steps),
    }
    if remat == "auto" and budget is None:
        whole = memory.kept(())
        limit, because = choices.chunk_from
        if limit is not None and whole >= limit:
            size = readable_bytes(whole)
            why = f"{size} would be kept, not less than {readable_bytes(limit)} ({because})"
            return "chunk", candidates["chunk"], why
        return "none", (), f"{readable_bytes(whole)} are kept without running any step twice"
    if budget is None:
        return remat, candidates[remat], asked
    names = list(candidates) if remat == "auto" else [remat]
    needs = {name: memory.kept(candidates[name]) for name in names}
    for name, need in needs.items():
        if need <= budget:
            why = f"within the budget of {readable_bytes(budget)} with the fewest steps run again"
            return name, candidates[name], why if remat == "auto" else asked
    raise ValueError(
        f"memory_budget: expected at least {min(needs.values())} bytes with remat={remat!r} for "
        f"{memory.steps} steps, got {budget}"
    )


def _chunks(steps: int, size: int) -> tuple[int, ...]:
    """Return a segment size close to `size`, preferably one that divides `steps`, as a tuple."""
    if size >= steps:
        return ()
    near = sorted(range(max(1, size // 2), min(steps, 2 * size)), key=lambda n: abs(n - size))
    return (next((n for n in near if steps % n == 0), size),)


def _levels(steps: int) -> tuple[int, ...]:
    """Return the sizes of nested segments, each `FANOUT` times the next size in the tuple."""
    sizes = []
    size = LEAF
    while size < steps:
        sizes.append(size)
        size *= FANOUT
    return tuple(reversed(sizes))


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
