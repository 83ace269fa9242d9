"""Checks of the arguments of `unroll` and of layers.

Most functions return the checked argument as arrays, which become fields of a `Problem`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks, sequences
from seqjax.cells._base import Cell, flat_roles, is_shape
from seqjax.types import Array, PyTree, Shape

__all__ = [
    "as_floating",
    "batched_state",
    "check_cell",
    "checked_burn_in",
    "checked_params",
    "checked_recurrent_mask",
    "floating_inputs",
    "holds",
    "in_words",
    "layout",
    "param_specs",
    "same_structure",
    "timed_states",
    "vector_sequences",
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
    _require_compared(cell)


_PLAIN = frozenset({bool, int, float, str, type(None)})  # types of values that hold no cell


def _require_compared(cell: Cell[Any, Any]) -> None:
    """Raise if `==` ignores a value of a cell, or of a cell in its fields.

    Equal cells share compiled programs, so two cells that differ in an ignored value would give the
    same results.
    """
    compared = _compared(type(cell))
    if compared is None:
        return
    names, ignored = compared
    values = vars(cell)
    if not values.keys() <= names:
        ignored = next(name for name in values if name not in names)
    if not _PLAIN.issuperset(map(type, values.values())):
        for value in values.values():
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Cell):
                    _require_compared(part)
    if ignored is not None:
        raise TypeError(
            "cell: expected a frozen dataclass whose fields are all compared, got "
            f"{type(cell).__name__}, whose == ignores {ignored!r}"
        )


@functools.lru_cache(maxsize=256)
def _compared(kind: type[Cell[Any, Any]]) -> tuple[frozenset[str], str | None] | None:
    """Return the attributes that a cell of a class may have, and a field that its `==` ignores.

    The attributes are the fields that `==` compares, and those of `functools.cached_property`,
    which only depend on the fields. The field is None if `==` compares all fields. The result is
    None for a class that defines `__eq__` itself.
    """
    owner = next(base for base in kind.__mro__ if "__eq__" in vars(base))
    if "__dataclass_params__" not in vars(owner) or not vars(owner)["__dataclass_params__"].eq:
        return None
    fields = {field.name for field in dataclasses.fields(owner) if field.compare}
    ignored = [field.name for field in dataclasses.fields(kind) if field.name not in fields]
    cached = {
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if isinstance(value, functools.cached_property)
    }
    return frozenset(fields | cached), next(iter(ignored), None)


def floating_inputs(cell: Cell[Any, Any], xs: PyTree, name: str = "xs") -> PyTree:
    """Return the inputs of a cell as JAX arrays, or raise if they are not floating-point."""
    if isinstance(xs, jax.Array) and is_shape(cell.input_shape):
        return as_floating(name, xs)
    if not same_structure(xs, cell.input_shape, is_leaf=is_shape):
        expected = jax.tree.map(lambda s: in_words("...", s), cell.input_shape, is_leaf=is_shape)
        hint = "; numpy.asarray makes an array of lists" if isinstance(xs, list) else ""
        raise ValueError(
            f"{name}: expected floating-point inputs as {expected}, got {checks.brief(xs)}{hint}"
        )
    return jax.tree.map(lambda x: as_floating(name, x), xs)


def in_words(lead: str, event: Shape) -> str:
    """Return the shape of an array with leading axes as text for messages, such as [..., T, 3]."""
    return f"[{', '.join([lead, *map(str, event)])}]"


def as_floating(name: str, x: Any) -> Array:
    """Return an input as a JAX array, or raise if it is not floating-point."""
    return checks.require_array(name, x, jnp.floating, "floating-point inputs")


def same_structure(
    tree: PyTree, other: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> bool:
    """Return whether two pytrees have the same structure; `is_leaf` applies to `other` only."""
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other, is_leaf=is_leaf))


def layout(cell: Cell[Any, Any], xs: PyTree, *, time_major: bool) -> tuple[Shape, int]:
    """Check xs against the cell. Return the batch shape and the number of steps of xs."""
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


def vector_sequences(
    xs: Any, size: int, dtype: Any, *, lengths: Any = None, mask: Any = None
) -> tuple[Array, Array | None]:
    """Check sequences of vectors `[..., T, I]`. Return them with zeros as padding, and the mask.

    Args:
      xs: the sequences.
      size: the number of features, I.
      dtype: the dtype of the result, or None for the dtype of xs.
      lengths: the number of real steps of each sequence, as for `sequences.step_mask`.
      mask: True at real steps, as for `sequences.step_mask`.
    """
    xs = as_floating("xs", xs)
    if xs.ndim < 2 or xs.shape[-1] != size:
        expected = in_words("..., T", (size,))
        raise ValueError(f"xs: expected {expected} for input_size={size}, got {xs.shape}")
    real = sequences.step_mask(xs.shape[:-2], xs.shape[-2], lengths=lengths, mask=mask)
    return sequences.zero_masked(xs if dtype is None else xs.astype(dtype), mask=real), real


@functools.lru_cache(maxsize=256)
def param_specs(cell: Cell[Any, Any]) -> PyTree:
    """Return the shapes and dtypes of a cell's parameters (cached for later calls)."""
    return cell.param_specs()


def checked_params(cell: Cell[Any, Any], params: PyTree) -> PyTree:
    return _like("params", cell, params, param_specs(cell))


def _like(
    name: str, cell: Cell[Any, Any], tree: PyTree, specs: PyTree, batch_shape: Shape = ()
) -> PyTree:
    """Return a pytree as arrays, or raise if they do not fit the specs and the batch shape."""
    if _fits(tree, specs, batch_shape):
        return tree

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


def _fits(tree: PyTree, specs: PyTree, batch_shape: Shape) -> bool:
    """Return whether a pytree has JAX arrays of exactly the shapes and dtypes of the specs.

    It is fast, so that calls outside of `jax.jit` take less time.
    """
    return same_structure(tree, specs) and all(
        isinstance(leaf, jax.Array)
        and leaf.dtype == spec.dtype
        and leaf.shape == (*batch_shape, *spec.shape)
        for leaf, spec in zip(jax.tree.leaves(tree), jax.tree.leaves(specs), strict=True)
    )


def _of_kind(name: str, leaf: Any, spec: Any) -> Array:
    """Return a leaf as an array, or raise if its dtype is of another kind than that of the spec."""
    if jnp.issubdtype(spec.dtype, jnp.floating):
        return checks.require_array(name, leaf, jnp.floating, "floating-point arrays")
    if jnp.issubdtype(spec.dtype, jnp.complexfloating):
        return checks.require_array(name, leaf, jnp.complexfloating, "complex arrays")
    return checks.require_array(name, leaf, spec.dtype.type, f"arrays of {spec.dtype}")


@functools.lru_cache(maxsize=256)
def _state_specs(cell: Cell[Any, Any], dtype: Any, x64: bool) -> PyTree:
    """Return the shapes and dtypes of a state without batch axes (cached for later calls).

    Args:
      cell: the cell.
      dtype: the dtype of the state.
      x64: whether 64-bit types are enabled in JAX, on which the dtype of a counter in the state may
        depend. This argument is only used as a part of the cache key.
    """
    del x64
    return jax.eval_shape(lambda: cell.initial_state((), dtype))


def _specs_of_state(cell: Cell[Any, Any], dtype: Any) -> PyTree:
    """Return the shapes and dtypes of a state without batch axes."""
    x64: bool = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return _state_specs(cell, jnp.dtype(dtype), x64)


def batched_state(
    name: str, cell: Cell[Any, Any], state: PyTree | None, batch_shape: Shape, dtype: Any
) -> PyTree:
    """Check an initial or reset state, and return it with batch axes. Return None for None."""
    if state is None:
        return None
    event = _specs_of_state(cell, dtype)
    if _fits(state, event, batch_shape):
        return state
    state = _like(name, cell, state, event, batch_shape)

    def with_axes(leaf: Array, spec: Any) -> Array:
        shape = (*batch_shape, *spec.shape)
        return leaf if leaf.shape == shape else jnp.broadcast_to(leaf, shape)

    return jax.tree.map(with_axes, state, event)


def timed_states(
    name: str, cell: Cell[Any, Any], states: PyTree, step_shape: Shape, dtype: Any
) -> PyTree | None:
    """Return states with a time axis, or None if the leaves have no time axis.

    Args:
      name: the name of the argument.
      cell: the cell.
      states: a state, or states with the leading axes `step_shape`.
      step_shape: the batch axes and the time axis, in the order of the call.
      dtype: the dtype of the state.
    """
    specs = _specs_of_state(cell, dtype)
    if not same_structure(states, specs):
        return None
    pairs = zip(jax.tree.leaves(states), jax.tree.leaves(specs), strict=True)
    if not all(jnp.ndim(leaf) == len(step_shape) + len(spec.shape) for leaf, spec in pairs):
        return None
    return batched_state(name, cell, states, step_shape, dtype)


def checked_burn_in(burn_in: int, steps: int, *, one_way: bool, limit: str) -> int:
    """Return the number of burn-in steps, or raise if it is not valid for the call.

    Args:
      burn_in: the argument of the call.
      steps: the number of time steps, T. It may be a symbol.
      one_way: whether all steps are processed in the order t = 0 … T-1.
      limit: the option that makes `one_way` False, for the error message.
    """
    burn_in = checks.require_integer("burn_in", burn_in, least=0)
    if burn_in and not one_way:
        raise ValueError(f"burn_in: expected 0 with {limit}, got {burn_in}")
    if isinstance(steps, int) and burn_in > steps:
        raise ValueError(f"burn_in: expected at most {steps}, the steps of xs, got {burn_in}")
    return burn_in


def checked_recurrent_mask(
    cell: Cell[Any, Any], mask: Any, state: PyTree, dtype: Any
) -> PyTree | None:
    if mask is None:
        return None
    target = jax.eval_shape(cell.recurrent_input, state)
    if target is None:
        raise ValueError(
            f"recurrent_mask: expected None for {type(cell).__name__}, which has no recurrent "
            f"product, got {checks.brief(mask)}"
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
    """Return the zoneout fractions as arrays with a time axis, one array per leaf of the state."""
    if zoneout is None:
        return None
    structure: Any
    slots, structure = jax.tree.flatten(state, is_leaf=_is_none)
    given, found_structure = jax.tree.flatten(zoneout, is_leaf=_is_none)
    if found_structure != structure:
        expected = jax.tree.map(jnp.shape, state)
        raise ValueError(
            f"zoneout: expected numbers or arrays in the structure of the state, {expected}, "
            f"got {checks.brief(zoneout)}"
        )
    batch_ndim = len(step_shape) - 1
    roles = iter(flat_roles(cell.state_roles()))
    found: list[Array | None] = []
    for hold, leaf in zip(given, slots, strict=True):
        if leaf is None:
            if hold is not None:
                raise ValueError(
                    "zoneout: expected None for an entry of the state that is None, got "
                    f"{checks.brief(hold)}"
                )
            found.append(None)
            continue
        role = next(roles)
        if not role.held and jnp.issubdtype(leaf.dtype, jnp.inexact) and hold is not None:
            raise ValueError(
                f"zoneout: expected None for an array that {type(cell).__name__}.state_roles says "
                f"is not held, got {checks.brief(hold)}"
            )
        shape = (*step_shape, *leaf.shape[batch_ndim:])
        hold = _fraction(0.0 if hold is None else hold, dtype)
        if hold.shape not in ((), shape):
            raise ValueError(f"zoneout: expected a number or {shape}, got {hold.shape}")
        if hold.shape == ():  # only a time axis, so that constants need no memory
            axis = 0 if time_major else batch_ndim
            shape = tuple(step_shape[axis] if n == axis else 1 for n in range(len(shape)))
        found.append(jnp.broadcast_to(hold, shape))
    return jax.tree.unflatten(structure, found)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _fraction(hold: Any, dtype: Any) -> Array:
    """Return a leaf of zoneout as an array, or raise if it is neither bool nor in [0, 1]."""
    kind = "bool or a fraction from 0 to 1"
    array = checks.require_array("zoneout", hold, (jnp.generic), kind)
    if array.dtype == jnp.bool_:
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating) and not isinstance(hold, int):
        raise TypeError(f"zoneout: expected {kind}, got dtype {array.dtype}")
    checks.require_range("zoneout", array, 1)
    return array.astype(dtype)
