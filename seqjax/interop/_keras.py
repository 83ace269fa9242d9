"""Conversion of the configuration of Keras layers to options of our layers."""

import json
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqjax import checks
from seqjax.interop import _trees
from seqjax.interop._layers import agreed

__all__ = [
    "ACTIVATIONS",
    "by_name_in",
    "configuration",
    "is_bidirectional",
    "read_config",
    "serialized",
]

ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "linear": "identity", "sigmoid": "sigmoid"}
_CELLS = {
    **{name: "SimpleRNN" for name in ("SimpleRNN", "SimpleRNNCell")},
    **{name: "LSTM" for name in ("LSTM", "LSTMCell", "CuDNNLSTM")},
    **{name: "GRU" for name in ("GRU", "GRUCell", "CuDNNGRU")},
}
_KINDS = (*_CELLS, "RNN", "StackedRNNCells", "Bidirectional")
_INSIDE = {
    "TimeDistributed": "pass the layer inside, its .layer",
    "Sequential": "pass the recurrent layers, such as model.layers[1]",
    "Functional": "pass the recurrent layers, such as model.layers[1]",
}
_MERGE_MODES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "mul", None: "none"}
# A dict from the names of a wrapper's parts in files to their names in its configuration.
_PARTS = {
    "forward_layer": "layer",
    "backward_layer": "backward_layer",
    "layer": "layer",
    "cell": "cell",
}


def serialized(layer: Any) -> dict[str, Any]:
    """Return the class name and configuration of a Keras layer, in the form that files contain."""
    # The class is checked first, because a user-defined layer may have no configuration.
    kind = _require_kind(type(layer).__name__)
    _require_own_activations(layer)
    return {"class_name": kind, "config": layer.get_config()}


def _require_own_activations(layer: Any) -> None:
    """Raise if a layer has a user's activation that the configuration calls by a name of Keras."""
    parts = [getattr(layer, name, None) for name in ("forward_layer", "backward_layer", "cell")]
    parts += getattr(layer, "cells", [])
    for part in parts:
        if part is not None:
            _require_own_activations(part)
    packages = [sys.modules.get(c.__module__.partition(".")[0]) for c in type(layer).__mro__]
    keras = next((package for package in packages if hasattr(package, "activations")), None)
    for attribute in ("activation", "recurrent_activation"):
        function = getattr(layer, attribute, None)
        name = getattr(function, "__name__", None)
        if keras is None or name not in ACTIVATIONS:  # then the configuration shows the difference
            continue
        places = (keras.activations, getattr(keras, "ops", None))
        if all(function is not getattr(place, name, None) for place in places):
            raise ValueError(
                f"source: expected {attribute} to be a name or function of Keras, such as "
                f"{name!r}, got another function named {name}"
            )


def is_bidirectional(layer: Mapping[str, Any]) -> bool:
    """Return whether a Keras layer has two directions."""
    return bool(layer.get("class_name") == "Bidirectional")


def configuration(layer: Any, *, backward: bool = False) -> dict[str, Any]:
    """Return the options with which our layer computes the same as a Keras layer.

    The options include `reset_after` and, for layers of older versions of Keras, `time_major`.

    Args:
      layer: a dict with the class_name and config of the Keras layer.
      backward: whether the layer is the backward layer of a `Bidirectional`.

    Raises:
      ValueError: our layers cannot compute the same as the Keras layer.
    """
    if not (isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping)):
        raise ValueError(
            f"source: expected a layer's class_name and config, got {checks.brief(layer)}"
        )
    # Only a user-defined class has a registered name.
    kind = _require_kind(layer.get("registered_name") or layer.get("class_name"))
    config = layer["config"]
    if kind == "Bidirectional":
        return _both(config)
    if kind == "StackedRNNCells":
        return agreed(map(configuration, config.get("cells") or ()))
    if not kind.endswith("Cell"):
        _require(kind, config, {"go_backwards": backward})
    layout = {"time_major": True} if config.get("time_major") is True else {}
    inner = configuration(config.get("cell")) if kind == "RNN" else _cell(kind, config)
    return inner | layout


def _both(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a `Bidirectional` layer."""
    told = configuration(config.get("layer"))
    other = config.get("backward_layer")  # if None, a copy of the first layer
    if other is not None and configuration(other, backward=True) != told:
        raise ValueError(
            "source: expected two directions with the same configuration, got different ones"
        )
    mode = config.get("merge_mode", "concat")
    if mode not in _MERGE_MODES:
        known = ", ".join(map(repr, _MERGE_MODES))
        raise ValueError(f"source: expected a merge_mode out of {known}, got {mode!r}")
    cell = config["layer"]["config"].get("cell")
    if isinstance(cell, Mapping) and cell.get("class_name") == "StackedRNNCells":
        raise ValueError(
            "source: expected one cell in each direction, got StackedRNNCells in a Bidirectional; "
            "in seqjax each direction of a layer gets the outputs of both directions of the "
            "previous layer"
        )
    return {**told, "merge_mode": _MERGE_MODES[mode]}


def _cell(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of one cell. `kind` is the class name of the cell or of its layer."""
    if _CELLS[kind] == "SimpleRNN":
        name = checks.require_name("activation", config.get("activation"), ACTIVATIONS)
        return {"activation": ACTIVATIONS[name]}
    if kind.startswith("CuDNN"):
        return {"reset_after": True} if kind == "CuDNNGRU" else {}
    _require(kind, config, {"recurrent_activation": "sigmoid", "activation": "tanh"})
    if _CELLS[kind] == "GRU" and isinstance(config.get("reset_after"), bool):
        return {"reset_after": config["reset_after"]}
    return {}


def _require(kind: str, config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise if the value of an option is not the one that our layers implement."""
    for name, value in expected.items():
        if config.get(name) != value:
            raise ValueError(
                f"source: expected {name}={value!r} of a {kind}, got {config.get(name)!r}"
            )


def _require_kind(kind: Any) -> str:
    """Return a class name, or raise if it is not the name of a recurrent layer's class."""
    if kind in _INSIDE:
        raise ValueError(f"source: expected a recurrent layer, got a {kind}; {_INSIDE[kind]}")
    return checks.require_name("source", kind, _KINDS)


def read_config(path: Path, prefix: str) -> Mapping[str, Any]:
    """Return the class name and configuration of one layer in a `.keras` file.

    Args:
      path: the path of the file.
      prefix: the path of the layer in the file.

    Raises:
      ValueError: the file cannot be read, or it does not describe the layer. For example, the file
        of a model with a custom `call` does not describe the model's layers.
    """
    with _trees.reading(path), zipfile.ZipFile(path) as archive:
        layer = json.loads(archive.read("config.json"))
    steps = iter(prefix.strip("/").split("/"))
    for step in steps:
        config = layer.get("config") if isinstance(layer, Mapping) else None
        config = config if isinstance(config, Mapping) else {}
        if step in ("layers", "cells"):
            layer = _by_name(config.get(step)).get(next(steps, ""))
        else:
            layer = config.get(_PARTS.get(step))
        if not (isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping)):
            raise ValueError(
                f"prefix: expected a layer that the config.json of {path} describes, got "
                f"{prefix!r}; pass the Keras layer itself, or a file .weights.h5 and the options"
            )
    found: Mapping[str, Any] = layer
    return found


def by_name_in(text: str, name: str) -> Mapping[str, Any] | None:
    """Return the layer with this name in the description of a model, or None.

    Args:
      text: the description of a model in JSON, written by an older version of Keras.
      name: the name of the layer.
    """
    queue = [json.loads(text)]
    while queue:
        layer = queue.pop()
        config = layer.get("config") if isinstance(layer, Mapping) else None
        if isinstance(config, list):  # the first files of Keras 2 have only a list of layers
            queue += config
        elif isinstance(config, Mapping):
            if config.get("name") == name:
                found: Mapping[str, Any] = layer
                return found
            inner = config.get("layers")
            queue += inner if isinstance(inner, list) else []
    return None


def _by_name(layers: Any) -> dict[str, Any]:
    """Return a model's layers as a dict by the names that files use for the layers.

    Each name is the class name, with a number if there are several layers of this class.
    """
    named: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for layer in layers if isinstance(layers, list) else ():
        if not (isinstance(layer, Mapping) and isinstance(layer.get("class_name"), str)):
            continue
        word = r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])"  # the beginning of a word
        name = re.sub(word, "_", layer["class_name"]).lower()
        count = counts[name] = counts.get(name, -1) + 1
        named[f"{name}_{count}" if count else name] = layer
    return named
