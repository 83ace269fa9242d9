"""Cells of Flax, NNX and Linen, as cells of this package.

The module computes the step, `carry_t, y_t = module(carry_{t-1}, x_t)`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar, overload

import flax.errors
import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import meta

from seqjax import checks
from seqjax.cells._base import Cell, cast
from seqjax.nn._program_cell import ProgramCell
from seqjax.types import Array, PRNGKey, PyTree, Shape

__all__ = ["from_linen", "from_nnx"]

C = TypeVar("C", bound=ProgramCell)


@dataclasses.dataclass(frozen=True)
class NNXCell(ProgramCell):
    """A cell that calls an NNX module. It holds the static structure of the module.

    Attributes:
      graphdef: the structure that `nnx.split` returns.
      specs: the shapes and dtypes of the parameters, in the order of `structure`.
      structure: the structure of the parameters.
      make: the function `(input_size, rngs) -> module` that was passed to `from_nnx`, or None.
    """

    graphdef: Any = dataclasses.field(kw_only=True)
    specs: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(kw_only=True)
    structure: Any = dataclasses.field(kw_only=True)
    make: Callable[..., nnx.Module] | None = dataclasses.field(kw_only=True)

    @property
    def name(self) -> str:
        return type(self._module(self.param_specs())).__name__

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Any:
        dtype = checks.require_floating_dtype("dtype", dtype)
        if self.make is None:
            raise ValueError(
                f"cell: expected a cell that can draw parameters, got that of a {self.name}; pass "
                "params= to the layer, or pass from_nnx a function (input_size, rngs) -> module"
            )
        module = self.make(self.input_size, rngs=nnx.Rngs(checks.require_key("key", key)))
        return cast(_split(module)[1], dtype)

    def param_specs(self) -> Any:
        return jax.tree.unflatten(self.structure, self.specs)

    def call(self, params: Any, carry: Any, x: Array) -> tuple[Any, Array]:
        found: tuple[Any, Array] = self._module(params)(carry, x)
        return found

    def start(self, params: Any, shape: Shape) -> Any:
        return self._module(params).initialize_carry(shape, nnx.Rngs(0))

    def _module(self, params: Any) -> Any:
        return nnx.merge(self.graphdef, params)

    def stacked_on(self, input_size: int) -> Self:
        if input_size == self.input_size:
            return self
        if self.make is None:
            raise ValueError(
                f"num_layers: expected 1 for a {self.name} that reads {self.input_size} features, "
                f"since the next layer reads {input_size}; pass from_nnx a function "
                "(input_size, rngs) -> module"
            )
        cell: Any = from_nnx(self.make, input_size, spatial_shape=self.spatial_shape)
        stacked: Self = cell
        return stacked


@dataclasses.dataclass(frozen=True)
class LinenCell(ProgramCell):
    """A cell that calls a Linen module.

    Attributes:
      module: the module, which holds no parameters.
    """

    module: Any = dataclasses.field(kw_only=True)

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Any:
        dtype = checks.require_floating_dtype("dtype", dtype)
        key = checks.require_key("key", key)
        shape = (1, *self.input_shape)
        variables = meta.unbox(self.module.init(key, self.start({}, shape), jnp.zeros(shape)))
        others = sorted(variables.keys() - {"params"})
        if others:
            raise ValueError(
                "module: expected a Linen cell whose only variables are parameters, got "
                f"{self.name} with the collections {', '.join(others)}"
            )
        return cast(variables.get("params", {}), dtype)

    def call(self, params: Any, carry: Any, x: Array) -> tuple[Any, Array]:
        try:
            found: tuple[Any, Array] = self.module.apply({"params": params}, carry, x)
        except flax.errors.InvalidRngError as error:
            raise ValueError(
                f"module: expected a cell without random numbers, got {self.name}, which draws "
                "some; use the dropout of the layer"
            ) from error
        return found

    def start(self, params: Any, shape: Shape) -> Any:
        del params
        return self.module.initialize_carry(jax.random.key(0), shape)


@overload
def from_nnx(
    module: nnx.Module, input_size: int | None = None, *, spatial_shape: Shape = ()
) -> tuple[Cell[Any, Any], PyTree]: ...
@overload
def from_nnx(
    module: Callable[..., nnx.Module], input_size: int, *, spatial_shape: Shape = ()
) -> Cell[Any, Any]: ...
def from_nnx(module: Any, input_size: int | None = None, *, spatial_shape: Shape = ()) -> Any:
    """Return a cell that calls an NNX cell, such as `nnx.LSTMCell`.

    The cell works wherever a cell of this package works: in `unroll` and in layers, with lengths,
    masks, resets, two directions, dropout between layers and zoneout. The cell has no
    `recurrent_input`, so a layer with this cell cannot have recurrent dropout. The state of the
    cell is the carry of the module. If the output of the module is not one of the arrays of the
    carry, the state is a pair with the fields `carry` and `output`.

    If you pass a function `(input_size, rngs) -> module`, the cell can draw new parameters.
    Therefore the cell can be used in stacks and in bidirectional layers. Two cells are equal only
    if they have the same function. Define the function once, and not inside of another function:
    for each new function, JAX compiles again.

    If you pass a module, the cell has the input size of this module and cannot draw new parameters.
    Pass the parameters of the module to `unroll`, or to a layer as `params=[params]`.

    If the module has a `dtype`, the module computes in this dtype. For example, `nnx.SimpleCell`
    computes in float32 unless you create it with `dtype=None`. If the module's initial carry is
    random, it is drawn once, from the key 0.

    Args:
      module: an `nnx.RNNCellBase`, all of whose variables are `nnx.Param`; or a function
        `(input_size, rngs) -> module`. The function is called with `rngs` as a keyword, so it may
        be `functools.partial(nnx.GRUCell, hidden_features=5)`.
      input_size: the number of features of an input, I. The default is the module's `in_features`.
        If `module` is a function, `input_size` is required.
      spatial_shape: the sizes of the spatial axes of an input, if the inputs of the module have
        such axes. Inputs then have the shape `[..., *spatial_shape, I]`.

    Returns:
      For a function, the cell. For a module, the pair of the cell and the parameters. The
      parameters are the arrays of `nnx.state(module)` in nested dicts. To write changed parameters
      back to the module, call `nnx.update(module, params)`.

    Raises:
      TypeError: the module is not an `nnx.RNNCellBase`, or its attributes are not hashable.
      ValueError: the module has a variable that is not an `nnx.Param`, such as an `nnx.BatchStat`
        or a random stream; a size is missing or wrong; or the output is not one array.

    Example:
      >>> from seqjax import nn, unroll
      >>> module = nnx.LSTMCell(3, 5, rngs=nnx.Rngs(0))
      >>> cell, params = from_nnx(module)
      >>> unroll(cell, params, jnp.ones([2, 7, 3]), lengths=jnp.array([7, 4])).outputs.shape
      (2, 7, 5)
      >>> layer = nn.Recurrent(cell, params=[params])
      >>> def gru(input_size, rngs):
      ...     return nnx.GRUCell(input_size, 5, rngs=rngs)
      >>> layer = nn.Recurrent(from_nnx(gru, 3), num_layers=2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones([2, 7, 3])).outputs.shape
      (2, 7, 5)
    """
    if isinstance(module, nnx.Module):
        _require_kind(module, nnx.RNNCellBase, "nnx.LSTMCell(3, 5, rngs=rngs)")
        own = getattr(module, "in_features", None)
        if input_size is None and own is None:
            raise ValueError(
                f"input_size: expected the number of features that {type(module).__name__} reads, "
                "since it has no in_features, got None"
            )
        if None not in (own, input_size) and own != input_size:
            raise ValueError(f"input_size: expected the module's {own}, got {input_size}")
        size = checks.require_integer("input_size", own if input_size is None else input_size)
        return _of_nnx(module, size, spatial_shape), _split(module)[1]
    if not callable(module):
        raise TypeError(
            "module: expected an NNX cell or a function (input_size, rngs) -> module, got "
            f"{checks.brief(module)}"
        )
    size = checks.require_integer("input_size", input_size)
    return _of_nnx(_made(module, size), size, spatial_shape, module)


def from_linen(
    module: linen.Module, input_size: int, *, spatial_shape: Shape = ()
) -> Cell[Any, Any]:
    """Return a cell that calls a Linen cell, such as `linen.LSTMCell`.

    The cell works wherever a cell of this package works; see `from_nnx`. The parameters of the cell
    are `variables["params"]`, where `variables` is the result of `module.init`.

    Args:
      module: a `linen.RNNCellBase`, all of whose variables are parameters.
      input_size: the number of features of an input, I.
      spatial_shape: the sizes of the spatial axes of an input, which `ConvLSTMCell` needs. Inputs
        then have the shape `[..., *spatial_shape, I]`.

    Returns:
      The cell.

    Raises:
      TypeError: the module is not a `linen.RNNCellBase`, or its attributes are not hashable.
      ValueError: the module has a collection other than "params", or needs random numbers; a size
        is wrong; or the output is not one array.

    Example:
      >>> from seqjax import unroll
      >>> module, xs = linen.MGUCell(5), jnp.ones([2, 7, 3])
      >>> carry = module.initialize_carry(jax.random.key(0), (2, 3))
      >>> variables = module.init(jax.random.key(0), carry, xs[:, 0])
      >>> cell = from_linen(module, 3)
      >>> unroll(cell, variables["params"], xs, lengths=jnp.array([7, 4])).outputs.shape
      (2, 7, 5)
    """
    _require_kind(module, linen.RNNCellBase, "linen.LSTMCell(5)")
    spatial_shape = _checked_spatial_shape(module, spatial_shape)
    cell = LinenCell(input_size, 1, spatial_shape=spatial_shape, module=module.clone(parent=None))
    return _sized(cell)


def _of_nnx(
    module: Any,
    input_size: int,
    spatial_shape: Shape,
    make: Callable[..., nnx.Module] | None = None,
) -> Any:
    """Return a cell that calls a module. The parameters of the module may be shapes and dtypes."""
    _require_kind(module, nnx.RNNCellBase, "nnx.LSTMCell(3, 5, rngs=rngs)")
    graphdef, params = _split(module)
    leaves, structure = jax.tree.flatten(params)
    specs = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    spatial_shape = _checked_spatial_shape(module, spatial_shape)
    return _sized(
        NNXCell(input_size, 1, spatial_shape=spatial_shape, graphdef=graphdef, specs=specs,
                structure=structure, make=make)
    )  # fmt: skip


def _made(make: Callable[..., nnx.Module], input_size: int) -> nnx.Module:
    """Return the module that `make` creates, with shapes and dtypes in place of the parameters."""
    module: nnx.Module = nnx.eval_shape(lambda: make(input_size, rngs=nnx.Rngs(0)))
    return module


def _split(module: nnx.Module) -> tuple[Any, Any]:
    """Return a module's structure, and its parameters in nested dicts."""
    parts: Any = nnx.split(module, nnx.Param, ...)
    graphdef, params, others = parts
    for path, variable in nnx.to_flat_state(others):
        hint = "; use the dropout of the layer" if isinstance(variable, nnx.RngState) else ""
        raise ValueError(
            "module: expected an NNX cell whose only variables are nnx.Param, got a "
            f"{type(variable).__name__} at {'.'.join(map(str, path))} of a "
            f"{type(module).__name__}{hint}"
        )
    return graphdef, nnx.to_pure_dict(params)


def _require_kind(module: Any, kind: type[Any], example: str) -> None:
    """Raise if a module is not a cell of Flax."""
    if not isinstance(module, kind):
        hint = "; pass its cell" if isinstance(getattr(module, "cell", None), kind) else ""
        raise TypeError(
            f"module: expected a cell such as {example}, got {type(module).__name__}{hint}"
        )


def _checked_spatial_shape(module: Any, spatial_shape: Shape) -> Shape:
    """Return the sizes of the spatial axes, or raise if the module needs another number of axes."""
    spatial_shape = checks.require_shape("spatial_shape", spatial_shape, least=1)
    expected = module.num_feature_axes - 1
    if len(spatial_shape) != expected:
        raise ValueError(
            f"spatial_shape: expected {expected} sizes for {type(module).__name__}, got "
            f"{spatial_shape}"
        )
    return spatial_shape


def _sized(cell: C) -> C:
    """Return a copy of the cell with the hidden size that tracing the module gives."""
    try:
        hash(cell)
    except TypeError:
        raise TypeError(
            f"module: expected attributes that are hashable, such as tuples instead of lists, got "
            f"{cell.name} with others"
        ) from None
    return dataclasses.replace(cell, hidden_size=cell.output_shape[-1])
