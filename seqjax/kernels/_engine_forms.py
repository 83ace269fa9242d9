"""The problems of engines: the arrays of their calls, and the forms of the cells that they run.

A form says how the engine runs one class of cells. The classes `LSTM`, `GRU` and `Elman` share one
form. `seqjax.seq2seq` adds the form of a decoder with attention, whose step contains one of these
cells.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells._base import Cell
from seqjax.cells._elman import Elman, ElmanParams
from seqjax.cells._gru import GRU, GRUParams
from seqjax.cells._lstm import LSTM, LSTMParams, LSTMState
from seqjax.kernels._problem import Problem
from seqjax.types import Array, Unrolled

__all__ = [
    "DIFFERENTIABLE",
    "FORMS",
    "OPERANDS",
    "Arrays",
    "Engine",
    "Form",
    "Setting",
    "operands_of_cell",
    "problem_of_cell",
    "unsuited_cell",
]

Arrays = dict[str, Array]

OPERANDS = (
    "xs", "h0", "c0", "w_ih", "w_hh", "b", "b_hn", "mask", "resets", "h_reset", "c_reset", "noise",
    "hold_h", "hold_c", "keys", "values", "positions", "w_c", "w_q", "v", "y0",
)  # fmt: skip
"""The arrays of a problem, in the order of the engine's arguments (`Operand` in `ffi.cc`).

Only a decoder with attention has the arrays from `keys` on.
"""
DIFFERENTIABLE = frozenset(OPERANDS) - {
    "mask", "resets", "noise", "hold_h", "hold_c", "positions",
}  # fmt: skip
"""The operands whose gradients the engine computes."""


class Form(NamedTuple):
    """The functions with which the engine runs the cells of one class.

    Attributes:
      unsuited: `unsuited(cell)` returns why the engine cannot run a cell, without its name and
        hint, or None if it can.
      fits: `fits(cell, problem)` returns False if the kernel `fused` must run the problem.
      inner: `inner(cell)` returns the `LSTM`, `GRU` or `Elman` that the engine computes.
      operands: `operands(cell, problem)` returns the arrays of a problem by name, with one batch
        axis, in the order of `OPERANDS`.
      problem: `problem(cell, arrays)` returns a cell and its problem, made of these arrays. The
        gradient of the problem is that of the arrays.
      shown: `shown(unrolled)` returns the results of the problem by name.
      unrolled: `unrolled(problem, results, reverse)` returns the result of the kernel for the
        original problem. It is the inverse of `shown`.
    """

    unsuited: Callable[[Any], str | None]
    fits: Callable[[Any, Problem], bool]
    inner: Callable[[Any], Cell[Any, Any]]
    operands: Callable[[Any, Problem], Arrays]
    problem: Callable[[Any, Arrays], tuple[Cell[Any, Any], Problem]]
    shown: Callable[[Unrolled], Arrays]
    unrolled: Callable[[Problem, Arrays, bool], Unrolled]


class Engine(NamedTuple):
    """Compiled code that runs cells on one platform, in place of `fused`.

    Attributes:
      platform: "cpu" or "cuda".
      kept: `kept(setting)` returns the names of the results that a run stores for the gradient.
      shapes: `shapes(operands, setting)` returns the shapes of the results of a run, by name.
      run: `run(*operands, setting=…, store=…)` returns the results of a run.
      gradient: `gradient(*arrays, setting=…, moving=…)` returns the gradients of the operands
        `moving`. `arrays` is as for `parted`.
      divides: whether each device can run its part of the batch if XLA divides the batch.
    """

    platform: str
    kept: Callable[["Setting"], tuple[str, ...]]
    shapes: Callable[[Sequence[Any], "Setting"], dict[str, tuple[int, ...]]]
    run: Callable[..., list[Array]]
    gradient: Callable[..., list[Array]]
    divides: bool


class Setting(NamedTuple):
    """The arguments of a call that are not arrays.

    Attributes:
      cell: the cell, whose class is a key of `FORMS`.
      reverse: whether to process the steps in the order t = T-1 … 0.
      names: the names of the arrays of this call, which are elements of `OPERANDS`.
      engine: the engine that runs the cell on its platform.
    """

    cell: Cell[Any, Any]
    reverse: bool
    names: tuple[str, ...]
    engine: Engine

    @property
    def form(self) -> Form:
        """The form of the cell."""
        return FORMS[type(self.cell)]

    @property
    def inner(self) -> Cell[Any, Any]:
        """The `LSTM`, `GRU` or `Elman` that the engine computes."""
        return self.form.inner(self.cell)

    @property
    def attends(self) -> tuple[str, ...]:
        """The names of the results of attention."""
        return ("contexts", "weights") if "keys" in self.names else ()

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the arrays of the state."""
        return ("h", "c") if "c0" in self.names else ("h",)

    @property
    def shown(self) -> tuple[str, ...]:
        """The names of the results that the kernel returns: the outputs and the final state."""
        return ("ys", *self.states, *self.attends)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the results that a run stores for the gradient."""
        return self.engine.kept(self)

    @property
    def read(self) -> tuple[str, ...]:
        """The names of the results of a run that the gradient reads."""
        return ("ys", *self.kept, *self.attends)

    def results(self, store: bool) -> tuple[str, ...]:
        """The names of all results of a run."""
        return self.shown + (self.kept if store else ())

    @property
    def of_gradient(self) -> tuple[str, ...]:
        """The names of the arrays that a gradient reads; a cotangent has the name of its array."""
        return (*self.names, *self.read, *self.shown)


def operands_of_cell(problem: Problem) -> Arrays:
    """Return the arrays of a problem by name, with one batch axis, in the order of `OPERANDS`."""
    batch, size = problem.xs.shape[1:-1], jax.tree.leaves(problem.state)[0].shape[-1]

    def state(leaf: Array | None) -> Array | None:
        return None if leaf is None else leaf.reshape(-1, size)

    def steps(leaf: Array | None) -> Array | None:
        return None if leaf is None else leaf.reshape(problem.steps, -1)

    def states(tree: Any) -> list[Any]:
        return [state(leaf) for leaf in jax.tree.leaves(tree)] + [None]

    p = problem.params
    h0, c0, *_ = states(problem.state)
    h_reset, c_reset, *_ = [None, None] if problem.resets is None else states(problem.reset_state)
    noise = problem.recurrent_mask
    if noise is not None:
        noise = jnp.broadcast_to(noise, (*batch, size)).astype(jnp.float32)
    hold_h, hold_c, *_ = [
        jnp.broadcast_to(leaf, problem.xs.shape[:-1] + (size,))
        .astype(jnp.float32)
        .reshape(problem.steps, -1, size)
        for leaf in jax.tree.leaves(problem.zoneout)
    ] + [None, None]
    found = {
        "xs": problem.xs.reshape(problem.steps, -1, problem.xs.shape[-1]),
        "h0": h0, "c0": c0,
        "w_ih": p.w_ih, "w_hh": p.w_hh, "b": p.b, "b_hn": getattr(p, "b_hn", None),
        "mask": steps(problem.mask), "resets": steps(problem.resets),
        "h_reset": h_reset, "c_reset": c_reset,
        "noise": state(noise), "hold_h": hold_h, "hold_c": hold_c,
    }  # fmt: skip
    return {name: a for name, a in found.items() if a is not None}


def problem_of_cell(cell: Cell[Any, Any], arrays: Arrays) -> Problem:
    """Return a problem with one batch axis, made of the arrays that `operands_of_cell` returned."""
    a: Callable[[str], Any] = arrays.get
    if isinstance(cell, LSTM):
        params: Any = LSTMParams(a("w_ih"), a("w_hh"), a("b"))
    elif isinstance(cell, GRU):
        params = GRUParams(a("w_ih"), a("w_hh"), a("b"), a("b_hn"))
    else:
        params = ElmanParams(a("w_ih"), a("w_hh"), a("b"))

    def state(h: Any, c: Any) -> Any:
        return LSTMState(h, c) if isinstance(cell, LSTM) else h

    start = state(a("h0"), a("c0"))
    return Problem(
        params=params,
        xs=a("xs"),
        state=start,
        reset_state=start if "resets" not in arrays else state(a("h_reset"), a("c_reset")),
        mask=a("mask"),
        resets=a("resets"),
        recurrent_mask=a("noise"),
        zoneout=None if "hold_h" not in arrays else state(a("hold_h"), a("hold_c")),
    )


def unsuited_cell(cell: Cell[Any, Any]) -> str | None:
    """Return why the engine cannot run a cell, or None if it is an `LSTM`, `GRU` or `Elman`."""
    if type(cell) not in (LSTM, GRU, Elman):  # subclasses have other equations
        return f"LSTM, GRU and Elman, got {type(cell).__name__}"
    if isinstance(cell, Elman) and cell.activation not in ("tanh", "relu"):
        return f"Elman with tanh or relu, got {cell.activation!r}"
    return None


def _unrolled(problem: Problem, results: Arrays, reverse: bool) -> Unrolled:
    """Return the outputs and the final state of a cell, with all batch axes."""
    del reverse
    batch = problem.xs.shape[1:-1]
    ys, *state = (a.reshape(*a.shape[:-2], *batch, a.shape[-1]) for a in results.values())
    return Unrolled(ys, jax.tree.unflatten(jax.tree.structure(problem.state), state))


_CELL = Form(
    unsuited=unsuited_cell,
    fits=lambda cell, problem: True,
    inner=lambda cell: cell,
    operands=lambda cell, problem: operands_of_cell(problem),
    problem=lambda cell, arrays: (cell, problem_of_cell(cell, arrays)),
    shown=lambda ran: dict(zip(("ys", "h", "c"), jax.tree.leaves(ran), strict=False)),
    unrolled=_unrolled,
)

FORMS: dict[type[Cell[Any, Any]], Form] = {LSTM: _CELL, GRU: _CELL, Elman: _CELL}
"""The form of each class of cells that the engine runs."""
