"""Conversion between our layers and the weights that a `Layout` describes."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import cells, checks, nn
from seqjax.interop import _dtypes
from seqjax.interop._layouts import Layout, Named, form, layout_of, sizes_of, split
from seqjax.interop._requirements import (
    directions_of,
    require_layer,
    require_matching_counts,
    require_open,
    require_plain,
    require_same,
    require_weights_only,
)
from seqjax.interop._schemes import Group

__all__ = ["dump_described", "load_described", "require_single"]

_LAYERS: dict[type[Any], Any] = {
    cells.LRU: nn.LRU,
    cells.RGLRU: nn.RGLRU,
    cells.S5: nn.S5,
    cells.SLSTM: nn.SLSTM,
    cells.SRU: nn.SRU,
}


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
        into = _built(layout, layers, {**layout.options, **found, **options})
    else:
        require_same(into, layers, options, found)
    values = []
    for layer, groups in zip(into.layers, layers, strict=True):
        for direction, group in zip(directions_of(layer), groups, strict=True):
            layout = layout_of(layouts, group, direction.cell)
            arrays = _parameters(layout, direction, group)
            values += [(direction, name, array) for name, array in arrays.items()]
    for direction, name, array in values:  # done last, so that an error leaves `into` unchanged
        setattr(direction, name, nnx.Param(array))
    return into


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
    return [
        [
            _arrays(layouts, direction, f"layers[{index}].{side}.")
            for side, direction in zip(("forward", "backward"), directions_of(each), strict=False)
        ]
        for index, each in enumerate(layer.layers)
    ]


def require_single(layer: Any, layout: Layout) -> Any:
    """Return our layer, or raise unless it has one layer and one direction."""
    layer = require_layer("layer", layer)
    if layer.num_layers > 1 or layer.bidirectional:
        raise ValueError(
            f"layer: expected one layer of one direction, as {layout.library} has, got "
            f"num_layers={layer.num_layers}, bidirectional={layer.bidirectional}"
        )
    return layer


def _built(
    layout: Layout, layers: Sequence[Sequence[Group]], options: dict[str, Any]
) -> nn.Recurrent:
    """Return a new layer with the sizes of the source. Its parameters do not have values yet."""
    require_weights_only(options)
    dtype = _dtypes.widest(a for groups in layers for g in groups for a in g.arrays.values())
    if dtype is not None:  # else `split` raises
        options.setdefault("param_dtype", dtype)
    build = functools.partial(
        _LAYERS[layout.cell],
        num_layers=len(layers),
        bidirectional=len(layers[0]) == 2,
        **options,
    )
    # Only shapes are computed, since random values would be overwritten.
    layer: nn.Recurrent = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    return layer


def _parameters(layout: Layout, direction: nn.Direction, group: Group) -> dict[str, Any]:
    """Return the parameters of one of our directions, computed from a library's arrays."""
    cell: Any = direction.cell
    if type(cell) is not layout.cell:
        raise ValueError(
            f"into: expected a layer of {layout.cell.__name__}, the cell of "
            f"{group.name(layout.keys()[0])}, got one of {type(cell).__name__}"
        )
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
    params = {key: a for key, a in direction.params._asdict().items() if a is not None}
    traced = checks.is_traced(params)
    group = Group(params if traced else jax.tree.map(np.asarray, params), name)
    blocks = layout.dump(split(layout.ours, group, sizes), sizes, name)
    keys = [each.key for each in layout.theirs]
    arrays = form(layout.theirs, blocks, sizes, keys, lambda each: name + each.key)
    xp: Any = jnp if traced else np  # NumPy arrays are copied, because some views are read-only
    dtype = _dtypes.widest(params.values())
    return {key: xp.array(array, dtype, order="C") for key, array in arrays.items()}
