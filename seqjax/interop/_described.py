"""Conversion between our layers and the weights that a `Layout` describes."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import nn
from seqjax.interop import _dtypes
from seqjax.interop._directions import dumped, filled, new_layer, params_of, require_cell
from seqjax.interop._layouts import Layout, Named, form, layout_of, sizes_of, split
from seqjax.interop._requirements import (
    require_layer,
    require_matching_counts,
    require_open,
    require_plain,
    require_same,
)
from seqjax.interop._schemes import Group

__all__ = ["dump_described", "load_described", "require_single"]


def load_described(
    layouts: Sequence[Layout],
    layers: Sequence[Sequence[Group]],
    into: nn.Recurrent | None,
    options: Mapping[str, Any],
    found: Mapping[str, Any] | None = None,
) -> Any:
    """Return a layer with the weights of another library's layers.

    Args:
      layouts: the layouts of the library. The names of the arrays decide which one is used.
      layers: for each layer, a list with the arrays of each of its one or two directions. The
        forward direction comes first.
      into: the layer to fill. By default, a new layer is created.
      options: the options that the user passes for a new layer.
      found: the options that the source specifies. If `options` or `into` contradicts them, an
        error is raised.

    Raises:
      TypeError: `into` is not a `seqjax.nn.Recurrent`.
      ValueError: an array is missing, unknown or of a wrong shape; `into` has another cell; or an
        option contradicts the source.
    """
    found = dict(found or {})
    require_matching_counts(layers)
    if into is None:
        layout = layout_of(layouts, layers[0][0])
        found |= layout.measured(layers[0][0])
        require_open(options, found)
        into = new_layer(layout.cell, layers, {**layout.options, **found, **options})
    else:
        require_same(into, layers, options, found)

    def parameters(direction: nn.Direction, group: Group) -> dict[str, jax.Array]:
        layout = layout_of(layouts, group, direction.cell)
        return _parameters(layout, direction, group)

    return filled(into, layers, parameters)


def dump_described(
    layouts: Sequence[Layout], layer: nn.Recurrent, *, concat: bool = False
) -> list[list[dict[str, Any]]]:
    """Return the weights of our layer in the layout of another library.

    The result is a list of layers. Each layer is a list of the arrays of its directions.

    Args:
      layouts: the layouts of the library, all for the same kind of cell.
      layer: our layer.
      concat: whether the library can only concatenate the outputs of two directions.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: `layer` has a cell, an option or a weight that the library does not have.
    """
    layout, cell = layouts[0], require_layer("layer", layer).cell
    if type(cell) is not layout.cell:
        raise ValueError(
            f"layer: expected a cell that {layout.library} has ({layout.cell.__name__}), got "
            f"{type(cell).__name__}"
        )
    require_plain(layout.library, layer, concat)
    return dumped(layer, functools.partial(_arrays, layouts))


def require_single(layer: Any, layout: Layout) -> Any:
    """Return our layer, or raise unless it has one layer and one direction."""
    layer = require_layer("layer", layer)
    if layer.num_layers > 1 or layer.bidirectional:
        raise ValueError(
            f"layer: expected one layer of one direction, as {layout.library} has, got "
            f"num_layers={layer.num_layers}, bidirectional={layer.bidirectional}"
        )
    return layer


def _parameters(layout: Layout, direction: nn.Direction, group: Group) -> dict[str, jax.Array]:
    """Return the parameters of one of our directions, computed from a library's arrays."""
    cell: Any = direction.cell
    require_cell(layout.cell, cell, group.name(layout.keys()[0]))
    layout.require("into", cell)
    sizes = sizes_of(cell)
    present = [ours.key for ours in layout.ours if hasattr(direction, ours.key)]
    wide = group._replace(arrays=_dtypes.widened(group.arrays))

    def sources(ours: Named) -> str:
        parts = [
            a.key for a in layout.theirs if {*a.names} & {*ours.names} and a.key in wide.arrays
        ]
        return ", ".join(map(group.name, parts)) or group.name(ours.key)

    blocks = layout.load(split(layout.theirs, wide, sizes), sizes, group.before)
    arrays = form(layout.ours, blocks, sizes, present, sources)
    for ours in layout.ours:
        if ours.key in arrays:
            dtype = getattr(direction, ours.key).dtype
            _dtypes.require_fitting(sources(ours), arrays[ours.key], dtype)
            arrays[ours.key] = jnp.asarray(arrays[ours.key], dtype)
    return arrays


def _arrays(layouts: Sequence[Layout], direction: nn.Direction, name: str) -> dict[str, Any]:
    """Return the arrays of a library, computed from the parameters of one of our directions."""
    cell: Any = direction.cell
    layout = next(each for each in layouts if each.suits(cell))
    layout.require("layer", cell)
    sizes = sizes_of(cell)
    group, traced = params_of(direction, name)
    blocks = layout.dump(split(layout.ours, group, sizes), sizes, name)
    keys = [each.key for each in layout.theirs]
    arrays = form(layout.theirs, blocks, sizes, keys, lambda each: name + each.key)
    xp: Any = jnp if traced else np  # NumPy arrays are copied, because some views are read-only
    dtype = _dtypes.widest(group.arrays.values())
    return {key: xp.array(array, dtype, order="C") for key, array in arrays.items()}
