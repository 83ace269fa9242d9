"""Weights from and to Keras 3: `SimpleRNN`, `LSTM`, `GRU` and `Bidirectional` of them.

Keras itself is not needed for lists of arrays.
"""

import contextlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqjax import cells, checks, nn
from seqjax.interop import _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Group, Scheme

__all__ = ["dump", "load", "read_weights"]


def _scheme(cell: type[Any], gates: str, biases: str = "b_ih") -> Scheme:
    return Scheme(
        cell,
        (
            Field("kernel", "w_ih", gates),
            Field("recurrent_kernel", "w_hh", gates),
            Field("bias", biases, gates),
        ),
    )


SCHEMES: tuple[Scheme, ...] = (
    _scheme(cells.Elman, "h"),
    _scheme(cells.LSTM, "ifgo"),
    _scheme(cells.GRU, "zrn", biases="b_ih b_hh"),
    _scheme(cells.ChoGRU, "zrn"),
)
_ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "linear": "identity", "sigmoid": "sigmoid"}
_MERGE_MODES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "mul", None: "none"}


def load(
    source: Any,
    prefix: str = "",
    *,
    reset_after: bool | None = None,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    """A layer with the weights of Keras's.

    Args:
      source: what `layer.get_weights()` gives, a list of arrays; or a Keras layer; or a list of
        these, one for each layer of a stack; or the path of a file `.weights.h5` or `.keras`.
      prefix: in a file, the path to the layer, such as "layers/lstm".
      reset_after: as given to Keras's `GRU`; needed only for one without biases, whose weights do
        not tell (True then if None).
      into: the layer to fill; a new one if None.
      **options: of a new layer, such as `activation="relu"` or `merge_mode="sum"`, which arrays do
        not tell; a Keras layer tells them itself. See `seqjax.nn.Recurrent`.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      ValueError: an array is missing or has a wrong shape, `into` is of another kind or size, or
        the Keras layer has activations that ours do not have or runs backward.
      ImportError: a file, and h5py is not installed.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> layer = load([rng.normal(size=s) for s in [(3, 15), (5, 15), (2, 15)]])
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('GRU', (3, 15))
    """
    if _trees.is_path(source):
        source = read_weights(source, prefix)
    elif prefix:
        raise ValueError(f"prefix: expected '' for what is not a file, got {prefix!r}")
    one = isinstance(source, Sequence) and len(source) > 0 and hasattr(source[0], "shape")
    found: dict[str, Any] = {}
    layers = []
    for index, layer in enumerate([source] if one else _trees.each_layer(source)):
        if hasattr(layer, "get_weights"):
            told = _configuration(layer)
            for name, value in told.items():
                if found.setdefault(name, value) != value:
                    raise ValueError(
                        f"source: expected {name}={found[name]!r} in all layers, got {value!r}"
                    )
            layer = layer.get_weights()
        layers.append(_groups(layer, index))
    after = found.pop("reset_after", reset_after)
    schemes = SCHEMES
    if after is not None:
        other = cells.ChoGRU if checks.require_bool("reset_after", after) else cells.GRU
        schemes = tuple(scheme for scheme in SCHEMES if scheme.cell is not other)
    return load_layers(schemes, layers, into, options, found)


def dump(layer: nn.Recurrent) -> list[list[Any]]:
    """The weights of a layer as Keras's layers take them.

    Of the two rows of a GRU's bias, the first gets ours; the second gets zeros and b_hn.

    Args:
      layer: a `seqjax.nn.RNN`, `LSTM` or `GRU`.

    Returns:
      For each layer of the stack a list of arrays, for the `set_weights` of a Keras layer;
      `Bidirectional` takes the forward layer's, then the backward layer's.

    Raises:
      TypeError: not a layer.
      ValueError: a cell that Keras does not have, or what else the weights do not tell: `norm`,
        `residual`, a learned initial state.

    Example:
      >>> from flax import nnx
      >>> layer = nn.LSTM(3, 5, num_layers=2, rngs=nnx.Rngs(0))
      >>> [[array.shape for array in arrays] for arrays in dump(layer)]
      [[(3, 20), (5, 20), (20,)], [(5, 20), (5, 20), (20,)]]
    """
    return [
        [array for direction in directions for array in direction.values()]
        for directions in dump_layers("Keras", SCHEMES, layer)
    ]


def read_weights(path: str | Path, prefix: str) -> list[Any]:
    """The weights of one layer in a file of Keras, as its `get_weights` gives them.

    Args:
      path: of a file `.weights.h5` or `.keras`.
      prefix: the path to the layer in it, such as "layers/bidirectional".

    Returns:
      A list of arrays of NumPy.

    Raises:
      ValueError: nothing there, with names that are.
      ImportError: h5py is not installed.

    Example:
      >>> read_weights("model.h5", "layers/lstm")
      Traceback (most recent call last):
      ValueError: path: expected a file .weights.h5 or .keras, got model.h5
    """
    path = Path(path)
    if not path.name.endswith((".weights.h5", ".keras")):
        raise ValueError(f"path: expected a file .weights.h5 or .keras, got {path}")
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError('h5py is missing: pip install "seqjax[interop]"') from error
    with contextlib.ExitStack() as stack:
        file: Any = path
        if path.suffix == ".keras":
            archive = stack.enter_context(zipfile.ZipFile(path))
            file = stack.enter_context(archive.open("model.weights.h5"))
        arrays = _trees.under(_trees.flatten(stack.enter_context(h5py.File(file))), prefix)
    sides = [
        s for s in ("forward_layer/", "backward_layer/") if any(k.startswith(s) for k in arrays)
    ]
    found = []
    for side in sides or [""]:
        found += [
            arrays[f"{side}cell/vars/{n}"] for n in range(3) if f"{side}cell/vars/{n}" in arrays
        ]
    if not found:
        raise ValueError(f"prefix: expected a recurrent layer, got {', '.join(list(arrays)[:6])}")
    return found


def _groups(weights: Any, index: int) -> list[Group]:
    """The directions of one layer's list of arrays."""
    arrays = [_trees.array(weight) for weight in weights]
    if len(arrays) not in (2, 3, 4, 6):
        raise ValueError(
            f"source[{index}]: expected 2 or 3 arrays, or 4 or 6 of two directions, "
            f"got {len(arrays)}"
        )
    size = len(arrays) if len(arrays) < 4 else len(arrays) // 2
    names = SCHEMES[0].keys()[:size]
    halves = [arrays[i : i + size] for i in range(0, len(arrays), size)]
    sides = ("forward", "backward")
    return [
        Group(dict(zip(names, half, strict=True)), f"layers[{index}].{side}.")
        for half, side in zip(halves, sides, strict=False)
    ]


def _configuration(layer: Any, *, backward: bool = False) -> dict[str, Any]:
    """What a Keras layer says of itself besides its weights, as our options."""
    kind = type(layer).__name__
    checks.require_name("source", kind, ("SimpleRNN", "LSTM", "GRU", "Bidirectional"))
    if kind == "Bidirectional":
        told = _configuration(layer.forward_layer)
        if told != _configuration(layer.backward_layer, backward=True):
            raise ValueError("source: expected two directions that are alike, got different ones")
        if layer.merge_mode not in _MERGE_MODES:
            raise ValueError(f"source: expected a known merge_mode, got {layer.merge_mode!r}")
        return {**told, "merge_mode": _MERGE_MODES[layer.merge_mode]}
    config = layer.get_config()
    expected = {"recurrent_activation": "sigmoid", "activation": "tanh", "go_backwards": backward}
    if kind == "SimpleRNN":
        del expected["activation"], expected["recurrent_activation"]
    for name, value in expected.items():
        if config[name] != value:
            raise ValueError(f"source: expected {name}={value!r} of a {kind}, got {config[name]!r}")
    if kind == "SimpleRNN":
        name = checks.require_name("activation", config["activation"], _ACTIVATIONS)
        return {"activation": _ACTIVATIONS[name]}
    return {"reset_after": config["reset_after"]} if kind == "GRU" else {}
