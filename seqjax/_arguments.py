"""Checks of the arguments of a run. They return the parts of one `Problem`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells._base import Cell, flat_roles, is_shape
from seqjax.types import Array, PyTree, Shape

__all__ = [
    "as_floating",
    "batched_state",
    "check_cell",
    "checked_params",
    "checked_recurrent_mask",
    "floating_inputs",
    "holds",
    "in_words",
    "layout",
    "param_specs",
    "same_structure",
]


def check_cell(cell: Any) -> None:
    if not isinstance(cell, Cell):
        raise TypeError(
            f"cell: expected a cell such as seqjax.cells.GRU(3, 5), got {checks.brief(cell)}"
        )
    try:
        hash(cell)
    except TypeError:
        raise TypeError(
            f"cell: expected a hashable configuration (a frozen dataclass of hashable fields), "
            f"got {checks.brief(cell)}"
        ) from None


def floating_inputs(cell: Cell[Any, Any], xs: PyTree) -> PyTree:
    """The inputs of a cell as JAX arrays, which must be floating-point."""
    if not same_structure(xs, cell.input_shape, is_leaf=is_shape):
        expected = jax.tree.map(lambda s: in_words("...", s), cell.input_shape, is_leaf=is_shape)
        raise ValueError(
            f"xs: expected floating-point inputs as {expected}, got {checks.brief(xs)}"
        )
    return jax.tree.map(lambda x: as_floating("xs", x), xs)


def in_words(lead: str, event: Shape) -> str:
    """The shape of an array with some leading axes, as messages show it: [..., T, 3]."""
    return f"[{', '.join([lead, *map(str, event)])}]"


def as_floating(name: str, x: Any) -> Array:
    """An input as a JAX array, which must be floating-point."""
    return checks.require_array(name, x, jnp.floating, "floating-point inputs")


def same_structure(
    tree: PyTree, other: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> bool:
    """Return whether two pytrees have the same structure; `is_leaf` is for the other one."""
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other, is_leaf=is_leaf))


def layout(cell: Cell[Any, Any], xs: PyTree, *, time_major: bool) -> tuple[Shape, int]:
    """The batch shape and the number of steps of xs, after checking it against the cell."""
    shapes = cell.input_shapes
    found: tuple[Shape, int] | None = None
    for x, event in zip(jax.tree.leaves(xs), shapes, strict=True):
        lead = x.shape[: x.ndim - len(event)]
        if x.ndim <= len(event) or x.shape[len(lead) :] != event:
            expected = in_words("T, ..." if time_major else "..., T", event)
            option = f"input_size={event[0]}" if len(event) == 1 else f"input_shape={event}"
            raise ValueError(f"xs: expected {expected} for {option}, got {x.shape}")
        layout_of_x = (lead[1:], lead[0]) if time_major else (lead[:-1], lead[-1])
        if found is not None and found != layout_of_x:
            shapes = jax.tree.map(jnp.shape, xs)
            raise ValueError(f"xs: expected equal batch and time axes, got {shapes}")
        found = layout_of_x
    if found is None:
        raise ValueError("xs: expected at least one array, got an empty pytree")
    return found


@functools.lru_cache(maxsize=256)
def param_specs(cell: Cell[Any, Any]) -> PyTree:
    """Shapes and dtypes of a cell's parameters."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(cell.init, key)


def checked_params(cell: Cell[Any, Any], params: PyTree) -> PyTree:
    return _like("params", cell, params, param_specs(cell))


def _like(
    name: str, cell: Cell[Any, Any], tree: PyTree, specs: PyTree, batch_shape: Shape = ()
) -> PyTree:
    """A pytree of a cell as arrays like the specs, each with the batch axes or without them."""

    def expected(got: Any) -> ValueError:
        shapes = jax.tree.map(lambda spec: (*batch_shape, *spec.shape), specs)
        return ValueError(
            f"{name}: expected arrays of {shapes} for {type(cell).__name__}, got {got}"
        )

    if not same_structure(tree, specs):
        raise expected(checks.brief(tree))
    tree = jax.tree.map(lambda leaf, spec: _of_kind(name, leaf, spec), tree, specs)
    for leaf, spec in zip(jax.tree.leaves(tree), jax.tree.leaves(specs), strict=True):
        if leaf.shape not in ((*batch_shape, *spec.shape), spec.shape):
            raise expected(jax.tree.map(jnp.shape, tree))
    return tree


def _of_kind(name: str, leaf: Any, spec: Any) -> Array:
    """An array of the kind of a spec: floating-point, or exactly its dtype."""
    if jnp.issubdtype(spec.dtype, jnp.floating):
        return checks.require_array(name, leaf, jnp.floating, "floating-point arrays")
    if jnp.issubdtype(spec.dtype, jnp.complexfloating):
        return checks.require_array(name, leaf, jnp.complexfloating, "complex arrays")
    return checks.require_array(name, leaf, spec.dtype.type, f"arrays of {spec.dtype}")


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
    """The state to start from or to reset to, with batch axes; None for the cell's own."""
    if state is None:
        return None
    x64: bool = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    event = _state_specs(cell, jnp.dtype(dtype), x64)
    state = _like(name, cell, state, event, batch_shape)

    def with_axes(leaf: Array, spec: Any) -> Array:
        shape = (*batch_shape, *spec.shape)
        return leaf if leaf.shape == shape else jnp.broadcast_to(leaf, shape)

    return jax.tree.map(with_axes, state, event)


def checked_recurrent_mask(
    cell: Cell[Any, Any], mask: Any, state: PyTree, dtype: Any
) -> PyTree | None:
    if mask is None:
        return None
    target = jax.eval_shape(cell.recurrent_input, state)
    if target is None:
        raise ValueError(
            f"recurrent_mask: {type(cell).__name__} has no recurrent product to mask; expected None"
        )
    if not same_structure(mask, target):
        shapes = jax.tree.map(lambda a: a.shape, target)
        raise ValueError(f"recurrent_mask: expected arrays of {shapes}, got {checks.brief(mask)}")

    def one(factors: Any, like: Any) -> Array:
        factors = checks.require_array(
            "recurrent_mask",
            jnp.asarray(factors, dtype) if isinstance(factors, (int, float)) else factors,
            jnp.floating,
            "floating-point factors",
        )
        try:
            return jnp.broadcast_to(factors, like.shape).astype(dtype)
        except ValueError:
            raise ValueError(
                f"recurrent_mask: expected {like.shape}, got {factors.shape}"
            ) from None

    return jax.tree.map(one, mask, target)


def holds(
    cell: Cell[Any, Any],
    zoneout: PyTree | None,
    state: PyTree,
    step_shape: Shape,
    time_major: bool,
    dtype: Any,
) -> PyTree | None:
    """Zoneout's fractions with a time axis, one array a state leaf."""
    if zoneout is None:
        return None
    leaves, structure = jax.tree.flatten(state)
    given = jax.tree.leaves(zoneout, is_leaf=lambda leaf: leaf is None)
    if not same_structure(state, zoneout, is_leaf=lambda leaf: leaf is None):
        expected = jax.tree.map(jnp.shape, state)
        raise ValueError(
            f"zoneout: expected numbers or arrays in the structure of the state, {expected}, "
            f"got {checks.brief(zoneout)}"
        )
    batch_ndim = len(step_shape) - 1
    found = []
    for hold, leaf, role in zip(given, leaves, flat_roles(cell.state_roles()), strict=True):
        if not role.held and jnp.issubdtype(leaf.dtype, jnp.inexact) and hold is not None:
            raise ValueError(
                f"zoneout: expected None where {type(cell).__name__} says that an array of its "
                f"state is not held, got {checks.brief(hold)}"
            )
        shape = (*step_shape, *leaf.shape[batch_ndim:])
        hold = _fraction(0.0 if hold is None else hold, dtype)
        if hold.shape not in ((), shape):
            raise ValueError(f"zoneout: expected a number or {shape}, got {hold.shape}")
        if hold.shape == ():  # a time axis alone, so that constants cost no memory
            axis = 0 if time_major else batch_ndim
            shape = tuple(step_shape[axis] if n == axis else 1 for n in range(len(shape)))
        found.append(jnp.broadcast_to(hold, shape))
    return jax.tree.unflatten(structure, found)


def _fraction(hold: Any, dtype: Any) -> Array:
    """One leaf of zoneout: bool, or a number or numbers from 0 to 1."""
    kind = "bool or a fraction from 0 to 1"
    array = checks.require_array("zoneout", hold, (jnp.generic), kind)
    if array.dtype == jnp.bool_:
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating) and not isinstance(hold, int):
        raise TypeError(f"zoneout: expected {kind}, got dtype {array.dtype}")
    checks.require_range("zoneout", array, 1)
    return array.astype(dtype)
