"""Code that all conversions share: build a layer, read and set the parameters of each direction."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from seqjax import cells, checks, nn
from seqjax.interop import _dtypes
from seqjax.interop._requirements import directions_of, require_weights_only
from seqjax.interop._schemes import Group

__all__ = ["dumped", "filled", "new_layer", "params_of", "require_cell"]

_SIDES = ("forward", "backward")
_LAYERS: dict[type[Any], Any] = {
    cells.Elman: nn.RNN,
    cells.LSTM: nn.LSTM,
    cells.ProjectedLSTM: nn.LSTM,
    cells.GRU: nn.GRU,
    cells.ChoGRU: nn.GRU,
    cells.LRU: nn.LRU,
    cells.RGLRU: nn.RGLRU,
    cells.S5: nn.S5,
    cells.SLSTM: nn.SLSTM,
    cells.SRU: nn.SRU,
}


def new_layer(
    cell: type[Any], layers: Sequence[Sequence[Group]], options: dict[str, Any]
) -> nn.Recurrent:
    """Return a new layer for the weights of a source. Its parameters do not have values yet.

    Args:
      cell: our cell.
      layers: for each layer, a list with the arrays of each of its one or two directions.
      options: the arguments of the layer. The default of `param_dtype` is the source's dtype.

    Raises:
      ValueError: an option gives the layer parameters that the source does not have.
    """
    require_weights_only(options)
    dtype = _dtypes.widest(a for groups in layers for g in groups for a in g.arrays.values())
    if dtype is not None:  # else an error is raised when the arrays are split
        options = {"param_dtype": dtype, **options}
    build = functools.partial(
        _LAYERS[cell], num_layers=len(layers), bidirectional=len(layers[0]) == 2, **options
    )
    # Only shapes are computed, since random values would be overwritten.
    layer: nn.Recurrent = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    return layer


def filled(
    into: nn.Recurrent,
    layers: Sequence[Sequence[Group]],
    parameters: Callable[[nn.Direction, Group], dict[str, jax.Array]],
) -> nn.Recurrent:
    """Fill a layer with the weights of a source, and return the layer.

    Args:
      into: the layer.
      layers: for each layer, a list with the arrays of each of its one or two directions.
      parameters: a function that returns the parameters of a direction, given the direction and
        the arrays of the source.

    Raises:
      ValueError: two parameters of the layer are the same variable, but their arrays differ.
    """
    values = [
        (getattr(direction, key), f"layers[{index}].{side}.{key}", array)
        for index, (layer, groups) in enumerate(zip(into.layers, layers, strict=True))
        for side, direction, group in zip(_SIDES, directions_of(layer), groups, strict=False)
        for key, array in parameters(direction, group).items()
    ]
    first: dict[int, tuple[str, Any]] = {}
    for variable, name, array in values:
        other, same = first.setdefault(id(variable), (name, array))
        if same is not array and (checks.is_traced(same, array) or not np.array_equal(same, array)):
            raise ValueError(
                f"into: expected {other} and {name} to be two variables, since their arrays in "
                "source differ, got one variable for both"
            )
    # This is done last, so that an error leaves `into` unchanged. The variables stay the same
    # objects, so their types, their metadata and the ties between them remain.
    for variable, _, array in values:
        variable.set_value(array)
    return into


def require_cell(expected: type[Any], cell: Any, source: str) -> None:
    """Raise if the layer to fill has another cell than the arrays, one of which is `source`."""
    if type(cell) is not expected:
        raise ValueError(
            f"into: expected a layer of {expected.__name__}, the cell of {source}, got one of "
            f"{type(cell).__name__}"
        )


def dumped(
    layer: nn.Recurrent, arrays: Callable[[nn.Direction, str], dict[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Return the arrays of all directions in a list of layers, each a list of directions.

    Args:
      layer: our layer.
      arrays: a function that returns the arrays of a direction, given the direction and the name
        of its parameters in messages.
    """
    return [
        [
            arrays(direction, f"layers[{index}].{side}.")
            for side, direction in zip(_SIDES, directions_of(each), strict=False)
        ]
        for index, each in enumerate(layer.layers)
    ]


def params_of(direction: nn.Direction, name: str) -> tuple[Group, bool]:
    """Return the parameters of a direction, and whether they are traced.

    Args:
      direction: the direction.
      name: the name of its parameters in messages.
    """
    params = {key: a for key, a in direction.params._asdict().items() if a is not None}
    traced = checks.is_traced(params)
    return Group(params if traced else jax.tree.map(np.asarray, params), name), traced
