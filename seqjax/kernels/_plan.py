"""The planner: which kernel runs a problem, and how. A pure function of shapes; nothing is timed.

The numbers that depend on the platform stand in `_choices.py`, with the measurement behind each;
`tests/kernels/test_plan.py` is the table of decisions.
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
"""The purposes of a run: values only, reverse-mode derivatives, or forward-mode ones."""

CHUNK_SIZE, CHUNK_STEPS = 16 * MEGABYTE, 10
"""The bytes that a segment stores with "chunk", and the least number of its steps."""
LEAF, FANOUT = 16, 8
"""With "log": steps in the smallest segment, and segments in the next larger one."""


class Reasons(NamedTuple):
    """Why a plan is as it is: one sentence for each decision.

    Attributes:
      kernel: why this kernel runs it.
      inline: why each step projects its own input, or not.
      remat: why this is kept.
      unroll: why so many steps are in one iteration.
    """

    kernel: str
    inline: str
    remat: str
    unroll: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The way in which a problem is run.

    Attributes:
      kernel: which kernel runs it.
      inline: whether each step projects its own input instead of all steps at once before.
      remat: a name of `REMAT` but "auto".
      segments: steps in a segment of checkpointed backpropagation through time, in a segment of
        that one, and so on; empty where every step is stored.
      unroll: steps in one iteration of the compiled loop.
      stored_bytes: about what reverse mode keeps, inputs and outputs not counted.
      reasons: why.

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
    """Chooses how to run a problem.

    Args:
      cell: the cell.
      batch_shape: the batch axes, as `unroll` sees them: not those that `vmap` adds. They and
        `steps` may be symbols in a program that is exported for any size.
      steps: T.
      dtype: the compute dtype.
      execution: what is asked for; the planner chooses the rest.
      platform: "cpu", "gpu", "cuda", "rocm" or "tpu"; if not given, this machine's, or the one that
        a program is exported for.
      wanted: one of `WANTED`. All kernels but "cudnn" have derivatives of every kind, so this
        decides about memory alone.

    Returns:
      The plan.

    Raises:
      ValueError: a budget that no remat meets, `remat="none"` together with a budget it exceeds,
        a kernel that does not run this cell or platform.

    Example:
      >>> import jax.numpy as jnp
      >>> from seqjax.cells import MinGRU
      >>> make_plan(MinGRU(64, 64), (8,), 512, jnp.float32, platform="tpu").kernel.name
      'associative'
    """
    targets = target.platforms() if platform is None else (platform,)
    if len(targets) > 1 or not all(isinstance(n, int) for n in (steps, *batch_shape)):
        # Exported for any size, of which nothing is known; or for several platforms, which differ
        # in what they do with it: at this size all do the same.
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
    """The plan by kernels themselves, so that one that replaces another of its name is seen."""
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
    # A step that is differentiated takes, about, what `update` is given (the gates and the state)
    # and its gradient; and its projection with the gradient, if that is not made in the loop.
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
    """Decide whether each step projects its own input, by the bytes of all projections; say why."""
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
    """The last kernel of the table that takes the problem, and why."""
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
        f"implementation: expected one for {type(cell).__name__}, none of {names} takes it"
    )


def _check_remat(kernel: Kernel, remat: str, budget: int | None) -> None:
    if not kernel.remat and (remat not in ("auto", "none") or budget is not None):
        raise ValueError(
            "remat: expected auto or none and no memory_budget with implementation="
            f"{kernel.name!r}, which keeps what it needs, got {remat!r} and {budget}"
        )


def _sizes(cell: Cell[Any, Any], batch_shape: Shape, dtype: Any) -> tuple[int, int, int]:
    """Bytes a step: of the projection, of all gates, and of the state."""

    def one_step(x: PyTree, state: Any) -> Any:
        p = prepared(cell, cell.init(jax.random.key(0)), dtype)
        projected = cell.project(p, x)
        ran = advance(cell, p, Now(projected), state, output_dtype=dtype, with_output=False)
        here = cell.arrive(p, projected, widened(state))
        tapped = taps.tap(cell.update, p, ran.gates, here)
        made = () if tapped is None else tapped.run(p, ran.gates, here)[1]
        return projected, (ran.gates, made)

    wide = ops.accumulator_dtype(dtype)
    state = jax.eval_shape(lambda: cell.initial_state(batch_shape, wide))
    projected, gates = jax.eval_shape(one_step, input_specs(cell, batch_shape, dtype), state)
    return _bytes(projected), _bytes(gates), _bytes(state)


class _Memory(NamedTuple):
    """The sizes that decide the memory of reverse mode.

    Attributes:
      steps: T.
      step: bytes that one step stores.
      state: bytes of the state, which is kept between segments.
    """

    steps: int
    step: int
    state: int

    def kept(self, segments: tuple[int, ...]) -> int:
        """Bytes kept at the worst moment: the states between segments, one segment's steps."""
        kept, within = 0, self.steps
        for size in segments:
            kept += math.ceil(within / size) * self.state
            within = size
        return kept + within * self.step

    def chunks(self, budget: int | None) -> tuple[int, ...]:
        """Segments of "chunk": the longest within the budget, or of a few megabytes."""
        if budget is None:
            most = max(CHUNK_STEPS, CHUNK_SIZE // max(self.step, 1))
            return _chunks(self.steps, max(1, min(self.steps, most)))
        halvings = [max(1, self.steps >> n) for n in range(1, max(self.steps, 2).bit_length())]
        candidates = [_chunks(self.steps, size) for size in halvings]
        fitting = (segments for segments in candidates if self.kept(segments) <= budget)
        return next(fitting, _chunks(self.steps, max(1, math.isqrt(self.steps))))


def _unroll(kernel: Kernel, asked: int | None, steps: int, choices: Choices) -> tuple[int, str]:
    """The steps of one iteration, given how many run in a row; and why."""
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
    """The remat that was asked for or chosen, the steps of its segments, and why."""
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
    """One level of segments of about that size, of a size that divides T if there is one near."""
    if size >= steps:
        return ()
    near = sorted(range(max(1, size // 2), min(steps, 2 * size)), key=lambda n: abs(n - size))
    return (next((n for n in near if steps % n == 0), size),)


def _levels(steps: int) -> tuple[int, ...]:
    """Segments within segments, each `FANOUT` of the next smaller one; the largest first."""
    sizes = []
    size = LEAF
    while size < steps:
        sizes.append(size)
        size *= FANOUT
    return tuple(reversed(sizes))


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
