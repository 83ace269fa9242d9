"""Conversion between the weights of our layers and the weights of any other library's layers."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import cells, nn
from seqjax.interop import _dtypes
from seqjax.interop._directions import dumped, filled, new_layer, params_of, require_cell
from seqjax.interop._requirements import (
    require_layer,
    require_matching_counts,
    require_open,
    require_plain,
    require_same,
)
from seqjax.interop._schemes import OURS, Group, Scheme, Sizes, pack, select, unpack

__all__ = ["agreed", "dump_layers", "load_layers"]


def load_layers(
    schemes: Sequence[Scheme],
    layers: Sequence[Sequence[Group]],
    into: nn.Recurrent | None,
    options: Mapping[str, Any],
    found: Mapping[str, Any] | None = None,
) -> nn.Recurrent:
    """Return a layer with the weights of another library's layers.

    Args:
      schemes: the `Scheme` (layout of weights) of each cell of the library.
      layers: for each layer, a list with the arrays of each of its one or two directions. The
        forward direction comes first.
      into: the layer to fill. By default, a new layer is created.
      options: the options that the user passes for a new layer.
      found: the options that the source specifies, such as its activation. If `options` or `into`
        contradicts the options in `found`, an error is raised.

    Raises:
      ValueError: an array is missing, unknown or of a wrong shape; `into` has another cell; the
        user passes an option that the source determines; or an option contradicts the source.
    """
    found = dict(found or {})
    require_open(options, found)
    require_matching_counts(layers)
    _require_all_biases(schemes, layers)
    asked = "activation" if into is None else "into"
    if into is None:
        into = _built(schemes, layers, {**found, **options})
    else:
        require_same(into, layers, options, found)
        # If only the source has biases, they must be zeros. `pack` checks this.
        if getattr(into.cell, "use_bias", False) and not _has_bias(schemes, layers):
            raise ValueError(
                "into: expected use_bias=False as in source, which has no biases, got True"
            )
    return filled(into, layers, functools.partial(_parameters, schemes, asked))


def dump_layers(
    library: str, schemes: Sequence[Scheme], layer: nn.Recurrent, *, concat: bool = False
) -> list[list[dict[str, Any]]]:
    """Return the weights of our layer in the layout of another library.

    The result is a list of layers. Each layer is a list of the arrays of its directions.

    Args:
      library: the name of the library, for messages.
      schemes: the `Scheme` (layout of weights) of each cell of the library. The first scheme whose
        cell is the layer's cell is used.
      layer: our layer.
      concat: whether the library can only concatenate the outputs of two directions.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: `layer` has a cell, an option or a bias that the library does not have.
    """
    cell: Any = require_layer("layer", layer).cell
    kind = type(cell)
    scheme = next((scheme for scheme in schemes if scheme.cell is kind), None)
    if scheme is None:
        known = dict.fromkeys(scheme.cell.__name__ for scheme in schemes)
        raise ValueError(
            f"layer: expected a cell that {library} has ({', '.join(known)}), got {kind.__name__}"
        )
    _require_activation("layer", scheme, cell)
    require_plain(library, layer, concat)
    return dumped(layer, functools.partial(_arrays, scheme))


def agreed(told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the options that the parts of a source specify, for `found` of `load_layers`.

    Args:
      told: the options that each part of the source specifies.

    Raises:
      ValueError: two parts specify different values of an option.
    """
    found: dict[str, Any] = {}
    for part in told:
        for name, value in part.items():
            if found.setdefault(name, value) != value:
                raise ValueError(
                    f"source: expected {name}={found[name]!r} in all layers and directions, "
                    f"got {value!r}"
                )
    return found


def _built(
    schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]], options: dict[str, Any]
) -> nn.Recurrent:
    """Return a new layer with the sizes of the source. Its parameters do not have values yet."""
    scheme = select(schemes, layers[0][0])
    sizes = scheme.require_sizes(layers[0][0])
    _require_one_kind(schemes, layers)
    _require_one_size(schemes, layers)
    if len(scheme.activations) == 1:
        options.setdefault("activation", scheme.activations[0])
    if scheme.cell is cells.Elman and "activation" not in options:
        raise ValueError(
            "activation: expected the activation of the simple recurrent layer, which its weights "
            "do not contain, got none; pass activation='tanh' or another, as in the source"
        )
    if scheme.cell is cells.ProjectedLSTM:
        options["proj_size"] = sizes.recurrent
    if scheme.cell is cells.ChoGRU:
        options["reset_after"] = False
    options |= {
        "input_size": sizes.input,
        "hidden_size": sizes.hidden,
        "use_bias": _has_bias(schemes, layers),
    }
    return new_layer(scheme.cell, layers, options)


def _parameters(
    schemes: Sequence[Scheme], asked: str, direction: nn.Direction, group: Group
) -> dict[str, jax.Array]:
    """Return the parameters of one of our directions, computed from a library's arrays.

    Args:
      schemes: the schemes of the library.
      asked: the argument that a wrong activation belongs to, for messages.
      direction: our direction.
      group: the arrays of the library.
    """
    cell: Any = direction.cell
    sizes = _sizes(cell)
    scheme = select(schemes, group, prefer=type(cell))
    require_cell(scheme.cell, cell, group.name(scheme.keys()[0]))
    _require_activation(asked, scheme, cell)
    blocks = unpack(scheme, group._replace(arrays=_dtypes.widened(group.arrays)), sizes)
    names = [group.name(field.key) for field in scheme.fields if field.is_bias]
    arrays: dict[str, Any] = pack(
        OURS[type(cell)], blocks, sizes, ", ".join(names), bias=cell.use_bias
    )
    for name, array in arrays.items():
        dtype = getattr(direction, name).dtype
        _dtypes.require_fitting(_sources(scheme, group, name, dtype), array, dtype)
        arrays[name] = jnp.asarray(array, dtype)
    return arrays


def _arrays(scheme: Scheme, direction: nn.Direction, name: str) -> dict[str, Any]:
    """Return the arrays of a library, computed from the parameters of one of our directions."""
    cell: Any = direction.cell
    sizes = _sizes(cell)
    group, traced = params_of(direction, name)
    blocks = unpack(OURS[type(cell)], group, sizes)
    bias = cell.use_bias or not scheme.optional_bias
    # Every library has a bias like our b, but some have none like b_hn.
    arrays: dict[str, Any] = pack(scheme, blocks, sizes, group.name("b_hn"), bias=bias)
    if not traced:  # copy the arrays, because some views are read-only or cannot be saved
        arrays = {key: np.array(array, order="C") for key, array in arrays.items()}
    return arrays


def _has_bias(schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]]) -> bool:
    """Return whether a source has biases. Either all directions have biases or none of them has."""
    groups = [group for directions in layers for group in directions]
    return any(scheme.has_bias(group) for scheme in schemes for group in groups)


def _sources(scheme: Scheme, group: Group, name: str, dtype: Any) -> str:
    """Return the names of the source's arrays that form our array `name`, for messages.

    If some of the arrays contain numbers that do not fit into `dtype`, only the names of those
    arrays are returned.
    """
    ours = next(field for field in OURS[scheme.cell].fields if field.key == name)
    parts = {*ours.parts.split()}
    fields = [
        field
        for field in scheme.fields
        if field.key in group.arrays
        and (ours.is_bias if field.is_bias else parts & {*field.parts.split()})
    ]
    wrong = [f for f in fields if _dtypes.overflowing(group.arrays[f.key], dtype) is not None]
    return ", ".join(group.name(field.key) for field in wrong or fields)


def _sizes(cell: Any) -> Sizes:
    return Sizes(cell.input_size, cell.hidden_size, cell.output_shape[-1])


def _require_all_biases(schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]]) -> None:
    """Raise if some directions have biases and others have none."""
    known = {field.key for scheme in schemes for field in scheme.fields if field.is_bias}
    groups = [group for directions in layers for group in directions if group.arrays]
    biases = [[key for key in group.arrays if key in known] for group in groups]
    biased = next((i for i, keys in enumerate(biases) if keys), None)
    for group, keys in zip(groups, biases, strict=True):
        if biased is not None and not keys:
            key = biases[biased][0]
            raise ValueError(
                f"{group.name(key)}: expected a bias, since there is {groups[biased].name(key)}, "
                "got none"
            )


def _require_one_kind(schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]]) -> None:
    """Raise if the layers and directions have different kinds of cells."""
    first, *others = [group for directions in layers for group in directions]
    scheme = select(schemes, first)
    for group in others:
        other = select(schemes, group, prefer=scheme.cell)
        if other.cell is not scheme.cell:
            raise ValueError(
                "source: expected one kind of cell in all layers and directions, got "
                f"{scheme.cell.__name__} with {first.name(scheme.keys()[0])} and "
                f"{other.cell.__name__} with {group.name(other.keys()[0])}; load each layer on its "
                "own"
            )


def _require_one_size(schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]]) -> None:
    """Raise if directions have different hidden sizes, although the arrays of each are valid."""
    groups = [group for directions in layers for group in directions]
    chosen = [select(schemes, group) for group in groups]
    pairs = list(zip(chosen, groups, strict=True))
    sizes = [scheme.sizes(group).hidden for scheme, group in pairs]
    if len({*sizes}) > 1 and all(scheme.fits(group, scheme.fields) for scheme, group in pairs):
        raise ValueError(
            "source: expected one hidden size in all layers and directions, got "
            f"{', '.join(map(str, sizes))}; load each layer on its own"
        )


def _require_activation(name: str, scheme: Scheme, cell: Any) -> None:
    """Raise if the library does not have the activation of a cell."""
    if scheme.activations and cell.activation not in scheme.activations:
        raise ValueError(
            f"{name}: expected the activation {' or '.join(scheme.activations)}, "
            f"got {cell.activation!r}"
        )
