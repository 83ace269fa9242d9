"""`unroll`, the only way into running a cell over a sequence: it checks, plans, calls a kernel."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks, sequences
from seqjax.cells.base import Cell, cast, compute_dtype, is_shape
from seqjax.kernels import REMAT, WANTED, Kernel, Plan, Problem, make_plan, run, target
from seqjax.types import Array, PyTree, Shape, Unrolled

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
    implementation: str | Kernel = "auto",
    remat: str = "auto",
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
        the batch axes (a learned initial state, from which every sequence starts). Zeros if not
        given. It keeps its dtype.
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
      zoneout: the fraction of the old state that each unit holds, s_t = d ⊙ s_{t-1} + (1-d) ⊙ s_t
        (Krueger et al. 2017): a pytree like the state with leaves that are None, numbers (as in
        evaluation) or arrays `[..., T, H]` (bool or float, as in training).
      implementation: a kernel, by name or a `seqjax.kernels.Kernel` itself, which runs or raises
        with the reason; or "auto", which chooses one: see `seqjax.explain`. "scan" is
        `jax.lax.scan`; "fused" a loop whose weight gradients are one product each; "associative"
        solves time in parallel for linear cells; "cudnn" is NVIDIA's LSTM, never chosen by "auto".
      remat: what reverse mode keeps. "none" what every step stored; "chunk" that of one segment of
        a few megabytes, "sqrt" of √T steps, and the states between segments, running each step
        twice; "log" segments within segments, for memory O(log T); "auto" chooses.
      memory_budget: bytes that reverse mode may keep, about, inputs and outputs not counted; under
        `vmap` for each mapped element.
      unroll: steps in one iteration of the compiled loop; None lets the planner choose.

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
    _check_cell(cell)
    reverse = checks.require_bool("reverse", reverse)
    time_major = checks.require_bool("time_major", time_major)
    xs = floating_inputs(cell, xs)
    batch_shape, steps = layout(cell, xs, time_major=time_major)
    step_shape = (steps, *batch_shape) if time_major else (*batch_shape, steps)
    dtype = compute_dtype(xs)
    plan = _plan(
        cell, batch_shape, steps, dtype, implementation=implementation, remat=remat,
        memory_budget=memory_budget, unroll=unroll,
    )  # fmt: skip
    mask = sequences.step_mask(lengths, mask, batch_shape, steps, time_major=time_major)
    if resets is not None:
        resets = sequences.check_mask("resets", resets, step_shape)
    params = _checked_params(cell, params)
    state = batched_state("state", cell, state, batch_shape, dtype)
    if resets is None and reset_state is None:
        reset_state = state  # no step reads it, so no other array is made
    else:
        reset_state = batched_state("reset_state", cell, reset_state, batch_shape, dtype)
        reset_state = jax.tree.map(lambda r, s: r.astype(s.dtype), reset_state, state)
    problem = Problem(
        params=cast(params, dtype),
        xs=xs,
        state=state,
        reset_state=reset_state,
        mask=mask,
        resets=resets,
        recurrent_mask=_recurrent_mask(cell, recurrent_mask, state, dtype),
        zoneout=_holds(zoneout, state, step_shape, time_major, dtype),
    )
    return _run(
        problem,
        cell=cell,
        plan=plan,
        batch_ndim=0 if time_major else len(batch_shape),
        reverse=reverse,
    )


def explain(
    cell: Cell[Any, Any],
    xs: PyTree,
    *,
    time_major: bool = False,
    implementation: str | Kernel = "auto",
    remat: str = "auto",
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
      implementation: as for `unroll`.
      remat: as for `unroll`.
      memory_budget: as for `unroll`.
      unroll: as for `unroll`.
      wanted: "values", "gradient" (what `unroll` assumes) or "forward", for forward mode.
      platform: "cpu", "gpu" or "tpu"; JAX's default backend if not given.

    Returns:
      The plan, whose text is what was printed.

    Raises:
      TypeError, ValueError: as `unroll` for the same arguments.

    Example:
      >>> import jax, jax.numpy as jnp, seqjax
      >>> xs = jax.ShapeDtypeStruct((32, 100, 128), jnp.float32)
      >>> plan = seqjax.explain(seqjax.cells.LSTM(128, 128), xs, platform="cpu")
      kernel              fused
      input product       for all steps at once
      remat               none
      unroll              1
      kept for gradients  about 31.2 MB
      - fused: weight gradients are one product each, not one a step
      - the projections of all steps, 6.2 MB, are less than 16.0 MB (suite speed: larger ones fall
        out of the caches of a CPU)
      - 31.2 MB are kept without running any step twice
      - unroll=1 (AMD EPYC, lstm 32,100,128,128 gradient: 12.3 ms, 17.3 ms with unroll=4)
    """
    _check_cell(cell)
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
    plan = _plan(
        cell, batch_shape, steps, compute_dtype(xs), implementation=implementation, remat=remat,
        memory_budget=memory_budget, unroll=unroll, wanted=wanted, platform=platform,
    )  # fmt: skip
    print(plan)
    return plan


def _plan(
    cell: Cell[Any, Any],
    batch_shape: Shape,
    steps: int,
    dtype: Any,
    *,
    implementation: str | Kernel,
    remat: str,
    memory_budget: int | None,
    unroll: int | None,
    wanted: str = "gradient",
    platform: str | None = None,
) -> Plan:
    """The plan, once what was asked for has been checked."""
    if memory_budget is not None:
        memory_budget = checks.require_integer("memory_budget", memory_budget)
    targets = target.platforms() if platform is None else (platform,)
    if len(targets) > 1 or not all(isinstance(n, int) for n in (steps, *batch_shape)):
        # Exported for any size, of which nothing is known; or for several platforms, which differ
        # in what they do with it: at this size all do the same.
        batch_shape, steps = (), 1
    return make_plan(
        cell,
        tuple(batch_shape),
        steps,
        jnp.dtype(dtype),
        platform=targets[0],
        wanted=wanted,
        implementation=implementation,
        remat=checks.require_name("remat", remat, REMAT),
        memory_budget=memory_budget,
        unroll=None if unroll is None else checks.require_integer("unroll", unroll),
    )


@functools.partial(jax.jit, static_argnames=("cell", "plan", "batch_ndim", "reverse"))
def _run(
    problem: Problem, *, cell: Cell[Any, Any], plan: Plan, batch_ndim: int, reverse: bool
) -> Unrolled:
    """Compiled as a whole."""
    return run(cell, problem, plan, batch_ndim=batch_ndim, reverse=reverse)


def _check_cell(cell: Any) -> None:
    if not isinstance(cell, Cell):
        raise TypeError(
            f"cell: expected a cell such as seqjax.cells.GRU(3, 5), got {_described(cell)}"
        )
    try:
        hash(cell)
    except TypeError:
        raise TypeError(
            f"cell: expected a hashable configuration (a frozen dataclass of hashable fields), "
            f"got {checks.brief(cell)}"
        ) from None


def _described(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def floating_inputs(cell: Cell[Any, Any], xs: PyTree) -> PyTree:
    """The inputs of a cell as JAX arrays, which must be floating-point."""
    if not same_structure(xs, cell.input_shape, is_leaf=is_shape):
        expected = jax.tree.map(
            lambda shape: "[..., " + ", ".join(map(str, shape)) + "]",
            cell.input_shape,
            is_leaf=is_shape,
        )
        raise ValueError(
            f"xs: expected floating-point inputs as {expected}, got {checks.brief(xs)}"
        )
    return jax.tree.map(lambda x: as_floating("xs", x), xs)


def as_floating(name: str, x: Any) -> Array:
    """An input as a JAX array, which must be floating-point."""
    return checks.require_array(name, x, jnp.floating, "floating-point inputs")


def same_structure(
    tree: PyTree, other: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> bool:
    """Whether two pytrees have the same structure, `is_leaf` saying what a leaf is in the other."""
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other, is_leaf=is_leaf))


def layout(cell: Cell[Any, Any], xs: PyTree, *, time_major: bool) -> tuple[Shape, int]:
    """The batch shape and the number of steps of xs, after checking it against the cell."""
    shapes = cell.input_shapes
    found: tuple[Shape, int] | None = None
    for x, event in zip(jax.tree.leaves(xs), shapes, strict=True):
        lead = x.shape[: x.ndim - len(event)]
        if x.ndim < len(event) + 1 or x.shape[len(lead) :] != event:
            lead_text = "T, ..." if time_major else "..., T"
            sizes = ", ".join(map(str, event))
            option = "input_size" if len(event) == 1 else "input_shape"
            meant = event[0] if len(event) == 1 else event
            raise ValueError(
                f"xs: expected [{lead_text}, {sizes}] for {option}={meant}, got {x.shape}"
            )
        layout_of_x = (lead[1:], lead[0]) if time_major else (lead[:-1], lead[-1])
        if found is not None and found != layout_of_x:
            shapes = jax.tree.map(jnp.shape, xs)
            raise ValueError(f"xs: expected equal batch and time axes, got {shapes}")
        found = layout_of_x
    if found is None:
        raise ValueError("xs: expected at least one array, got an empty pytree")
    return found


@functools.lru_cache(maxsize=256)
def _param_shapes(cell: Cell[Any, Any]) -> PyTree:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.tree.map(lambda a: a.shape, jax.eval_shape(cell.init, key))


def _checked_params(cell: Cell[Any, Any], params: PyTree) -> PyTree:
    expected = _param_shapes(cell)
    if same_structure(params, expected, is_leaf=is_shape):
        params = jax.tree.map(
            lambda leaf: checks.require_array(
                "params", leaf, jnp.floating, "floating-point arrays"
            ),
            params,
        )
        got = jax.tree.map(np.shape, params)
        if got == expected:
            return params
        raise ValueError(f"params: expected {expected} for {type(cell).__name__}, got {got}")
    raise ValueError(
        f"params: expected {expected} for {type(cell).__name__}, got {checks.brief(params)}"
    )


@functools.lru_cache(maxsize=256)
def _state_specs(cell: Cell[Any, Any], dtype: Any, x64: bool) -> PyTree:
    """Shapes and dtypes of a state without batch axes, which are asked for at every call.

    Args:
      cell: the cell.
      dtype: of the state.
      x64: whether JAX has 64-bit types now, which a counter in the state may depend on.
    """
    del x64
    return jax.eval_shape(lambda: cell.initial_state((), dtype))


def batched_state(
    name: str, cell: Cell[Any, Any], state: PyTree | None, batch_shape: Shape, dtype: Any
) -> PyTree:
    """The state to start from or to reset to, with batch axes."""
    if state is None:
        return cell.initial_state(batch_shape, dtype)
    x64: bool = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    event = _state_specs(cell, jnp.dtype(dtype), x64)
    expected = jax.tree.map(lambda a: (*batch_shape, *a.shape), event)
    if not same_structure(state, event):
        raise ValueError(f"{name}: expected arrays of {expected}, got {checks.brief(state)}")

    def one(leaf: Any, spec: Any) -> Array:
        floating = jnp.issubdtype(spec.dtype, jnp.floating)
        kind, text = (
            (jnp.floating, "floating-point arrays")
            if floating
            else (spec.dtype.type, f"arrays of {spec.dtype}")
        )
        return checks.require_array(name, leaf, kind, text)

    state = jax.tree.map(one, state, event)
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(event), strict=True):
        if leaf.shape not in ((*batch_shape, *spec.shape), spec.shape):
            shapes = jax.tree.map(jnp.shape, state)
            raise ValueError(f"{name}: expected arrays of {expected}, got {shapes}")
    return jax.tree.map(
        lambda leaf, spec: jnp.broadcast_to(leaf, (*batch_shape, *spec.shape)), state, event
    )


def _recurrent_mask(cell: Cell[Any, Any], mask: Any, state: PyTree, dtype: Any) -> Array | None:
    if mask is None:
        return None
    target = jax.eval_shape(cell.recurrent_input, state)
    if target is None:
        raise ValueError(
            f"recurrent_mask: {type(cell).__name__} has no recurrent product to mask; expected None"
        )
    mask = checks.require_array(
        "recurrent_mask",
        jnp.asarray(mask, dtype) if (isinstance(mask, (int, float))) else mask,
        jnp.floating,
        "floating-point factors",
    )
    try:
        return jnp.broadcast_to(mask, target.shape).astype(dtype)
    except ValueError:
        raise ValueError(f"recurrent_mask: expected {target.shape}, got {mask.shape}") from None


def _holds(
    zoneout: PyTree | None, state: PyTree, step_shape: Shape, time_major: bool, dtype: Any
) -> PyTree | None:
    """Zoneout's fractions with a time axis, one array a state leaf."""
    if zoneout is None:
        return None
    leaves, structure = jax.tree.flatten(state)
    if not same_structure(state, zoneout, is_leaf=lambda leaf: leaf is None):
        expected = jax.tree.map(jnp.shape, state)
        raise ValueError(
            f"zoneout: expected numbers or arrays in the structure of the state, {expected}, "
            f"got {checks.brief(zoneout)}"
        )
    given = jax.tree.leaves(zoneout, is_leaf=lambda leaf: leaf is None)
    batch_ndim = len(step_shape) - 1
    holds = []
    for hold, leaf in zip(given, leaves, strict=True):
        shape = (*step_shape, *leaf.shape[batch_ndim:])
        hold = _fraction(0.0 if hold is None else hold, dtype)
        if hold.shape not in ((), shape):
            raise ValueError(f"zoneout: expected a number or {shape}, got {hold.shape}")
        if hold.shape == ():  # a time axis alone, so that constants cost no memory
            axis = 0 if time_major else batch_ndim
            shape = tuple(step_shape[axis] if n == axis else 1 for n in range(len(shape)))
        holds.append(jnp.broadcast_to(hold, shape))
    return jax.tree.unflatten(structure, holds)


def _fraction(hold: Any, dtype: Any) -> Array:
    """One leaf of zoneout: bool, or a number or numbers from 0 to 1."""
    kind = "bool or a fraction from 0 to 1"
    array = checks.require_array("zoneout", hold, (jnp.generic), kind)
    if array.dtype == jnp.bool_:
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating) and not isinstance(hold, int):
        raise TypeError(f"zoneout: expected {kind}, got dtype {array.dtype}")
    if not checks.is_traced(array) and array.size:
        least, most = float(array.min()), float(array.max())
        if not (least >= 0 and most <= 1):
            raise ValueError(f"zoneout: expected {kind}, got {least} to {most}")
    return array.astype(dtype)
