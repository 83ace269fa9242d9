"""The parts of a model that a session needs: a step, an initial state and the input shapes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import checks
from seqjax.cells._base import Cell, input_specs
from seqjax.nn import CausalConv, Direction, Recurrent, ResidualBlock
from seqjax.types import PyTree

__all__ = ["Start", "Step", "Steps", "check_step", "columns_of", "spec_of", "steps_of"]

# step(module, x_t, state) -> (output, state)
Step: TypeAlias = Callable[[Any, PyTree, PyTree], tuple[PyTree, PyTree]]
# start(module) -> state
Start: TypeAlias = Callable[[Any], PyTree]


class Steps(NamedTuple):
    """The parts of a model that a session needs.

    Attributes:
      module: the first argument of the step, a module or None. The module is passed to compiled
        functions as an argument, so that its weights do not become constants of the programs.
      step: the step function.
      start: a function that returns the initial state of one stream for the present weights of the
        module; None if the model does not define an initial state.
      inputs: the input of one stream as `jax.ShapeDtypeStruct`s; None if the model does not define
        the shape of an input.
    """

    module: Any
    step: Step
    start: Start | None
    inputs: PyTree | None


def steps_of(model: Any) -> Steps:
    """Return the parts of a model, or raise an error if it has no step."""
    expected = "a layer, a module with step and initial_state, or a function step(x_t, state)"
    if isinstance(model, type):
        raise TypeError(
            f"model: expected {expected}, got {checks.brief(model)}; create an instance of it"
        )
    if isinstance(model, Cell):
        raise TypeError(
            f"model: expected {expected}, got the cell {type(model).__name__}, which has no "
            "parameters; make a layer with seqjax.nn.Recurrent(cell, rngs=…)"
        )
    if getattr(model, "bidirectional", False):
        raise ValueError(
            "model: expected one direction, got a bidirectional layer, whose backward direction "
            "starts at the end of a sequence; a stream has no end yet"
        )
    if isinstance(model, Recurrent):
        dtype = model.dtype or model.param_dtype
        start: Start | None = lambda layer: layer.initial_state((), dtype)  # noqa: E731
        return Steps(model, _own_step, start, input_specs(model.cell, (), dtype))
    if isinstance(model, Direction):
        dtype = jax.tree.leaves(model.params)[0].dtype
        start = lambda direction: direction.start((), dtype)  # noqa: E731
        return Steps(model, _cell_step, start, input_specs(model.cell, (), dtype))
    if isinstance(model, ResidualBlock | CausalConv):
        dtype = model.dtype or model.param_dtype
        start = lambda block: block.initial_state((), dtype)  # noqa: E731
        inputs = jax.ShapeDtypeStruct((model.input_size,), dtype)
        return Steps(model, _own_step, start, inputs)
    if callable(getattr(model, "step", None)):
        known = callable(getattr(model, "initial_state", None))
        if isinstance(model, nnx.Module):
            start = (lambda module: module.initial_state(())) if known else None
            return Steps(model, _own_step, start, None)
        start = (lambda _: model.initial_state(())) if known else None
        return Steps(None, lambda _, x, state: model.step(x, state), start, None)
    if callable(model) and not isinstance(model, nnx.Module):
        return Steps(None, lambda _, x, state: model(x, state), None, None)
    raise TypeError(f"model: expected {expected}, got {checks.brief(model)}")


def _own_step(module: Any, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    output, state = module.step(x, state)
    return output, state


def _cell_step(direction: Direction, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    output, state = direction.cell.step(direction.params, x, state)
    return output, state


def spec_of(example: PyTree) -> PyTree:
    """Return the shapes and dtypes of inputs like this example."""

    def one(array: Any) -> jax.ShapeDtypeStruct:
        array = array if hasattr(array, "dtype") else np.asarray(array)
        return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))

    return jax.tree.map(one, example, is_leaf=_is_list)


def check_step(step: Step, module: Any, inputs: PyTree, state: PyTree, count: int) -> None:
    """Raise an error unless the step computes `count` rows of outputs and of the state.

    Args:
      step: the step of a model.
      module: the first argument of the step.
      inputs: the shapes and dtypes of the input of one stream.
      state: the shapes and dtypes of the state of one stream.
      count: the number of streams.

    Raises:
      TypeError: the dtype of the state cannot represent the state that the step returns.
      ValueError: an output or the state lacks the leading axis of streams.

    Example:
      >>> number = jax.ShapeDtypeStruct((), "float32")
      >>> check_step(lambda module, x, state: (x, state + x), None, number, number, 4)
    """
    xs, state = (_with_rows(specs, count) for specs in (inputs, state))
    try:
        outputs, new = jax.eval_shape(step, module, xs, state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "model: expected a step whose x_t and state have a leading axis of streams, got an "
            f"error with {count} streams: {error}"
        ) from error
    for leaf in jax.tree.leaves(outputs):
        if leaf.shape[:1] != (count,):
            raise ValueError(
                f"model: expected outputs with a leading axis of {count} streams, got the "
                f"shape {leaf.shape}"
            )
    leaves, structure = jax.tree.flatten(new)
    olds: list[Any] = jax.tree.leaves(state)
    expected: Any = jax.tree.structure(state)
    if structure != expected or [a.shape for a in leaves] != [a.shape for a in olds]:
        wanted, came = (jax.tree.map(jnp.shape, tree) for tree in (state, new))
        raise ValueError(
            f"model: expected a step that returns a state of {wanted} for {count} streams, "
            f"got {came}"
        )
    for leaf, old in zip(leaves, olds, strict=True):
        if not _holds(old.dtype, leaf.dtype):
            raise TypeError(
                f"initial_state: expected {leaf.dtype}, the dtype of the state that the step "
                f"returns, got {old.dtype}"
            )


def _with_rows(specs: PyTree, count: int) -> PyTree:
    """Return the shapes and dtypes of `count` streams, given those of one stream."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype), specs)


def _holds(dtype: Any, other: Any) -> bool:
    """Return whether a state of a dtype can store values of another one, up to rounding."""
    if jnp.issubdtype(dtype, jnp.floating) and jnp.issubdtype(other, jnp.floating):
        return True  # a state in half precision may be updated in float32
    return bool(dtype == other or jnp.promote_types(dtype, other) == dtype)


def columns_of(
    name: str, inputs: Mapping[Any, PyTree], specs: PyTree, *, steps: bool
) -> list[list[np.ndarray]]:
    """Return a list with the arrays of all streams for each leaf of the inputs, or raise.

    If `steps` is True, each input has a leading time axis. The loop over streams has few pytree
    operations, since such operations would take longer than the step itself.
    """
    wanted: list[Any] = jax.tree.leaves(specs)
    structure: Any = jax.tree.structure(specs)
    rows = []
    for stream, xs in inputs.items():
        try:
            rows.append(structure.flatten_up_to(xs))
        except (TypeError, ValueError):
            raise _unexpected(name, stream, xs, specs, steps) from None
    columns = []
    for spec, leaves in zip(wanted, zip(*rows, strict=True), strict=True):
        if any(isinstance(leaf, np.ma.MaskedArray) for leaf in leaves):
            checks.require_unmasked(name, leaves)
        try:
            arrays = [_array_of(leaf, spec, steps) for leaf in leaves]
        except ValueError:  # lists of several lengths
            stream = next(s for s, leaf in zip(inputs, leaves, strict=True) if _is_ragged(leaf))
            raise TypeError(
                f"{name}: expected arrays of {spec.dtype} for stream {stream!r}, got an input that "
                "NumPy cannot convert, such as lists of different lengths"
            ) from None
        rank, lead = len(spec.shape) + steps, int(steps)
        for (stream, xs), array in zip(inputs.items(), arrays, strict=True):
            if array.ndim != rank or array.shape[lead:] != spec.shape:
                raise _unexpected(name, stream, xs, specs, steps)
        _check_values(name, list(inputs), arrays, spec.dtype)
        columns.append(arrays)
    if steps:
        for (stream, xs), arrays in zip(inputs.items(), zip(*columns, strict=True), strict=True):
            if len({len(array) for array in arrays}) > 1:
                raise _unexpected(name, stream, xs, specs, steps)
    return columns


def _array_of(leaf: Any, spec: Any, steps: bool) -> np.ndarray:
    if steps and isinstance(leaf, list) and not leaf:  # NumPy converts an empty list to float64
        return np.zeros((0, *spec.shape), spec.dtype)
    return np.asarray(leaf)


def _is_ragged(leaf: Any) -> bool:
    try:
        np.asarray(leaf)
    except ValueError:
        return True
    return False


def _check_values(name: str, streams: list[Any], arrays: list[np.ndarray], dtype: Any) -> None:
    """Raise an error if arrays cannot be converted to a dtype without a change of kind or overflow.

    All arrays of one dtype are checked together, which is faster.
    """
    for given in {array.dtype for array in arrays} - {dtype}:
        same = [array.ravel() for array in arrays if array.dtype == given]
        try:
            checks.require_cast(name, np.concatenate(same), dtype, f"{dtype}")
        except (TypeError, ValueError):
            for stream, array in zip(streams, arrays, strict=True):
                checks.require_cast(name, array, dtype, f"{dtype} for stream {stream!r}")
            raise


def _unexpected(name: str, stream: Any, xs: PyTree, specs: PyTree, steps: bool) -> ValueError:
    expected = jax.tree.map(lambda spec: ("t", *spec.shape) if steps else spec.shape, specs)
    shape = str(expected).replace("'t'", "t")
    came = np.shape(xs) if isinstance(xs, list) else checks.brief(xs)
    return ValueError(f"{name}: expected {shape} for stream {stream!r}, got {came}")


def _is_list(value: Any) -> bool:
    return isinstance(value, list)
