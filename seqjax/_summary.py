"""A table of a model's modules: shapes, parameters, FLOPs, memory, and kernels of its layers."""

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
"""The width of the table in columns of a terminal."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One module of a model. The numbers of a row include those of the module's submodules.

    Attributes:
      path: the path of the module, such as "encoder.layers.0"; "" for the model itself.
      type: the class of the module or, for one direction of a recurrent layer, the class of its
        cell.
      output: the output of the module as a pytree of `jax.ShapeDtypeStruct`, without the state for
        a recurrent layer. If the module itself was not called, `output` is that of the last public
        method that returned arrays, or None.
      parameters: the number of parameters, each a scalar.
      parameter_bytes: the size of the parameters.
      flops: the FLOPs of products and convolutions in a call of the model. A product that a module
        computes itself, and not in a submodule, counts for this module.
      kept_bytes: approximate number of bytes that reverse mode keeps for a call of the model: the
        outputs of modules without submodules and the values that recurrent kernels store. If a
        module has a loop of its own, without these kernels, the values that the loop stores are not
        included.
      plan: for one direction of a recurrent layer, the plan, as `seqjax.explain` returns it. For
        other modules, None.

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
    """The table of a model's modules, which `str` converts to text.

    Attributes:
      rows: one row per module, the model itself first.
      loops_of_unknown_length: the number of `while` loops. The FLOPs of one iteration of each loop
        are counted.
      mapped: whether modules were called inside `jax.vmap`. The outputs and kept bytes of such
        modules are those of one example.

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
        # Names and shapes are shortened if the table would be wider than a terminal.
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
            "FLOPs are those of products; a multiply-add counts 2. Kept: approximate number of "
            "bytes\nthat the backward pass needs.",
        ]
        if self.loops_of_unknown_length:
            notes.append(
                f"Loops of unknown length: {self.loops_of_unknown_length}; one iteration of each "
                "is counted."
            )
        if self.mapped:
            notes.append("Inside jax.vmap, outputs and kept bytes are those of one example.")
        if any(row.output is None for row in self.rows):
            notes.append(
                "Without output: not called as a module. The FLOPs count for the module around it, "
                "and\nbytes kept by loops of that module are not counted."
            )
        reasons = [reason for row in self.rows if row.plan for reason in _why(row.plan)]
        notes += [
            textwrap.fill(f"- {reason}", WIDTH, subsequent_indent="  ")
            for reason in dict.fromkeys(reasons)
        ]
        return "\n".join([lines[0], rule, *lines[1:], rule, *notes])


def summary(model: nnx.Module, example: Any, **kwargs: Any) -> Summary:
    """Print a table of a model's modules with sizes, FLOPs and memory, without running the model.

    Each row is a module with the shape of its output, its parameters, the FLOPs of its products,
    the approximate number of bytes that reverse mode keeps for it, and the kernel of a recurrent
    layer. The FLOPs are exact: 2·N·M·K for [N, K] times [K, M], times the number of iterations of
    loops. The numbers are those of a call in evaluation mode, which is traced with shapes only.
    Integer arrays such as lengths keep their values, since the call may check these values. A model
    made by `nnx.eval_shape` can be used, so the size of the model does not matter.

    If a module itself runs the steps of another module, as `seq2seq.Decoder` does with its cells
    and its attention, the FLOPs count for the module that runs the steps, and the bytes that these
    steps keep are not counted. The output and the kept bytes of modules called inside `jax.vmap`
    are those of one example. Notes below the table say if the model has such modules.

    Args:
      model: a layer or any other module.
      example: an input, or a tuple of the arguments of the call. Each argument is an array or a
        `jax.ShapeDtypeStruct`.
      **kwargs: keyword arguments of the call, such as `lengths`.

    Returns:
      The `Summary` that was printed.

    Raises:
      TypeError: `model` is not an `nnx.Module`.
      ValueError: the model cannot be called with `example`.

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
    """A record of a model's modules and their calls while a call of the model is traced."""

    def __init__(self, model: nnx.Module) -> None:
        self.modules = {
            ".".join(map(str, path)): module
            for path, module in nnx.iter_modules(model)
            if not isinstance(module, (nnx.List, nnx.Dict))
        }
        self.scopes = {path: index for index, path in enumerate(self.modules)}
        self.order: dict[str, int] = {}  # the order of the modules' first calls
        self.outputs: dict[str, PyTree] = {}
        self.plans: dict[str, Plan] = {}
        self.kept: collections.Counter[str] = collections.Counter()
        self.running: list[str] = []
        self.others: dict[str, PyTree] = {}  # outputs of methods other than __call__
        self.mapped = False

    def summary(self, model: nnx.Module, args: Any, kwargs: Any) -> Summary:
        """Trace a call of the model and return its summary."""
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
        }  # other leaves are options, or have values that the call may check

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
                f"example: expected arguments for a call of {type(model).__name__}, got {shapes}: "
                f"{error}"
            ) from error

    def _see(self, call: Call) -> Any:
        """Record a call of a module's method, and run it in a name scope of the module."""
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
        """Return a sort key that puts modules after their parents and in the order of calls."""
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
    """Return the texts of the table's cells."""
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
    """Return the reason for the kernel and, if steps run twice, the reason for the second run."""
    kernel = plan.reasons.kernel
    return [kernel] if plan.remat == "none" else [kernel, f"{plan.remat}: {plan.reasons.remat}"]


def _fitted(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
