"""Conversion between the weights of a stack of layers and our layers, for all libraries."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import cells, checks, nn
from seqjax.interop import _dtypes
from seqjax.interop._schemes import OURS, Group, Scheme, Sizes, pack, select, unpack

__all__ = ["agreed", "dump_layers", "load_layers"]

# Options that follow from names, shapes or arguments of `load`.
_FOLLOWING = (
    *("input_size", "hidden_size", "proj_size", "num_layers"),
    *("bidirectional", "use_bias", "reset_after"),
)
_LAYERS: dict[type[Any], Any] = {
    cells.Elman: nn.RNN,
    cells.LSTM: nn.LSTM,
    cells.ProjectedLSTM: nn.LSTM,
    cells.GRU: nn.GRU,
    cells.ChoGRU: nn.GRU,
}


def load_layers(
    schemes: Sequence[Scheme],
    layers: Sequence[Sequence[Group]],
    into: nn.Recurrent | None,
    options: Mapping[str, Any],
    found: Mapping[str, Any] | None = None,
) -> nn.Recurrent:
    """Return a layer with the weights of other libraries' layers.

    Args:
      schemes: the library's.
      layers: for each layer its directions, one or two, the forward one first.
      into: the layer to fill; a new one if None.
      options: what the user asks of a new layer.
      found: options that the source tells, which neither `options` nor `into` may contradict.

    Raises:
      ValueError: an array is missing, unknown or of a wrong shape; `into` is another kind of layer;
        an option that follows from the source, or contradicts it.
    """
    found = dict(found or {})
    _require_open(options, found)
    counts = {len(directions) for directions in layers}
    if counts not in ({1}, {2}):
        raise ValueError(
            "source: expected all layers with one direction or all with two, got "
            f"{', '.join(str(len(directions)) for directions in layers)}"
        )
    _require_all_biases(schemes, layers)
    asked = "activation" if into is None else "into"
    if into is None:
        into = _built(schemes, layers, {**found, **options})
    elif options:
        raise ValueError(f"into: expected no options of a new layer, got {', '.join(options)}")
    else:
        _require_same(into, schemes, layers, found)
    values = []
    for layer, groups in zip(into.layers, layers, strict=True):
        for direction, group in zip(_directions(layer), groups, strict=True):
            cell: Any = direction.cell
            sizes = _sizes(cell)
            scheme = select(schemes, group, prefer=type(cell))
            if scheme.cell is not type(cell):
                raise ValueError(
                    f"into: expected a layer of {scheme.cell.__name__}, which "
                    f"{group.name(scheme.keys()[0])} belongs to, got one of {type(cell).__name__}"
                )
            _require_activation(asked, scheme, cell)
            wide = group._replace(arrays=_dtypes.widened(group.arrays))
            blocks = unpack(scheme, wide, sizes)
            names = [group.name(field.key) for field in scheme.fields if field.is_bias]
            arrays = pack(OURS[type(cell)], blocks, sizes, ", ".join(names), bias=cell.use_bias)
            for name, array in arrays.items():
                dtype = getattr(direction, name).dtype
                _dtypes.require_fitting(_sources(scheme, group, name, dtype), array, dtype)
                values.append((direction, name, jnp.asarray(array, dtype)))
    for direction, name, array in values:  # only now, so that an error leaves `into` as it was
        setattr(direction, name, nnx.Param(array))
    return into


def dump_layers(
    library: str, schemes: Sequence[Scheme], layer: nn.Recurrent, *, concat: bool = False
) -> list[list[dict[str, Any]]]:
    """Return the weights of a layer as a library arranges them: for each layer its directions.

    Args:
      library: its name, for messages.
      schemes: the library's; the first one of a kind of cell is taken.
      layer: ours.
      concat: whether the library knows no other way to join directions.

    Raises:
      TypeError: not a `seqjax.nn.Recurrent`.
      ValueError: a cell, an option or a bias that the library does not have.
    """
    if not isinstance(layer, nn.Recurrent):
        raise TypeError(f"layer: expected a seqjax.nn.Recurrent, got {checks.brief(layer)}")
    cell: Any = layer.cell
    kind = type(cell)
    scheme = next((scheme for scheme in schemes if scheme.cell is kind), None)
    if scheme is None:
        known = dict.fromkeys(scheme.cell.__name__ for scheme in schemes)
        raise ValueError(
            f"layer: expected a cell that {library} has, {', '.join(known)}; got {kind.__name__}"
        )
    _require_activation("layer", scheme, cell)
    _require_plain(library, layer, concat)
    bias = cell.use_bias or not scheme.optional_bias
    dumped: list[list[dict[str, Any]]] = []
    for index, each in enumerate(layer.layers):
        dumped.append([])
        for side, direction in zip(("forward", "backward"), _directions(each), strict=False):
            sizes, group = _sizes(direction.cell), Group({}, f"layers[{index}].{side}.")
            params = {name: a for name, a in direction.params._asdict().items() if a is not None}
            traced = checks.is_traced(params)
            params = params if traced else jax.tree.map(np.asarray, params)
            blocks = unpack(OURS[kind], group._replace(arrays=params), sizes)
            # Every library has a place for b.
            arrays = pack(scheme, blocks, sizes, group.name("b_hn"), bias=bias)
            if not traced:  # copies, since a view could be neither written to nor saved
                arrays = {key: np.array(array, order="C") for key, array in arrays.items()}
            dumped[-1].append(arrays)
    return dumped


def agreed(told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options that all parts of a source agree on, for `found` of `load_layers`.

    Raises:
      ValueError: they do not tell the same.
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
    """Return a new layer of the sizes that the first direction has, with no values yet."""
    for name in ("norm", "learned_initial_state"):
        if options.get(name):
            raise ValueError(
                f"{name}: expected a layer with it as into, since it has parameters of its own"
            )
    scheme = select(schemes, layers[0][0])
    sizes = scheme.require_sizes(layers[0][0])
    _require_one_kind(schemes, layers)
    _require_one_size(schemes, layers)
    dtype = _dtypes.widest(a for groups in layers for g in groups for a in g.arrays.values())
    if len(scheme.activations) == 1:
        options.setdefault("activation", scheme.activations[0])
    if scheme.cell is cells.Elman and "activation" not in options:
        raise ValueError(
            "activation: expected the activation of the simple recurrent layer, which its weights "
            "do not tell, got none; pass activation='tanh', or what the layer was made with"
        )
    if scheme.cell is cells.ProjectedLSTM:
        options["proj_size"] = sizes.recurrent
    if scheme.cell is cells.ChoGRU:
        options["reset_after"] = False
    if dtype is not None:  # else unpacking says what is wrong
        options.setdefault("param_dtype", dtype)
    build = functools.partial(
        _LAYERS[scheme.cell],
        sizes.input,
        sizes.hidden,
        num_layers=len(layers),
        bidirectional=len(layers[0]) == 2,
        use_bias=_has_bias(schemes, layers),
        **options,
    )
    # Random values would be overwritten.
    layer: nn.Recurrent = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    return layer


def _has_bias(schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]]) -> bool:
    """Return whether a source has biases; all directions have them, or none has."""
    groups = [group for directions in layers for group in directions]
    return any(scheme.has_bias(group) for scheme in schemes for group in groups)


def _sources(scheme: Scheme, group: Group, name: str, dtype: Any) -> str:
    """Return the names of the arrays that make one of ours; only those too large, if any are."""
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


def _directions(layer: nn.Layer) -> list[nn.Direction]:
    return [layer.forward] if layer.backward is None else [layer.forward, layer.backward]


def _sizes(cell: Any) -> Sizes:
    return Sizes(cell.input_size, cell.hidden_size, cell.output_shape[-1])


def _require_open(options: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises on options that the user must not pass."""
    for name, value in options.items():
        if name in _FOLLOWING:
            raise ValueError(f"{name}: follows from source; expected no such option, got {value!r}")
        if name in found and found[name] != value:
            raise ValueError(f"{name}: expected {found[name]!r} as in source, got {value!r}")


def _require_all_biases(schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]]) -> None:
    """Raises if some directions have biases and others have none."""
    known = {field.key for scheme in schemes for field in scheme.fields if field.is_bias}
    groups = [group for directions in layers for group in directions if group.arrays]
    biases = [[key for key in group.arrays if key in known] for group in groups]
    biased = next((i for i, keys in enumerate(biases) if keys), None)
    for group, keys in zip(groups, biases, strict=True):
        if biased is not None and not keys:
            key = biases[biased][0]
            raise ValueError(
                f"{group.name(key)}: expected a bias, as there is {groups[biased].name(key)}; "
                "it is missing"
            )


def _require_one_kind(schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]]) -> None:
    """Raises if the layers are of different cells."""
    first, *others = [group for directions in layers for group in directions]
    scheme = select(schemes, first)
    for group in others:
        other = select(schemes, group, prefer=scheme.cell)
        if other.cell is not scheme.cell:
            raise ValueError(
                "source: expected one kind of cell in all layers and directions, got "
                f"{scheme.cell.__name__} with {first.name(scheme.keys()[0])} and "
                f"{other.cell.__name__} with {group.name(other.keys()[0])}; load each on its own"
            )


def _require_one_size(schemes: Sequence[Scheme], layers: Sequence[Sequence[Group]]) -> None:
    """Raises if the layers are whole, but of different hidden sizes."""
    groups = [group for directions in layers for group in directions]
    chosen = [select(schemes, group) for group in groups]
    pairs = list(zip(chosen, groups, strict=True))
    sizes = [scheme.sizes(group).hidden for scheme, group in pairs]
    if len({*sizes}) > 1 and all(scheme.fits(group, scheme.fields) for scheme, group in pairs):
        raise ValueError(
            "source: expected one hidden size in all layers and directions, got "
            f"{', '.join(map(str, sizes))}; load each layer on its own"
        )


def _require_same(
    into: nn.Recurrent,
    schemes: Sequence[Scheme],
    layers: Sequence[Sequence[Group]],
    found: Mapping[str, Any],
) -> None:
    """Raises unless `into` is built like the source."""
    if not isinstance(into, nn.Recurrent):
        raise TypeError(f"into: expected a seqjax.nn.Recurrent, got {checks.brief(into)}")
    ours = {name: getattr(into.cell, name, getattr(into, name, None)) for name in found}
    ours |= {"num_layers": into.num_layers, "bidirectional": into.bidirectional}
    theirs = {**found, "num_layers": len(layers), "bidirectional": len(layers[0]) == 2}
    for name, value in theirs.items():
        if ours[name] != value:
            raise ValueError(f"into: expected {name}={value!r} as in source, got {ours[name]!r}")
    # The other way round, biases of zeros fit into a layer without: `pack` looks at the numbers.
    if getattr(into.cell, "use_bias", False) and not _has_bias(schemes, layers):
        raise ValueError(
            "into: expected use_bias=False as in source, which has no biases; got True"
        )


def _require_activation(name: str, scheme: Scheme, cell: Any) -> None:
    """Raises if the library has no such activation."""
    if scheme.activations and cell.activation not in scheme.activations:
        raise ValueError(
            f"{name}: expected the activation {' or '.join(scheme.activations)}, "
            f"got {cell.activation!r}"
        )


def _require_plain(library: str, layer: nn.Recurrent, concat: bool) -> None:
    """Raises if the layer does more than a library's layer with the same weights."""
    wrong = {
        "norm": layer.norm is not None,
        "zoneout": any(each.options.zoneout for each in layer.layers),  # in evaluation too
        "residual": any(each.options.residual for each in layer.layers),
        "learned_initial_state": any(d._state_names for l in layer.layers for d in _directions(l)),
        f"merge_mode={layer.merge_mode!r}": concat
        and layer.bidirectional
        and layer.merge_mode != "concat",
    }
    for option, is_set in wrong.items():
        if is_set:
            raise ValueError(f"layer: expected what {library} has too, got a layer with {option}")
