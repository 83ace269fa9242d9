"""A table of a model: shapes, parameters, work, memory, and how its recurrent layers are run."""

import collections
import dataclasses
import math
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import _flops, checks
from seqjax._hooks import Call, hooked
from seqjax._units import readable, readable_bytes
from seqjax.kernels import Plan
from seqjax.nn._layer import Direction, Layer
from seqjax.types import PyTree, Unrolled

__all__ = ["Row", "Summary", "summary"]

WIDTH = 100
"""Columns of a terminal."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One module of a model; what is in it counts, too.

    Attributes:
      path: such as "encoder.layers.0"; "" for the model itself.
      type: of the module, or of the cell of one direction of a recurrent layer.
      output: its output as a pytree of `jax.ShapeDtypeStruct`, a recurrent layer's without the
        state; if it was not called itself that of the last public method that gave arrays, or None.
      parameters: numbers that are learned.
      parameter_bytes: of these.
      flops: of products and convolutions in a call of the model. Products outside any call of a
        submodule are the surrounding module's own.
      kept_bytes: about what reverse mode keeps for a call of the model: outputs of modules without
        submodules, and what the recurrent kernels store; not what loops of a module's own keep.
      plan: how a direction of a recurrent layer is run, as `seqjax.explain` says; else None.

    Example:
      >>> Row("readout", "Linear", None, 15, 60, 48, 24, None).parameters
      15
    """

    path: str
    type: str
    output: PyTree
    parameters: int
    parameter_bytes: int
    flops: int
    kept_bytes: int
    plan: Plan | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """A model's modules; its text is the table.

    Attributes:
      rows: one a module, the model itself first.
      loops_of_unknown_length: `while` loops, of which one turn is counted.
      mapped: whether modules were seen inside `jax.vmap`, whose outputs and kept bytes are those of
        one example.

    Example:
      >>> Summary((Row("", "Linear", None, 15, 60, 48, 24, None),)).total.flops
      48
    """

    rows: tuple[Row, ...]
    loops_of_unknown_length: int = 0
    mapped: bool = False

    @property
    def total(self) -> Row:
        """The row of the model itself."""
        return self.rows[0]

    def __str__(self) -> str:
        head = ("module", "type", "output", "parameters", "size", "FLOPs", "kept", "kernel")
        cells = [head, *_texts(self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        # Names and shapes give way where the table would be wider than a terminal.
        for column, least in ((2, 14), (0, 18), (1, 12)):
            over = sum(widths) + 2 * (len(widths) - 1) - WIDTH
            widths[column] = max(min(widths[column], least), widths[column] - max(0, over))
        lines = []
        for row in cells:
            fitted = [_fitted(text, width) for text, width in zip(row, widths, strict=True)]
            aligned = [
                text.rjust(width) if 3 <= column <= 6 else text.ljust(width)
                for column, (text, width) in enumerate(zip(fitted, widths, strict=True))
            ]
            lines.append("  ".join(aligned).rstrip())
        rule = "─" * max(map(len, lines))
        total = self.total
        notes = [
            f"Parameters: {total.parameters:,} ({readable_bytes(total.parameter_bytes)}). "
            f"FLOPs: {readable(total.flops)} forward, about "
            f"{readable(3 * total.flops)} in training. "
            f"Kept: {readable_bytes(total.kept_bytes)}.",
            "FLOPs are those of products, 2 a multiply-add. Kept: about, for the backward pass.",
        ]
        if self.loops_of_unknown_length:
            notes.append(
                f"Loops of unknown length: {self.loops_of_unknown_length}; one turn is counted."
            )
        if self.mapped:
            notes.append("Inside jax.vmap outputs and what is kept are those of one example.")
        if any(row.output is None for row in self.rows):
            notes.append(
                "Without output: not called as a module. The module around it has its FLOPs; what "
                "its\nown loops keep is not counted."
            )
        reasons = [reason for row in self.rows if row.plan for reason in _why(row.plan)]
        notes += [
            textwrap.fill(f"- {reason}", WIDTH, subsequent_indent="  ")
            for reason in dict.fromkeys(reasons)
        ]
        return "\n".join([lines[0], rule, *lines[1:], rule, *notes])


def summary(model: nnx.Module, example: Any, **kwargs: Any) -> Summary:
    """Prints what a model is made of, and what it costs, as a table. Computes nothing.

    Each row is a module with the shape of its output, its parameters, the FLOPs of its products
    (exact: 2·N·M·K for [N, K] times [K, M], loops counted as often as they turn), about what
    reverse mode keeps for it, and the kernel that runs a recurrent layer. All are those of a call
    in evaluation mode, which is traced with shapes alone (integers such as lengths keep their
    values, if they have any): a model made by `nnx.eval_shape` will do, whatever its size.

    Where a module steps the parameters of another by itself, as `seq2seq.Decoder` does with its
    cells and its attention, the FLOPs are its own, and what those steps keep is not counted. Of
    modules called inside `jax.vmap` output and kept bytes are those of one example. Notes below the
    table say so.

    Args:
      model: a layer, or any module with or without layers in it.
      example: an input, or a tuple of the call's arguments; arrays or `jax.ShapeDtypeStruct`s.
      **kwargs: keyword arguments of the call, such as `lengths`.

    Returns:
      The `Summary`, whose text is what was printed.

    Raises:
      TypeError: a model that is no `nnx.Module`.
      ValueError: an example that the model cannot be called with.

    Example:
      >>> from seqjax import nn
      >>> layer = nn.GRU(16, 32, bidirectional=True, rngs=nnx.Rngs(0))
      >>> found = summary(
      ...     layer, jax.ShapeDtypeStruct((8, 20, 16), jnp.float32)
      ... )  # doctest: +ELLIPSIS
      module      type       output  parameters     size      FLOPs      kept  kernel
      ...
      >>> found.total.parameters == 2 * (16 * 96 + 32 * 96 + 96 + 32)
      True
      >>> found.total.flops == 2 * (2 * 8 * 20 * (16 + 32) * 96)
      True
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model: expected an nnx.Module, got {checks.brief(model)}")
    trace = _Trace(model)
    args = example if isinstance(example, tuple) else (example,)
    found = trace.summary(model, args, kwargs)
    print(found)
    return found


class _Trace:
    """A record of the modules, made while a call of the model is traced."""

    def __init__(self, model: nnx.Module) -> None:
        self.modules = {
            ".".join(map(str, path)): module
            for path, module in nnx.iter_modules(model)
            if not isinstance(module, (nnx.List, nnx.Dict))
        }
        self.scopes = {path: index for index, path in enumerate(self.modules)}
        self.order: dict[str, int] = {}  # of the modules' first calls
        self.outputs: dict[str, PyTree] = {}
        self.plans: dict[str, Plan] = {}
        self.kept: collections.Counter[str] = collections.Counter()
        self.running: list[str] = []
        self.others: dict[str, PyTree] = {}  # outputs of other methods than the call
        self.mapped = False

    def summary(self, model: nnx.Module, args: Any, kwargs: Any) -> Summary:
        """A row for each module, and what notes there are to make."""
        work = _flops.work_of(self._program(model, args, kwargs))
        rows = []
        for path in sorted(self.modules, key=self._place):
            inside = [other for other in self.modules if _within(other, path)]
            module = self.modules[path]
            kind = module.cell if isinstance(module, Direction) else module
            leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
            scopes = {other: self.scopes[other] for other in inside}
            rows.append(
                Row(
                    path=path,
                    type=type(kind).__name__,
                    output=self.outputs.get(path, self.others.get(path)),
                    parameters=sum(math.prod(leaf.shape) for leaf in leaves),
                    parameter_bytes=_bytes(leaves),
                    flops=sum(work.flops[index] for index in scopes.values()),
                    kept_bytes=sum(
                        self.kept[other] * work.turns.get(index, 1)
                        for other, index in scopes.items()
                    ),
                    plan=self.plans.get(path),
                )
            )
        return Summary(tuple(rows), work.unknown_loops, self.mapped)

    def _program(self, model: nnx.Module, args: Any, kwargs: Any) -> Any:
        graph, state = nnx.split(model)
        leaves, structure = jax.tree.flatten((args, kwargs))
        arrays = {
            index: leaf
            for index, leaf in enumerate(leaves)
            if isinstance(leaf, jax.ShapeDtypeStruct) or _is_floating(leaf)
        }  # what else there is, is an option of the call or has values that may be checked

        def run(state: Any, arrays: dict[int, Any]) -> list[Any]:
            given = [arrays.get(index, leaf) for index, leaf in enumerate(leaves)]
            args, kwargs = jax.tree.unflatten(structure, given)
            outputs = hooked(nnx.merge(graph, state), self._see)(*args, **kwargs)
            return [leaf for leaf in jax.tree.leaves(outputs) if isinstance(leaf, jax.Array)]

        try:
            return jax.make_jaxpr(run)(state, arrays).jaxpr
        except (TypeError, ValueError) as error:
            shapes = ", ".join(checks.brief(arg) for arg in args) or "nothing"
            raise ValueError(
                f"example: expected what {type(model).__name__} can be called with, got {shapes}: "
                f"{error}"
            ) from error

    def _see(self, call: Call) -> Any:
        """Notes a call of a module's method, and names what it computes after the module."""
        path, module = call.path, call.module
        self.order.setdefault(path, len(self.order))
        runs_direction = isinstance(module, Layer) and call.name == "run_direction"
        if runs_direction:
            direction, xs, _, sequences, _ = call.args
            side = "backward" if call.kwargs["reverse"] else "forward"
            path = f"{path}.{side}".lstrip(".")
            self.order.setdefault(path, len(self.order))
            self.plans[path] = sequences.plan(direction.cell, xs)
            self.kept[path] += self.plans[path].stored_bytes
        outermost = path not in self.running
        self.running.append(path)
        with _flops.scope(self.scopes[path]):
            result = call.proceed()
        self.running.pop()
        leaves = jax.tree.leaves(result)
        # JAX has no public name for the arrays inside `jax.vmap`.
        self.mapped |= any(type(leaf).__name__ == "BatchTracer" for leaf in leaves)
        if call.name == "__call__" or runs_direction:
            shown = result.outputs if isinstance(result, Unrolled) else result
            self.outputs[path] = _shapes(shown)
            if not any(_within(other, path) for other in self.modules if other != path):
                self.kept[path] += _bytes(jax.tree.leaves(self.outputs[path]))
        elif outermost and not call.name.startswith("_") and _are_arrays(leaves):
            self.others[path] = _shapes(result)
        return result

    def _place(self, path: str) -> tuple[tuple[int, int], ...]:
        """Sorts modules below what they are part of, in the order of their first calls."""
        parts = path.split(".") if path else []
        owners = [".".join(parts[:count]) for count in range(len(parts) + 1)]
        last = len(self.modules)
        return tuple(
            (self.order.get(owner, last), self.scopes[owner])
            for owner in owners
            if owner in self.scopes
        )


def _within(path: str, owner: str) -> bool:
    return not owner or path == owner or path.startswith(f"{owner}.")


def _is_floating(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _are_arrays(leaves: list[Any]) -> bool:
    return bool(leaves) and all(isinstance(leaf, jax.Array) for leaf in leaves)


def _shapes(outputs: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), outputs
    )


def _bytes(leaves: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _texts(rows: tuple[Row, ...]) -> list[tuple[str, ...]]:
    """The cells of the table."""
    texts: list[tuple[str, ...]] = []
    for row in rows:
        owners = [other.path for other in rows if other != row and _within(row.path, other.path)]
        nearest = max(owners, key=len, default="")
        name = row.path[len(nearest) :].lstrip(".") or "model"
        leaves = jax.tree.leaves(row.output)
        more = f" +{len(leaves) - 1}" if len(leaves) > 1 else ""
        output = f"[{', '.join(map(str, leaves[0].shape))}]{more}" if leaves else "-"
        kernel = "" if row.plan is None else row.plan.kernel.name
        if row.plan is not None and row.plan.remat != "none":
            kernel += f", {row.plan.remat}"
        texts.append(
            (
                "  " * len(owners) + name,
                row.type,
                output,
                f"{row.parameters:,}",
                readable_bytes(row.parameter_bytes) if row.parameter_bytes else "-",
                readable(row.flops) if row.flops else "-",
                readable_bytes(row.kept_bytes) if row.kept_bytes else "-",
                kernel,
            )
        )
    return texts


def _why(plan: Plan) -> list[str]:
    """The reasons for the kernel and, where steps run twice, for that."""
    kernel = plan.reasons.kernel
    return [kernel] if plan.remat == "none" else [kernel, f"{plan.remat}: {plan.reasons.remat}"]


def _fitted(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
