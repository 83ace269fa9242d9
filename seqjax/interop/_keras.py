"""What Keras says of a layer besides its weights, as options of our layers; in files too."""

import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

from seqjax import checks
from seqjax._files import local_path
from seqjax.interop import _trees

ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "linear": "identity", "sigmoid": "sigmoid"}
_KINDS = ("SimpleRNN", "LSTM", "GRU", "Bidirectional")
_MERGE_MODES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "mul", None: "none"}
# Where the parts of a wrapper are in its configuration, by their names in files.
_PARTS = {"forward_layer": "layer", "backward_layer": "backward_layer", "layer": "layer"}


def serialized(layer: Any) -> dict[str, Any]:
    """A Keras layer as its files describe it."""
    # Before its configuration is asked for, which a layer of the user's may not have.
    kind = checks.require_name("source", type(layer).__name__, _KINDS)
    return {"class_name": kind, "config": layer.get_config()}


def configuration(layer: Mapping[str, Any], *, backward: bool = False) -> dict[str, Any]:
    """The options of our layer that computes what a Keras layer does, and `reset_after`.

    Args:
      layer: its class_name and config.
      backward: whether it is the second direction.

    Raises:
      ValueError: it does what our layers do not.
    """
    kind, config = layer["class_name"], layer["config"]
    if layer.get("registered_name"):  # a class of the user's
        kind = layer["registered_name"]
    checks.require_name("source", kind, _KINDS)
    if kind == "Bidirectional":
        told = configuration(config["layer"])
        other = config.get("backward_layer")  # made like the first one if there is none
        if other is not None and configuration(other, backward=True) != told:
            raise ValueError("source: expected two directions that are alike, got different ones")
        if config["merge_mode"] not in _MERGE_MODES:
            raise ValueError(f"source: expected a known merge_mode, got {config['merge_mode']!r}")
        return {**told, "merge_mode": _MERGE_MODES[config["merge_mode"]]}
    expected = {"recurrent_activation": "sigmoid", "activation": "tanh", "go_backwards": backward}
    if kind == "SimpleRNN":
        del expected["activation"], expected["recurrent_activation"]
    for name, value in expected.items():
        if config.get(name) != value:
            raise ValueError(
                f"source: expected {name}={value!r} of a {kind}, got {config.get(name)!r}"
            )
    if kind == "SimpleRNN":
        name = checks.require_name("activation", config["activation"], ACTIVATIONS)
        return {"activation": ACTIVATIONS[name]}
    return {"reset_after": config["reset_after"]} if kind == "GRU" else {}


def read_config(path: Any, prefix: str) -> Mapping[str, Any]:
    """The layer of a file `.keras` whose weights are at a path in it, as `serialized` gives it.

    Raises:
      ValueError: the file cannot be read, or does not tell, as that of a model with a `call` of
        its own does not.
    """
    path = local_path("path", path)
    with _trees.reading(path), zipfile.ZipFile(path) as archive:
        layer = json.loads(archive.read("config.json"))
    steps = iter(prefix.strip("/").split("/"))
    for step in steps:
        config = layer["config"]
        if step == "layers":
            layer = _by_name(config.get("layers", ())).get(next(steps, ""))
        else:
            layer = config.get(_PARTS.get(step))
        if not (isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping)):
            raise ValueError(
                f"prefix: expected a layer that the config.json of {path} describes, got "
                f"{prefix!r}; give the Keras layer itself, or a file .weights.h5 and the options"
            )
    return layer


def _by_name(layers: Any) -> dict[str, Any]:
    """The layers of a model by their names in files: of their classes, counted."""
    named: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        if not isinstance(layer, Mapping) or "class_name" not in layer:
            continue
        word = r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])"  # where one begins
        name = re.sub(word, "_", layer["class_name"]).lower()
        count = counts[name] = counts.get(name, -1) + 1
        named[f"{name}_{count}" if count else name] = layer
    return named
