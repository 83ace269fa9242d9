"""Checks of layers and options that all loaders and dumpers share."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqjax import checks, nn

__all__ = [
    "directions_of",
    "require_layer",
    "require_matching_counts",
    "require_open",
    "require_plain",
    "require_same",
    "require_weights_only",
]

# The user must not pass these options, since the source or other arguments determine them.
_FOLLOWING = (
    *("input_size", "hidden_size", "output_size", "proj_size", "num_layers", "num_heads"),
    *("bidirectional", "use_bias", "reset_after", "head_norm"),
)


def directions_of(layer: nn.Layer) -> list[nn.Direction]:
    """Return a list of the one or two directions of a layer."""
    return [layer.forward] if layer.backward is None else [layer.forward, layer.backward]


def require_layer(name: str, layer: Any) -> nn.Recurrent:
    """Return the layer, or raise if it is not a `seqjax.nn.Recurrent`."""
    if not isinstance(layer, nn.Recurrent):
        raise TypeError(f"{name}: expected a seqjax.nn.Recurrent, got {checks.brief(layer)}")
    return layer


def require_open(options: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise if the user passes an option that the source determines or contradicts."""
    for name, value in options.items():
        if name in _FOLLOWING:
            raise ValueError(
                f"{name}: expected no such option, since the source determines it, got {value!r}"
            )
        if name in found and found[name] != value:
            raise ValueError(f"{name}: expected {found[name]!r} as in source, got {value!r}")


def require_weights_only(options: Mapping[str, Any]) -> None:
    """Raise if an option sets or adds parameters that are not those of the source."""
    for name in ("norm", "learned_initial_state"):
        if options.get(name):
            raise ValueError(
                f"{name}: expected no such option of a new layer, got {options[name]!r}, which has "
                "parameters of its own; create the layer and pass it as into"
            )
    for name in ("forget_bias", "chrono"):
        if options.get(name):
            raise ValueError(
                f"{name}: expected no such option, since it only sets initial biases, which the "
                f"source replaces, got {options[name]!r}"
            )


def require_matching_counts(layers: Sequence[Sequence[Any]]) -> None:
    """Raise unless all layers have one direction or all have two."""
    if {len(each) for each in layers} not in ({1}, {2}):
        raise ValueError(
            "source: expected all layers with one direction or all with two, got "
            f"{', '.join(str(len(each)) for each in layers)}"
        )


def require_same(
    into: Any,
    layers: Sequence[Sequence[Any]],
    options: Mapping[str, Any],
    found: Mapping[str, Any],
) -> None:
    """Raise if `into` differs from the source, or if there are options of a new layer, too."""
    if options:
        raise ValueError(
            f"into: expected no options of a new layer, got {', '.join(options)}; the options of "
            "`into` are used"
        )
    into = require_layer("into", into)
    ours = {name: getattr(into.cell, name, getattr(into, name, None)) for name in found}
    ours |= {"num_layers": into.num_layers, "bidirectional": into.bidirectional}
    theirs = {**found, "num_layers": len(layers), "bidirectional": len(layers[0]) == 2}
    for name, value in theirs.items():
        if ours[name] != value:
            raise ValueError(f"into: expected {name}={value!r} as in source, got {ours[name]!r}")


def require_plain(library: str, layer: nn.Recurrent, concat: bool) -> None:
    """Raise if the layer has an option that the layers of the library do not have."""
    learns = any(d.learns_its_state for each in layer.layers for d in directions_of(each))
    wrong = {
        "norm": layer.norm is not None,
        "zoneout": any(each.options.zoneout for each in layer.layers),  # it affects evaluation too
        "residual": any(each.options.residual for each in layer.layers),
        "learned_initial_state": learns,
        f"merge_mode={layer.merge_mode!r}": concat
        and layer.bidirectional
        and layer.merge_mode != "concat",
    }
    for option, is_set in wrong.items():
        if is_set:
            raise ValueError(
                f"layer: expected options that {library} supports, got a layer with {option}"
            )
