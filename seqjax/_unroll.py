"""`unroll`, the public way to run a cell over a sequence: it checks, plans, and calls a kernel."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks, sequences
from seqjax._arguments import (
    batched_state,
    check_cell,
    checked_params,
    checked_recurrent_mask,
    floating_inputs,
    holds,
    layout,
)
from seqjax.cells._base import Cell, compute_dtype
from seqjax.kernels import WANTED, Execution, Kernel, Plan, Problem, make_plan, run
from seqjax.types import PyTree, Unrolled

__all__ = ["explain", "unroll"]


def unroll(
    cell: Cell[Any, Any],
    params: PyTree,
    xs: PyTree,
    *,
    state: PyTree | None = None,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reset_state: PyTree | None = None,
    reverse: bool = False,
    time_major: bool = False,
    recurrent_mask: Any = None,
    zoneout: PyTree | None = None,
    execution: Execution | None = None,
    implementation: str | Kernel | None = None,
    remat: str | None = None,
    memory_budget: int | None = None,
    unroll: int | None = None,
) -> Unrolled:
    r"""Runs a cell over sequences.

        s'_t     = reset_state where resets_t else s_{t-1}
        s_t, y_t = step(x_t, s'_t)   at real steps
        s_t, y_t = s'_t, 0           at masked steps

    Values in padding, NaN and inf among them, never reach an output, a state or a gradient. A
    sequence of length 0 returns its initial state. The function is compiled once for each
    combination of cell configuration, shapes and dtypes; it may be differentiated (`jax.grad` is
    backpropagation through time), mapped and nested in other transformations.

    Args:
      cell: a cell, e.g. `seqjax.cells.LSTM(input_size, hidden_size)`.
      params: its parameters, as from `cell.init`.
      xs: inputs, floating-point `[..., T, I]` with any number of batch axes; for spatial cells
        `[..., T, *space, C]`; for cells with several inputs a pytree of such arrays. Their dtype is
        that of the computation and the outputs: parameters are cast to it, while products are
        summed in float32 or wider.
      state: the state before the first step, as from `cell.initial_state(batch_shape)`, or without
        the batch axes (a learned initial state, from which every sequence starts);
        `cell.initial_state(batch_shape)` if not given. It keeps its dtype.
      lengths: integers of the batch shape, 0 to T: steps from a sequence's length on are masked.
        Under tracing, where values are not known, a length above T means T, below 0 means 0.
      mask: bool `[..., T]` (`[T, ...]` when time-major) with True at real steps, any pattern; not
        together with `lengths`.
      resets: bool, shaped like `mask`; True puts the state back to `reset_state` before step t,
        in the order of processing (episode boundaries, packed rows), whether t is masked or not.
      reset_state: what resets put back, with or without batch axes; the cell's initial state if not
        given (not `state`, which may have been carried over from an earlier window).
      reverse: process t = T-1 … 0. Outputs keep the order of xs and the final state is the one
        after t = 0. With right padding it equals running each sequence reversed within its length.
      time_major: xs, mask, resets, zoneout and the outputs have the time axis first, `[T, ..., I]`.
      recurrent_mask: float, of the batch shape plus the recurrent input's features, or something
        that broadcasts to it; multiplies what enters the recurrent product, the same at every step
        (variational dropout; Gal, Ghahramani 2016).
      zoneout: the fraction d of the old state that each unit keeps. With s~_t the state that the
        step computed, s_t = d ⊙ s_{t-1} + (1-d) ⊙ s~_t (Krueger et al. 2017): a pytree like the
        state with leaves that are None, numbers (as in evaluation) or arrays `[..., T, H]` (bool or
        float, as in training).
      execution: how to run it, a `seqjax.Execution`; the planner chooses what it leaves open, see
        `seqjax.explain`.
      implementation: a kernel, or its name; this and the next three arguments replace the fields
        of `execution` with the same names. "scan" is `jax.lax.scan`; "fused" a loop whose weight
        gradients are one product each; "associative" solves time in parallel for linear cells;
        "native" is compiled C++ for LSTM, GRU and Elman on CPUs; "cudnn" is NVIDIA's LSTM, never
        chosen by "auto".
      remat: what reverse mode keeps. "none" what every step stored; "chunk" that of one segment of
        a few megabytes, "sqrt" of √T steps, and the states between segments, running each step
        twice; "log" segments within segments, for memory O(log T); "auto" chooses.
      memory_budget: approximate number of bytes reverse mode may keep, without inputs and outputs.
        Under `vmap` the budget holds for each mapped element.
      unroll: steps in one iteration of the compiled loop.

    Returns:
      `Unrolled(outputs, state)`: outputs `[..., T, O]` (`[T, ..., O]` when time-major) in the dtype
      of xs, and the final state.

    Raises:
      TypeError: xs that are not floating-point, lengths that are not integers, a mask or resets
        that are not boolean.
      ValueError: shapes that do not fit each other or the cell; outside tracing, lengths beyond 0
        to T; an unknown implementation, or one that cannot run this; lengths together with mask; a
        memory budget that cannot be met.

    Example:
      >>> import jax, jax.numpy as jnp, seqjax
      >>> cell = seqjax.cells.LSTM(3, 5)
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.ones([2, 7, 3]).at[1, 4:].set(jnp.nan)
      >>> outputs, state = seqjax.unroll(cell, params, xs, lengths=jnp.array([7, 4]))
      >>> outputs.shape, bool(jnp.isfinite(outputs).all())
      ((2, 7, 5), True)
      >>> bool((state.h[1] == outputs[1, 3]).all())
      True
    """
    check_cell(cell)
    reverse = checks.require_bool("reverse", reverse)
    time_major = checks.require_bool("time_major", time_major)
    execution = Execution.of(
        execution, implementation=implementation, remat=remat, memory_budget=memory_budget,
        unroll=unroll,
    )  # fmt: skip
    xs = floating_inputs(cell, xs)
    batch_shape, steps = layout(cell, xs, time_major=time_major)
    step_shape = (steps, *batch_shape) if time_major else (*batch_shape, steps)
    dtype = compute_dtype(xs)
    plan = make_plan(cell, batch_shape, steps, dtype, execution)
    mask = sequences.step_mask(
        batch_shape, steps, lengths=lengths, mask=mask, time_major=time_major
    )
    if resets is not None:
        resets = sequences.require_mask("resets", resets, step_shape)
    params = checked_params(cell, params)
    if recurrent_mask is not None or zoneout is not None or reset_state is not None:
        state = cell.initial_state(batch_shape, dtype) if state is None else state
    state = batched_state("state", cell, state, batch_shape, dtype)
    if resets is None and reset_state is None:
        reset_state = state  # no step reads it, so no other array is made
    elif reset_state is not None:
        reset_state = batched_state("reset_state", cell, reset_state, batch_shape, dtype)
        reset_state = jax.tree.map(lambda r, s: r.astype(s.dtype), reset_state, state)
    problem = Problem(
        params=params,
        xs=xs,
        state=state,
        reset_state=reset_state,
        mask=mask,
        resets=resets,
        recurrent_mask=checked_recurrent_mask(cell, recurrent_mask, state, dtype),
        zoneout=holds(cell, zoneout, state, step_shape, time_major, dtype),
    )
    batch_ndim = 0 if time_major else len(batch_shape)
    unrolled: Unrolled = run(cell, problem, plan, batch_ndim=batch_ndim, reverse=reverse)
    return unrolled


def explain(
    cell: Cell[Any, Any],
    xs: PyTree,
    *,
    time_major: bool = False,
    execution: Execution | None = None,
    implementation: str | Kernel | None = None,
    remat: str | None = None,
    memory_budget: int | None = None,
    unroll: int | None = None,
    wanted: str = "gradient",
    platform: str | None = None,
) -> Plan:
    """Prints how `unroll` would run a cell over inputs of this shape, and why. Computes nothing.

    Args:
      cell: the cell.
      xs: inputs as for `unroll`, or `jax.ShapeDtypeStruct`s like them; without the axes that
        `jax.vmap` adds, which `unroll` does not see.
      time_major: as for `unroll`.
      execution: as for `unroll`.
      implementation: as for `unroll`.
      remat: as for `unroll`.
      memory_budget: as for `unroll`.
      unroll: as for `unroll`.
      wanted: "values", "gradient" (what `unroll` assumes) or "forward", for forward mode.
      platform: "cpu", "gpu", "cuda", "rocm" or "tpu"; JAX's default backend if not given.

    Returns:
      The plan, whose text is what was printed.

    Raises:
      TypeError, ValueError: as `unroll` for the same arguments.

    Example:
      >>> import jax, jax.numpy as jnp, seqjax
      >>> xs = jax.ShapeDtypeStruct((32, 100, 128), jnp.float32)
      >>> cell = seqjax.cells.PeepholeLSTM(128, 128)
      >>> plan = seqjax.explain(cell, xs, platform="cpu")
      kernel              fused
      input product       for all steps at once
      remat               none
      unroll              1
      kept for gradients  about 31.2 MiB
      - fused: weight gradients are one product each, not one a step
      - the projections of all steps, 6.2 MiB, are less than 16.0 MiB (suite speed: larger ones
        fall out of the caches of a CPU)
      - 31.2 MiB are kept without running any step twice
      - unroll=1 (AMD EPYC, lstm 32,100,128,128 gradient: 12.3 ms, 17.3 ms with unroll=4)
    """
    check_cell(cell)
    checks.require_name("wanted", wanted, WANTED)
    if platform is not None:
        checks.require_name("platform", platform, ["cpu", "gpu", "cuda", "rocm", "tpu"])
    is_spec = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)  # noqa: E731
    for leaf in filter(is_spec, jax.tree.leaves(xs)):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"xs: expected floating-point inputs, got dtype {leaf.dtype}")
    if not any(map(is_spec, jax.tree.leaves(xs))):
        xs = floating_inputs(cell, xs)
    batch_shape, steps = layout(cell, xs, time_major=checks.require_bool("time_major", time_major))
    execution = Execution.of(
        execution, implementation=implementation, remat=remat, memory_budget=memory_budget,
        unroll=unroll,
    )  # fmt: skip
    dtype = compute_dtype(xs)
    plan = make_plan(cell, batch_shape, steps, dtype, execution, wanted=wanted, platform=platform)
    print(plan)
    return plan
