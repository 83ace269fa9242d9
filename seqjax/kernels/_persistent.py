"""The kernel `persistent`: on an NVIDIA Hopper GPU the whole time loop is one Pallas kernel.

This module decides which problems the kernel runs, and arranges the arrays for the loops of
`_persistent_loops.py`. `_engines.py` has the frame: the primitives and the rules of all engines.
The products that do not depend on the state, which are the projection of the inputs and the
gradients of the weights, are products of XLA before and after the loop.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.cells._base import Cell
from seqjax.cells._gru import GRU
from seqjax.cells._lstm import LSTM
from seqjax.kernels._engine_forms import Arrays, Engine, Setting, problem_of_cell
from seqjax.kernels._engines import is_divided, parted, run_on
from seqjax.kernels._fused import fused
from seqjax.kernels._kernel import INSTEAD, Kernel, Spec, by_choice, require
from seqjax.kernels._persistent_cell import pointwise
from seqjax.kernels._persistent_size import ROWS, TILE, Size, size_of
from seqjax.kernels._problem import Problem
from seqjax.kernels._scan import varying_axes
from seqjax.types import Array, Unrolled

__all__ = ["PERSISTENT", "engine", "persistent"]

JAX = (0, 11)
"""The oldest version of JAX whose Pallas has what the kernel needs."""


def persistent(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
) -> Unrolled:
    """Run an `LSTM` or `GRU` cell over time in one kernel of an NVIDIA Hopper GPU, in bfloat16.

    The kernel has **not been run on hardware**. Its tests run it in Pallas's interpreter, which
    also reports races, and lower it for CUDA on a machine without a GPU.

    The recurrent weights stay in shared memory for all time steps. A tile of 16 sequences is
    processed by one block or, if the weights do not fit into the memory of one block, by a cluster
    of up to four. Products have bfloat16 operands and are summed in float32. As in `scan`, the
    state is rounded to its own dtype once per step: pass a float32 state to keep it in float32.
    The kernel `fused` computes forward mode and second derivatives. It also runs the whole problem
    with recurrent dropout or zoneout, with a state of other dtypes, with empty axes or axes of
    unknown size, with explicit shardings, inside of `jax.shard_map`, if XLA divides arrays over
    several devices, on other platforms, and in exported programs.

    Args:
      cell: an `LSTM` or a `GRU` with 64, 128, 192 or 256 hidden units.
      problem: the time-major arrays of the call; see `Problem`. The inputs `xs` are `[T, ..., I]`
        in bfloat16.
      reverse: whether to process the steps in the order t = T-1 … 0.

    Returns:
      `Unrolled` with time-major outputs `[T, ..., H]`.

    Raises:
      ValueError: the kernel does not support the cell, its size or the dtype, or JAX is too old.

    Example:
      >>> from seqjax.cells import MGU
      >>> cell = MGU(3, 64)
      >>> zeros = cell.initial_state([2])
      >>> persistent(cell, Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros))
      Traceback (most recent call last):
      ValueError: implementation: 'persistent' ...
    """
    require(_unsuited(cell, Spec((), 1, problem.xs.dtype, "cuda")))
    if _is_left_to_fused(problem):
        return fused(cell, problem, reverse)
    return run_on(engine(), cell, problem, reverse)


def _refuses(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Return why the kernel cannot run a cell, or None if it can."""
    unsuited = _unsuited(cell, spec)
    if unsuited is not None:
        return unsuited
    if spec.platform not in ("cuda", "gpu"):
        return f"'persistent' needs an NVIDIA GPU, got the platform {spec.platform!r}; {INSTEAD}"
    return _unsuited_device()


def _unsuited(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Return why the kernel cannot run a cell on any GPU, or None if it can."""
    if jax.__version_info__ < JAX:
        return f"'persistent' needs jax 0.11 or newer, got {jax.__version__}; {INSTEAD}"
    if type(cell) not in (LSTM, GRU):  # subclasses have other equations
        return f"'persistent' runs LSTM and GRU, got {type(cell).__name__}; {INSTEAD}"
    if spec.dtype != jnp.bfloat16:
        return f"'persistent' runs bfloat16, got xs of {spec.dtype}; {INSTEAD}"
    if _size(cell) is None:
        size = cell.output_shape[-1]
        return f"'persistent' runs 64, 128, 192 or 256 hidden units, got {size}; {INSTEAD}"
    if 0 in (spec.steps, *spec.batch_shape):
        sizes = f"{spec.steps} steps and the batch axes {spec.batch_shape}"
        return f"'persistent' runs at least one step of one sequence, got {sizes}; {INSTEAD}"
    return None


def _unsuited_device() -> str | None:
    """Return why the GPUs of this machine cannot run the kernel; None without GPUs."""
    if jax.default_backend() != "gpu":
        return None
    capability = getattr(jax.devices()[0], "compute_capability", "unknown")
    if capability == "9.0":
        return None
    return f"'persistent' needs a Hopper GPU (9.0), got compute capability {capability}; {INSTEAD}"


PERSISTENT = Kernel(
    "persistent", persistent, refuses=_refuses, takes=by_choice("persistent"), loops=False
)
"""The kernel of this module, which runs only on request until it has been measured."""


def _is_left_to_fused(problem: Problem) -> bool:
    """Return whether `fused` runs the problem because the kernel cannot."""
    states = jax.tree.leaves((problem.state, problem.reset_state))
    return (
        problem.recurrent_mask is not None
        or problem.zoneout is not None
        or any(leaf.dtype not in (jnp.bfloat16, jnp.float32) for leaf in states)
        or not all(isinstance(n, int) and n > 0 for n in problem.xs.shape)
        or is_divided(problem)
        or bool(varying_axes(problem))  # Pallas's loops have no types that vary over a mesh
    )


def _size(cell: Cell[Any, Any]) -> Size | None:
    """Return how the hidden units of a cell are divided, or None if they cannot be."""
    products, gates, states = (4, 4, 2) if isinstance(cell, LSTM) else (3, 4, 1)
    return size_of(cell.output_shape[-1], products, gates, states)


@functools.cache
def engine(interpret: Any = None) -> Engine:
    """Return the engine.

    Args:
      interpret: the parameters of Pallas's interpreter, with which the functions `run` and
        `gradient` of the engine run on a CPU, for tests; or None to compile for a GPU.
    """
    return Engine(
        "cuda",
        kept=lambda setting: ("zs", "lefts"),
        shapes=_shapes,
        run=functools.partial(_run, interpret),
        gradient=functools.partial(_gradient, interpret),
        divides=False,
    )


def _shapes(operands: Any, setting: Setting) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the results of a run, by name."""
    steps, batch, _ = operands[setting.names.index("xs")].shape
    size = setting.cell.output_shape[-1]
    return {
        "ys": (steps, batch, size),
        "h": (batch, size),
        "c": (batch, size),
        "zs": (steps, 4, size, batch),  # both cells have four gates, see `pointwise`
        "lefts": (steps, len(setting.states), size, batch),
    }


def _run(interpret: Any, *operands: Array, setting: Setting, store: bool) -> list[Array]:
    """Run a cell, and return the results in the order of `setting.results`."""
    from seqjax.kernels import _persistent_loops as loops  # slow to import

    arrays = dict(zip(setting.names, operands, strict=True))
    problem = problem_of_cell(setting.cell, arrays)
    loop = _loop(loops.Loop, setting, problem, interpret)
    projected = [a for a in setting.cell.project(problem.params, problem.xs) if a is not None]
    given = _common(setting, problem) | {
        "x": _columns(jnp.stack(projected, 1)),
        "w": _tiles(problem.params.w_hh, loop.size, transposed=True),
        "state": _columns(_start(setting, problem.state, problem.reset_state, problem.resets)),
    }
    if problem.resets is not None:
        given["again"] = _columns(_stacked(problem.reset_state))
    found = loops.run_forward(loop, given, store=store)
    batch = problem.xs.shape[1]
    final = _rows(found["state"], batch)
    results = {"ys": _rows(found["ys"][:, 0], batch)} | {
        name: final[s].astype(arrays[f"{name}0"].dtype) for s, name in enumerate(setting.states)
    }
    if store:
        results |= {"zs": found["gates"][..., :batch], "lefts": found["lefts"][..., :batch]}
    return [results[name] for name in setting.results(store)]


def _gradient(
    interpret: Any, *arrays: Array, setting: Setting, moving: tuple[str, ...]
) -> list[Array]:
    """Return the gradients of the operands `moving`."""
    from seqjax.kernels import _persistent_loops as loops

    operands, (_, zs, lefts), (d_ys, *d_state) = parted(arrays, setting)
    of = dict(zip(setting.names, operands, strict=True))
    problem = problem_of_cell(setting.cell, of)
    loop = _loop(loops.Loop, setting, problem, interpret)
    given = _common(setting, problem) | {
        "gates": _padded(zs),
        "lefts": _padded(lefts),
        "w": _tiles(problem.params.w_hh, loop.size, transposed=False),
        "dys": _columns(d_ys.astype(jnp.float32)),
        "d_state": _columns(_stacked(d_state)),
    }
    found = loops.run_backward(loop, given)
    batch = problem.xs.shape[1]
    d_gates = jnp.moveaxis(_rows(found["d_gates"], batch), 1, 0)
    rs = _rows(lefts, batch)[:, loop.cell.hidden]

    def outside(given: Arrays) -> Any:
        """Return everything that the loop reads, as a function of the operands."""
        again = problem_of_cell(setting.cell, of | given)
        projected = setting.cell.project(again.params, again.xs)
        recurred = setting.cell.recur(again.params, rs)
        start = _start(setting, again.state, again.reset_state, again.resets)
        vectors = [getattr(again.params, name) for name in _vectors(setting)]
        reset_state: Any = [] if again.resets is None else _stacked(again.reset_state)
        return projected, recurred, start, vectors, reset_state

    pull = jax.vjp(outside, {name: of[name] for name in moving})[1]
    vectors = [
        a.sum(-1).astype(of[name].dtype)
        for name, a in zip(_vectors(setting), found.get("d_vectors", ()), strict=False)
    ]
    d_outside: Any = (
        _slots(d_gates, loop.cell.projected),
        _slots(d_gates, loop.cell.recurred),
        _rows(found["d_left"], batch),
        vectors,
        _rows(found["d_again"], batch) if "d_again" in found else [],
    )
    (gradients,) = pull(d_outside)
    return [gradients[name] for name in moving]


def _slots(d_gates: Array, terms: tuple[int | None, ...]) -> tuple[Array | None, ...]:
    """Return the cotangents of the slots of `project` or `recur`, which are those of the gates."""
    return tuple(None if term is None else d for d, term in zip(d_gates, terms, strict=True))


def _vectors(setting: Setting) -> list[str]:
    """Return the names of the parameters that `update` reads."""
    return ["b_hn"] if "b_hn" in setting.names else []


def _loop(kind: Any, setting: Setting, problem: Problem, interpret: Any) -> Any:
    """Return the arguments of a kernel that are not arrays, as an object of class `kind`."""
    cell = pointwise(setting.cell, setting.cell.param_specs(), _vectors(setting))
    size = _size(setting.cell)
    if size is None:  # only a caller that did not ask `_refuses` comes here
        raise ValueError(f"cell: expected another number of hidden units, got {setting.cell}")
    dtypes = tuple(leaf.dtype for leaf in jax.tree.leaves(problem.state))
    return kind(cell, size, setting.reverse, dtypes, len(_vectors(setting)), interpret)


def _common(setting: Setting, problem: Problem) -> Arrays:
    """Return the arrays that both loops read."""
    found = {}
    vectors = [getattr(problem.params, name) for name in _vectors(setting)]
    if vectors:
        found["vectors"] = jnp.stack(vectors).astype(jnp.float32)
    if problem.mask is not None:
        found["mask"] = _padded(problem.mask.astype(jnp.float32))
    if problem.resets is not None:
        found["reset"] = _padded(_after(problem.resets, setting.reverse).astype(jnp.float32))
    return found


def _after(resets: Array, reverse: bool) -> Array:
    """Return for each step whether the state is reset after it, which is before the next step."""
    none = jnp.zeros_like(resets[:1])
    parts = [none, resets[:-1]] if reverse else [resets[1:], none]
    return jnp.concatenate(parts)


def _start(setting: Setting, state: Any, reset_state: Any, resets: Array | None) -> Array:
    """Return the state before the first step, after a reset: float32 `[S, B, H]`."""
    start = _stacked(state)
    if resets is None:
        return start
    first = resets[-1 if setting.reverse else 0]
    return jnp.where(first[None, :, None], _stacked(reset_state), start)


def _stacked(state: Any) -> Array:
    """Return the arrays of a state as one float32 array `[S, B, H]`."""
    return jnp.stack([leaf.astype(jnp.float32) for leaf in jax.tree.leaves(state)])


def _tiles(w_hh: Array, size: Size, *, transposed: bool) -> Array:
    """Return the recurrent matrices in tiles `[C, W, G, K, 64, 64]`.

    The rows of each matrix are divided among the W warpgroups of each of C blocks.

    Args:
      w_hh: G matrices `[H, G*H]`.
      size: the division of the rows.
      transposed: whether to transpose each matrix.
    """
    n = size.hidden
    matrices = w_hh.reshape(n, -1, n).swapaxes(0, 1)
    matrices = matrices.swapaxes(1, 2) if transposed else matrices
    tiled = matrices.reshape(-1, size.blocks, size.groups, ROWS, n // ROWS, ROWS)
    return tiled.transpose(1, 2, 0, 4, 3, 5)


def _padded(a: Array) -> Array:
    """Pad the last axis, the batch, with zeros to a multiple of `TILE`."""
    return jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, -a.shape[-1] % TILE)])


def _columns(a: Array) -> Array:
    """Return `[..., B, H]` as `[..., H, B]`, with a padded batch."""
    return _padded(a.swapaxes(-1, -2))


def _rows(a: Array, batch: int) -> Array:
    """Return `[..., H, B]` as `[..., B, H]`, without the padding of the batch."""
    return a[..., :batch].swapaxes(-1, -2)
