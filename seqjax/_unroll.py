"""The public functions `unroll`, which runs a cell over a sequence, and `explain`."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks, sequences
from seqjax._arguments import (
    batched_state,
    check_cell,
    checked_burn_in,
    checked_params,
    checked_recurrent_mask,
    floating_inputs,
    holds,
    layout,
    timed_states,
)
from seqjax._elapsed import require_times, turned, with_elapsed
from seqjax._hints import hints
from seqjax.cells._base import Cell, compute_dtype
from seqjax.kernels import WANTED, Execution, Kernel, Plan, Problem, by_scan, make_plan, run
from seqjax.types import PyTree, Unrolled

__all__ = ["explain", "unroll"]


@hints(
    initial_state="use state",
    seq_lengths="use lengths",
    sequence_length="use lengths",
    dones="use resets=seqjax.sequences.resets_from_dones(dones, last_dones)",
    go_backwards="use reverse",
    timespans="use elapsed",
)
def unroll(
    cell: Cell[Any, Any],
    params: PyTree,
    xs: PyTree,
    *,
    state: PyTree | None = None,
    lengths: Any = None,
    mask: Any = None,
    elapsed: Any = None,
    resets: Any = None,
    reset_state: PyTree | None = None,
    reverse: bool = False,
    time_major: bool = False,
    recurrent_mask: Any = None,
    zoneout: PyTree | None = None,
    burn_in: int = 0,
    return_all_states: bool = False,
    execution: Execution | None = None,
    implementation: str | Kernel | None = None,
    remat: str | None = None,
    memory_budget: int | None = None,
    unroll: int | None = None,
) -> Unrolled:
    r"""Run a cell over sequences.

        s'_t     = reset_state where resets_t else s_{t-1}
        s_t, y_t = step(x_t, s'_t)   at real steps
        s_t, y_t = s'_t, 0           at masked steps

    Values in padding, even NaN and inf, have no effect on outputs, states or gradients. The final
    state of a sequence of length 0 is its initial state. The function is compiled once for each
    combination of cell configuration, shapes and dtypes. All transformations of JAX work: for
    example, `jax.grad` is backpropagation through time, and `jax.vmap` maps the function.

    Args:
      cell: the cell, such as `seqjax.cells.LSTM(input_size, hidden_size)`.
      params: the parameters of the cell, as `cell.init` returns them.
      xs: the inputs, floating-point `[..., T, I]` with any number of batch axes. A spatial cell
        reads `[..., T, *space, C]`. A cell with several inputs reads a pytree of such arrays. The
        computation and the outputs have the dtype of xs, and parameters are cast to this dtype.
        Products are summed in float32 or wider.
      state: the state before the first step, as `cell.initial_state(batch_shape)` returns it. A
        state without batch axes, such as a learned initial state, is used for every sequence. The
        default is `cell.initial_state(batch_shape)`. The state keeps its dtype.
      lengths: integers of the batch shape, from 0 to T, the number of real steps of each sequence.
        All later steps are masked. Under tracing, where values are not known, a length above T
        means T, and a length below 0 means 0.
      mask: bool `[..., T]` (time-major: `[T, ...]`), True at real steps. Any pattern is allowed.
        Pass either `lengths` or `mask`.
      elapsed: the time since the previous real step, numbers of at least 0 with the shape of
        `mask`, for a cell that reads it: `Decay`, `GRUD` or `CfC`. It becomes the last feature of
        xs, in the dtype of xs. Instead of passing `elapsed`, you can pass xs with this feature,
        `[..., T, I+1]`. With `reverse`, the time of a step is that of the next real step, which was
        processed before. It is 0 if there is no such step, or if there is a reset between the two
        steps.
      resets: bool with the shape of `mask`. Where it is True, the state is set to `reset_state`
        before the step is processed, even if the step is masked. Use resets at the boundaries of
        episodes or of packed sequences.
      reset_state: the state after a reset, with or without batch axes. The default is the cell's
        initial state and not `state`, because `state` may come from an earlier window. If
        `reset_state` also has a time axis, at the same position as in `resets`, each step has its
        own reset state: for example, the states that a replay buffer stored. Only the kernel "scan"
        can use such a time axis, so "auto" chooses "scan".
      reverse: whether to process the steps in the order t = T-1 … 0. The outputs keep the order of
        xs, and the final state is the state after t = 0. If the padding is on the right, the result
        is the same as if each sequence were reversed within its length.
      time_major: whether the time axis comes first in xs, mask, resets, zoneout and the outputs, as
        in `[T, ..., I]`.
      recurrent_mask: float factors by which the input of the recurrent product is multiplied, the
        same at every step (variational dropout; Gal, Ghahramani 2016). The shape of the factors
        must broadcast to the shape of that input, which is `[..., H]` for most cells.
      zoneout: the fraction d of the old state that each unit keeps (Krueger et al. 2017). If s~_t
        is the state that the step computed, then s_t = d ⊙ s_{t-1} + (1-d) ⊙ s~_t. `zoneout` is a
        pytree with the structure of the state. Its leaves are None, numbers (as in evaluation) or
        arrays `[..., T, H]` of bool or float (as in training).
      burn_in: the number of steps at the start through which no gradient passes (Kapturowski et al.
        2019). These steps compute outputs and a state as usual, but both are constants for
        derivatives. Use burn-in steps to recompute the state of a replayed sequence.
      return_all_states: whether to return the states after all steps instead of the final state.
        Only the kernel "scan" can return all states, so "auto" chooses "scan".
      execution: the options for running the cell, a `seqjax.Execution`. The planner chooses the
        options that are not set. `seqjax.explain` shows its choice.
      implementation: a kernel or its name. This argument and the next three replace the fields of
        `execution` that have the same names. "scan" is `jax.lax.scan`. "fused" is a loop that
        computes each weight gradient as one product. "associative" runs all steps of a linear cell
        in parallel. "native" is compiled C++ for LSTM, GRU and Elman on CPUs. "cudnn" is NVIDIA's
        LSTM. "auto" chooses a kernel, but never "cudnn".
      remat: the values that reverse mode keeps. "none" keeps the values of every step. "chunk" and
        "sqrt" divide the steps into segments, keep the states between segments and the values of
        one segment, and run each step twice. With "chunk", the values of a segment need a few
        megabytes. With "sqrt", a segment has √T steps. "log" nests segments and needs memory
        O(log T). With "auto" the planner chooses.
      memory_budget: the approximate number of bytes that reverse mode may keep, without inputs and
        outputs. Under `vmap` each mapped element has this budget.
      unroll: the number of steps in one iteration of the compiled loop.

    Returns:
      `Unrolled(outputs, state)`: the outputs `[..., T, O]` (time-major: `[T, ..., O]`) in the dtype
      of xs, and the final state. With `return_all_states`, the arrays of the state also have a time
      axis, at the same position as in the outputs, and entry t is the state after step t.

    Raises:
      TypeError: xs is not floating-point, lengths are not integers, or mask or resets are not
        boolean.
      ValueError: shapes do not match each other or the cell, the cell needs `elapsed` or does not
        read it, lengths and mask are both given, a length is not in 0 to T (outside tracing),
        burn_in is not in 0 to T or is combined with `reverse`, the implementation is unknown or
        cannot run the problem, or the memory budget cannot be met.

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
    xs = with_elapsed(cell, floating_inputs(cell, xs), elapsed)
    batch_shape, steps = layout(cell, xs, time_major=time_major)
    step_shape = (steps, *batch_shape) if time_major else (*batch_shape, steps)
    dtype = compute_dtype(xs)
    burn_in = checked_burn_in(burn_in, steps, one_way=not reverse, limit="reverse=True")
    reset_states = None
    if reset_state is not None:
        reset_states = timed_states("reset_state", cell, reset_state, step_shape, dtype)
    if reset_states is not None:
        reset_state, execution = None, by_scan(execution, "a time axis in reset_state")
    if checks.require_bool("return_all_states", return_all_states):
        execution = by_scan(execution, "return_all_states", with_states=True)
    plan = make_plan(cell, batch_shape, steps, dtype, execution)
    mask = sequences.step_mask(
        batch_shape, steps, lengths=lengths, mask=mask, time_major=time_major
    )
    if resets is not None:
        resets = sequences.require_mask("resets", resets, step_shape)
    require_times(cell, xs, elapsed=elapsed, mask=mask, time_major=time_major)
    if cell.reads_elapsed and reverse:
        xs = turned(xs, mask=mask, resets=resets, axis=0 if time_major else len(batch_shape))
    params = checked_params(cell, params)
    given = (recurrent_mask, zoneout, reset_state, reset_states)
    if any(one is not None for one in given):
        state = cell.initial_state(batch_shape, dtype) if state is None else state
    state = batched_state("state", cell, state, batch_shape, dtype)
    if resets is None and reset_state is None:
        reset_state = state  # there are no resets, so no step reads it and no array is needed
    elif reset_state is not None:
        reset_state = batched_state("reset_state", cell, reset_state, batch_shape, dtype)
        reset_state = jax.tree.map(lambda r, s: r.astype(s.dtype), reset_state, state)
    if reset_states is not None:
        reset_states = jax.tree.map(lambda r, s: r.astype(s.dtype), reset_states, state)
    problem = Problem(
        params=params,
        xs=xs,
        state=state,
        reset_state=reset_state,
        mask=mask,
        resets=resets,
        recurrent_mask=checked_recurrent_mask(cell, recurrent_mask, state, dtype),
        zoneout=holds(cell, zoneout, state, step_shape, time_major, dtype),
        reset_states=reset_states,
    )
    unrolled: Unrolled = run(
        cell, problem, plan, batch_ndim=0 if time_major else len(batch_shape), reverse=reverse,
        burn_in=burn_in, all_states=return_all_states,
    )  # fmt: skip
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
    """Print how `unroll` would run a cell, and why, without running it.

    Args:
      cell: the cell.
      xs: the inputs, as for `unroll`, or `jax.ShapeDtypeStruct`s, since only shapes and dtypes are
        used. The shape must not include axes over which `jax.vmap` maps.
      time_major: whether the time axis of xs comes first, as for `unroll`.
      execution: the options for running the cell, as for `unroll`.
      implementation: a kernel or its name, as for `unroll`.
      remat: the values that reverse mode keeps, as for `unroll`.
      memory_budget: the number of bytes that reverse mode may keep, as for `unroll`.
      unroll: the number of steps in one iteration of the loop, as for `unroll`.
      wanted: the purpose of the run: "values", "gradient" (reverse mode) or "forward" (forward
        mode). `unroll` always assumes "gradient".
      platform: "cpu", "gpu", "cuda", "rocm" or "tpu". The default is JAX's default backend.

    Returns:
      The plan that was printed.

    Raises:
      TypeError, ValueError: an argument is not valid for `unroll`.

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
