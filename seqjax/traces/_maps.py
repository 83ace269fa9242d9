"""The step of a cell or a layer as a map of real vectors, for the study of its dynamics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from seqjax import _arguments as arguments
from seqjax import checks
from seqjax.cells._base import Cell, compute_dtype, input_specs, widened
from seqjax.cells.ops import accumulator_dtype
from seqjax.kernels import Execution
from seqjax.nn._recurrent import Recurrent
from seqjax.types import Array, PyTree, Shape

__all__ = ["StepMap", "as_vector", "leading_axes", "map_of_cell", "map_of_layer", "one_input"]


@dataclasses.dataclass(frozen=True)
class CellStep:
    """The step of a cell, as a hashable function."""

    cell: Cell[Any, Any]

    def __call__(self, params: PyTree, x: PyTree, state: PyTree) -> PyTree:
        return self.cell.step(params, x, state).state


@dataclasses.dataclass(frozen=True)
class LayerStep:
    """The step of a layer in evaluation mode, as a hashable function."""

    graphdef: Any

    def __call__(self, params: PyTree, x: PyTree, state: PyTree) -> PyTree:
        layer = nnx.merge(self.graphdef, params)
        xs = jax.tree.map(lambda a: a[None], x)  # the time axis; there are no batch axes
        execution = Execution(implementation="scan")  # which has derivatives of all kinds
        return layer(xs, initial_state=state, deterministic=True, execution=execution).state


@dataclasses.dataclass(frozen=True)
class StepMap:
    """The map from a state to the next state, `step(params, x, state)`, without batch axes.

    Attributes:
      step: a hashable function, which can be a static argument of `jax.jit`.
      params: the arrays that the step needs.
      cell: the cell that reads the input x.
      initial_state: the function from batch shape and dtype to the state before the first step.
      time_major: whether the time axis of sequences is first.
    """

    step: Callable[[PyTree, PyTree, PyTree], PyTree]
    params: PyTree
    cell: Cell[Any, Any]
    initial_state: Callable[[Shape, Any], PyTree]
    time_major: bool = False


def map_of_cell(cell: Cell[Any, Any], params: PyTree) -> StepMap:
    """Return the map of a cell."""
    arguments.check_cell(cell)
    params = arguments.checked_params(cell, params)
    return StepMap(CellStep(cell), params, cell, cell.initial_state)


def map_of_layer(layer: Recurrent) -> StepMap:
    """Return the map of a layer with one direction; the layers of a stack are one map."""
    if not isinstance(layer, Recurrent):
        raise TypeError(
            "layer: expected a layer such as seqjax.nn.GRU, got "
            f"{checks.brief(layer)}; pass the layer of a model, or use the function for cells"
        )
    if layer.bidirectional:
        raise ValueError(
            "layer: expected one direction, got a bidirectional layer, whose state after a step "
            "depends on all later steps; pass the cell of a direction to the function for cells"
        )
    if layer.dtype is not None and accumulator_dtype(layer.dtype) != layer.dtype:
        raise ValueError(
            f"layer: expected a layer that computes in float32 or wider, got dtype={layer.dtype}, "
            "which rounds the states of each step"
        )
    graphdef, params = nnx.split(layer)
    return StepMap(LayerStep(graphdef), params, layer.cell, layer.initial_state, layer.time_major)


def one_input(cell: Cell[Any, Any], x: PyTree) -> PyTree:
    """Return the input of one step as arrays in float32 or wider, or raise if it is not valid."""
    expected = input_specs(cell, (), jnp.float32)
    fits = arguments.same_structure(x, expected) and all(
        np.shape(leaf) == spec.shape
        for leaf, spec in zip(jax.tree.leaves(x), jax.tree.leaves(expected), strict=True)
    )
    if not fits:
        shapes = jax.tree.map(lambda spec: spec.shape, expected)
        raise ValueError(
            f"x: expected the input of one step without batch axes, of shape {shapes}, got "
            f"{checks.brief(x)}"
        )
    x = widened(jax.tree.map(lambda leaf: arguments.as_floating("x", leaf), x))
    return jax.tree.map(lambda leaf: leaf.astype(compute_dtype(x)), x)


def leading_axes(name: str, states: PyTree, own: PyTree) -> Shape:
    """Return the axes before those of one state, or raise if the states are not valid.

    Args:
      name: the name of the argument.
      states: states with leading axes.
      own: one state without leading axes, or its shapes and dtypes.
    """
    shapes = jax.tree.map(jnp.shape, own)
    if not arguments.same_structure(states, own):
        raise ValueError(
            f"{name}: expected states as {shapes} with leading axes, got {checks.brief(states)}"
        )
    leads, fits = set[Shape](), True
    for leaf, spec in zip(jax.tree.leaves(states), jax.tree.leaves(own), strict=True):
        if not jnp.issubdtype(spec.dtype, jnp.inexact):
            raise ValueError(
                f"{name}: expected a state of floating-point or complex arrays, got a cell whose "
                f"state has {spec.dtype}"
            )
        lead = np.shape(leaf)[: np.ndim(leaf) - len(spec.shape)]
        fits = fits and np.shape(leaf) == (*lead, *spec.shape)
        leads.add(lead)
    if len(leads) != 1 or not fits:
        raise ValueError(
            f"{name}: expected states as {shapes} with equal leading axes, got "
            f"{checks.brief(states)}"
        )
    return leads.pop()


def as_vector(state: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Return a state as one real vector `[D]`, and the function that converts vectors to states.

    A complex array is converted to its real and its imaginary parts.
    """

    def real(leaf: Array) -> Array:
        return jnp.stack([leaf.real, leaf.imag]) if jnp.iscomplexobj(leaf) else leaf

    def as_given(leaf: Array, pair: Array) -> Array:
        return jax.lax.complex(pair[0], pair[1]) if jnp.iscomplexobj(leaf) else pair

    vector, unravel = ravel_pytree(jax.tree.map(real, state))
    return vector, lambda v: jax.tree.map(as_given, state, unravel(v))
