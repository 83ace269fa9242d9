"""Weights from and to Keras 3: `SimpleRNN`, `LSTM`, `GRU` and `Bidirectional` of them.

Keras itself is not needed for lists of arrays.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax import cells, checks, nn
from seqjax._files import FilePath
from seqjax.interop import _keras_arrays, _keras_files, _trees
from seqjax.interop._keras import ACTIVATIONS, configuration, is_bidirectional, serialized
from seqjax.interop._layers import agreed, dump_layers, load_layers
from seqjax.interop._schemes import Field, Group, Scheme

__all__ = ["dump", "load", "read_weights"]


def _scheme(
    cell: type[Any], gates: str, biases: str = "b_ih", activations: tuple[str, ...] = ()
) -> Scheme:
    return Scheme(
        cell,
        (
            Field("kernel", "w_ih", gates),
            Field("recurrent_kernel", "w_hh", gates),
            Field("bias", biases, gates),
        ),
        activations=activations,
    )


SCHEMES: tuple[Scheme, ...] = (
    _scheme(cells.Elman, "h", activations=tuple(ACTIVATIONS.values())),
    _scheme(cells.LSTM, "ifgo"),
    _scheme(cells.GRU, "zrn", biases="b_ih b_hh"),
    _scheme(cells.ChoGRU, "zrn"),
)


def load(
    source: Any,
    prefix: str = "",
    *,
    bidirectional: bool | None = None,
    reset_after: bool | None = None,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    """Return a layer with the weights of a Keras layer.

    Args:
      source: what `layer.get_weights()` gives, a list of arrays; or a Keras layer; or a list of
        these, one for each layer of a stack; or the path of a file `.keras`, which describes the
        layer, or `.weights.h5`, which holds arrays alone, or an older `.h5`. The `get_weights()`
        of a model with nothing but recurrent layers is a source, too.
      prefix: in a file, the path to the layer, such as "layers/lstm"; in an older `.h5`, its name.
      bidirectional: for arrays, whether they are pairs of directions. It is needed only if the
        input size is the hidden size, since a `Bidirectional` and a stack have the same shapes
        then.
      reset_after: as given to Keras's `GRU`; needed only for a GRU without biases, whose weights
        do not show it.
      into: the layer to fill; a new one if None.
      **options: of a new layer, such as `merge_mode="sum"`; see `seqjax.nn.Recurrent`. Arrays do
        not tell what a layer does: a `SimpleRNN` needs `activation="tanh"` or another, and for the
        rest Keras's defaults are assumed. A Keras layer and a file with the configuration tell
        what the layer does, and an option against them is refused.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      TypeError: neither arrays, nor a Keras layer, nor a path.
      ValueError: an array is missing or has a wrong shape; the shapes fit several arrangements;
        `into` is of another kind or size; the Keras layer is not built, has activations that ours
        do not have or runs backward; or the file cannot be read or does not say how its layer is
        configured.
      ImportError: a file, and h5py is not installed.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> layer = load([rng.normal(size=s) for s in [(3, 15), (5, 15), (2, 15)]])
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('GRU', (3, 15))
    """
    prefix = _trees.require_prefix(prefix)
    if bidirectional is not None:
        bidirectional = checks.require_bool("bidirectional", bidirectional)
    if _trees.is_path(source):
        source = [_keras_files.read(source, prefix)]
    elif prefix:
        raise ValueError(f"prefix: expected '' for what is not a file, got {prefix!r}")
    one = isinstance(source, Sequence) and len(source) > 0 and hasattr(source[0], "shape")
    told: list[dict[str, Any]] = []
    groups: list[list[Group]] = []
    for index, layer in enumerate([source] if one else _trees.each_layer(source)):
        found = layer if isinstance(layer, _keras_files.Found) else _found(layer, index)
        if found.config is not None:
            told.append(configuration(found.config))
        sides = _directions(found, bidirectional, into)
        groups += _groups(found.arrays, index, sides, len(groups))
    agreement = agreed(told)
    if agreement.pop("time_major", False) and into is None:  # a layout, which the user chooses
        options.setdefault("time_major", True)
    after = agreement.pop("reset_after", reset_after)
    if reset_after not in (None, after):
        raise ValueError(f"reset_after: expected {after} as in source, got {reset_after!r}")
    schemes = SCHEMES
    if after is not None:
        other = cells.ChoGRU if checks.require_bool("reset_after", after) else cells.GRU
        schemes = tuple(scheme for scheme in SCHEMES if scheme.cell is not other)
    elif into is None:
        _require_told_reset(groups)
    return load_layers(schemes, groups, into, options, agreement)


def dump(layer: nn.Recurrent) -> list[list[Any]]:
    """Return the weights of a layer as Keras's layers take them.

    Of the two rows of a GRU's bias, the first gets ours; the second gets zeros and b_hn. Create
    the Keras layer with the options that arrays do not contain: the activation of a `SimpleRNN`
    (our "identity" is Keras's "linear"), `reset_after` of a `GRU`, `merge_mode` of a
    `Bidirectional`.

    Args:
      layer: a `seqjax.nn.RNN` with an activation that has a name, `LSTM` or `GRU`.

    Returns:
      For each layer of the stack a list of arrays, for the `set_weights` of a Keras layer;
      `Bidirectional` takes the forward layer's, then the backward layer's.

    Raises:
      TypeError: not a layer.
      ValueError: a cell that Keras does not have, or what else the weights do not tell: `norm`,
        `residual`, `zoneout`, a learned initial state.

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


def read_weights(path: FilePath, prefix: str) -> list[Any]:
    """Return the weights of one layer in a file of Keras, as its `get_weights` gives them.

    Args:
      path: of a file `.weights.h5` or `.keras`, or an older `.h5`.
      prefix: the path to the layer in it, such as "layers/bidirectional"; in an older `.h5`, the
        name of the layer.

    Returns:
      A list of arrays of NumPy.

    Raises:
      ValueError: nothing there, with names that are; a file that cannot be read.
      ImportError: h5py is not installed.

    Example:
      >>> read_weights("model.pb", "layers/lstm")
      Traceback (most recent call last):
      ValueError: path: expected a file .weights.h5, .keras or .h5, got model.pb
    """
    found = _keras_files.read(path, _trees.require_prefix(prefix), described=False)
    return [_trees.array(each, f"{prefix}[{i}]") for i, each in enumerate(found.arrays)]


def _found(layer: Any, index: int) -> _keras_files.Found:
    """Return what a list of arrays or a Keras layer says about the layer."""
    if hasattr(layer, "get_weights"):
        config = serialized(layer)
        arrays = layer.get_weights()
        if not arrays:
            raise ValueError(
                f"source[{index}]: expected a layer with weights, got one that is not built; "
                "call it first, or its build"
            )
        return _keras_files.Found(arrays, is_bidirectional(config), config)
    if not isinstance(layer, Sequence) or isinstance(layer, str):
        raise TypeError(
            f"source: expected lists of arrays, Keras layers or a path, got {checks.brief(layer)}"
        )
    return _keras_files.Found(list(layer), None, None)


def _directions(
    found: _keras_files.Found, bidirectional: bool | None, into: nn.Recurrent | None
) -> bool | None:
    """Return whether a source has two directions; if it does not say so, the user decides."""
    if found.bidirectional is None:
        if bidirectional is None and isinstance(into, nn.Recurrent):
            return into.bidirectional
        return bidirectional
    if bidirectional not in (None, found.bidirectional):
        raise ValueError(
            f"bidirectional: expected {found.bidirectional} as in source, got {bidirectional}"
        )
    return found.bidirectional


def _groups(
    weights: Sequence[Any], index: int, bidirectional: bool | None, first: int
) -> list[list[Group]]:
    """Return the layers in the arrays of a source, each with its directions."""
    name = f"source[{index}]"
    arrays = [_trees.array(each, f"{name}[{i}]") for i, each in enumerate(weights)]
    parts = _keras_arrays.split(arrays, name)
    if len(parts) == 1 and not bidirectional:
        layers = [parts]  # a stack of one
    else:
        layers = _keras_arrays.arrange(parts, bidirectional, name)
    keys = SCHEMES[0].keys()
    return [
        [
            Group(dict(zip(keys, cell, strict=False)), f"layers[{number}].{side}.")
            for cell, side in zip(layer, ("forward", "backward"), strict=False)
        ]
        for number, layer in enumerate(layers, first)
    ]


def _require_told_reset(groups: Sequence[Sequence[Group]]) -> None:
    """Raises on GRUs without biases: their arrays do not tell where the reset gate acts."""
    arrays = [group.arrays for layer in groups for group in layer]
    shape = np.shape(arrays[0]["recurrent_kernel"])
    has_bias = any("bias" in each for each in arrays)
    if not has_bias and len(shape) == 2 and shape[1] == 3 * shape[0]:
        raise ValueError(
            "reset_after: expected True or False, as given to Keras's GRU, since a GRU without "
            "biases does not tell; got None"
        )
