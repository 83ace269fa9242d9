"""Conversion of weights from and to Keras 3: `SimpleRNN`, `LSTM`, `GRU` and `Bidirectional`.

To convert lists of arrays or files, Keras need not be installed.
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
      source: a Keras layer; the list of arrays that `layer.get_weights()` returns; for a stack, a
        list of Keras layers or of lists of arrays; or the path of a file. A `.keras` file also
        contains the configuration of the layer. A `.weights.h5` file contains only arrays. Older
        `.h5` files can be read, too. If a model consists of recurrent layers only, the result of
        its `get_weights()` can also be the source.
      prefix: the path to the layer in a file, such as "layers/lstm". For an older `.h5` file, pass
        the name of the layer. If the source is not a file, `prefix` must be "".
      bidirectional: whether the arrays are pairs of a forward and a backward direction. This option
        is only needed if the input size equals the hidden size, because then a `Bidirectional` has
        the same shapes as a stack.
      reset_after: the argument `reset_after` of Keras's `GRU`. This option is only needed for a GRU
        without biases, because its shapes do not show `reset_after`.
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer, such as `merge_mode="sum"`; see `seqjax.nn.Recurrent`.
        If the source is a Keras layer or a file with the configuration of the layer, this
        configuration is used, and an option that contradicts the configuration raises an error. If
        the source has only arrays, Keras's defaults are assumed, except that a `SimpleRNN` needs an
        `activation`, such as "tanh".

    Returns:
      A new `seqjax.nn.RNN`, `LSTM` or `GRU`, or `into` if it is given.

    Raises:
      TypeError: `source` is neither a path nor made of arrays or Keras layers.
      ValueError: an array is missing or has a wrong shape; the shapes fit both a stack and
        bidirectional layers; `into` differs from the source in its cell or sizes; the Keras layer
        is not built, has activations that our layers lack, or runs backward; or the file cannot be
        read or lacks the configuration of the layer.
      ImportError: `source` is a file, and h5py is not installed.

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
        raise ValueError(f"prefix: expected '' for a source that is not a file, got {prefix!r}")
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
    if agreement.pop("time_major", False) and into is None:  # the user may override this option
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
    """Return the weights of a layer as lists of arrays for `set_weights` of Keras's layers.

    In Keras, the bias of a GRU has two rows. The first row is our bias. The second row is b_hn for
    the candidate gate, and zeros for the other gates.

    The arrays do not contain the following options, so pass these options to the Keras layer: the
    activation of a `SimpleRNN` (our "identity" is Keras's "linear"), `reset_after` of a `GRU`, and
    `merge_mode` of a `Bidirectional`.

    Args:
      layer: a `seqjax.nn.LSTM`, a `GRU`, or an `RNN` whose activation is a string.

    Returns:
      One list of arrays for each layer of the stack. Pass each list to `set_weights` of a Keras
      layer. For a `Bidirectional`, the arrays of the forward layer come before those of the
      backward layer.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has a cell, an activation or an option that Keras lacks. Keras lacks the
        options `norm`, `residual`, `zoneout` and a learned initial state.

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
    """Return the weights of one layer in a file of Keras, in the order of its `get_weights()`.

    Args:
      path: the path of a `.weights.h5`, `.keras` or older `.h5` file.
      prefix: the path to the layer in the file, such as "layers/bidirectional". For an older `.h5`
        file, pass the name of the layer.

    Returns:
      A list of NumPy arrays.

    Raises:
      ValueError: the file cannot be read, or it contains no layer at `prefix`. If there is no layer
        at `prefix`, the message lists the paths of the layers in the file.
      ImportError: h5py is not installed.

    Example:
      >>> read_weights("model.pb", "layers/lstm")
      Traceback (most recent call last):
      ValueError: path: expected a file whose name ends in .weights.h5, .keras or .h5, got model.pb
    """
    found = _keras_files.read(path, _trees.require_prefix(prefix), described=False)
    return [_trees.array(each, f"{prefix}[{i}]") for i, each in enumerate(found.arrays)]


def _found(layer: Any, index: int) -> _keras_files.Found:
    """Return a layer's arrays, directions and configuration.

    The layer is a Keras layer, or a list of arrays without a configuration.
    """
    if hasattr(layer, "get_weights"):
        config = serialized(layer)
        arrays = layer.get_weights()
        if not arrays:
            raise ValueError(
                f"source[{index}]: expected a layer with weights, got one that is not built; "
                "call it first, or call its build method"
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
    """Return whether a source has two directions.

    If the source does not show its number of directions, `bidirectional` or `into` decides, and the
    result may be None.
    """
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
    """Return the arrays of a source as a list of layers. Each layer is a list of directions."""
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
    """Raise if the source is a GRU without biases.

    The arrays of such a GRU do not show where the reset gate is applied.
    """
    arrays = [group.arrays for layer in groups for group in layer]
    shape = np.shape(arrays[0]["recurrent_kernel"])
    has_bias = any("bias" in each for each in arrays)
    if not has_bias and len(shape) == 2 and shape[1] == 3 * shape[0]:
        raise ValueError(
            "reset_after: expected True or False, as given to Keras's GRU, since the arrays of a "
            "GRU without biases do not show it, got None"
        )
