"""Weights from and to Keras 3: `SimpleRNN`, `LSTM`, `GRU` and `Bidirectional` of them.

Keras itself is not needed for lists of arrays.
"""

import contextlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqjax import cells, checks, nn
from seqjax._files import FilePath, local_path
from seqjax.interop import _trees
from seqjax.interop._keras import ACTIVATIONS, configuration, read_config, serialized
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
    reset_after: bool | None = None,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    """A layer with the weights of Keras's.

    Args:
      source: what `layer.get_weights()` gives, a list of arrays; or a Keras layer; or a list of
        these, one for each layer of a stack; or the path of a file `.keras`, which tells of the
        layer what a Keras layer does, or `.weights.h5`, which holds arrays and nothing else.
      prefix: in a file, the path to the layer, such as "layers/lstm".
      reset_after: as given to Keras's `GRU`; needed only for one without biases, whose weights do
        not tell (True then if None).
      into: the layer to fill; a new one if None.
      **options: of a new layer, such as `activation="relu"` or `merge_mode="sum"`, which arrays do
        not tell: Keras's defaults are assumed, and that the layer runs forward. A Keras layer and
        a file `.keras` tell them, and an option against these is refused. See
        `seqjax.nn.Recurrent`.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      TypeError: neither arrays, nor a Keras layer, nor a path.
      ValueError: an array is missing or has a wrong shape, `into` is of another kind or size, the
        Keras layer is not built, has activations that ours do not have or runs backward; or the
        file cannot be read or does not say how its layer is configured.
      ImportError: a file, and h5py is not installed.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> layer = load([rng.normal(size=s) for s in [(3, 15), (5, 15), (2, 15)]])
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('GRU', (3, 15))
    """
    prefix = _trees.require_prefix(prefix)
    told = []
    if _trees.is_path(source):
        path, source = source, read_weights(source, prefix)
        if Path(path).suffix == ".keras":
            told.append(configuration(read_config(path, prefix)))
    elif prefix:
        raise ValueError(f"prefix: expected '' for what is not a file, got {prefix!r}")
    one = isinstance(source, Sequence) and len(source) > 0 and hasattr(source[0], "shape")
    groups = []
    for index, layer in enumerate([source] if one else _trees.each_layer(source)):
        if hasattr(layer, "get_weights"):
            told.append(configuration(serialized(layer)))
            layer = layer.get_weights()
            if not layer:
                raise ValueError(
                    f"source[{index}]: expected a layer with weights, got one that is not built; "
                    "call it first, or its build"
                )
        groups.append(_groups(layer, index))
    found = agreed(told)
    after = found.pop("reset_after", reset_after)
    if reset_after not in (None, after):
        raise ValueError(f"reset_after: expected {after} as in source, got {reset_after!r}")
    schemes = SCHEMES
    if after is not None:
        other = cells.ChoGRU if checks.require_bool("reset_after", after) else cells.GRU
        schemes = tuple(scheme for scheme in SCHEMES if scheme.cell is not other)
    return load_layers(schemes, groups, into, options, found)


def dump(layer: nn.Recurrent) -> list[list[Any]]:
    """The weights of a layer as Keras's layers take them.

    Of the two rows of a GRU's bias, the first gets ours; the second gets zeros and b_hn. What
    arrays do not tell is for the Keras layer to be made with: a `SimpleRNN` its activation (our
    "identity" is Keras's "linear"), a `GRU` its `reset_after`, a `Bidirectional` its `merge_mode`.

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
    """The weights of one layer in a file of Keras, as its `get_weights` gives them.

    Args:
      path: of a file `.weights.h5` or `.keras`.
      prefix: the path to the layer in it, such as "layers/bidirectional".

    Returns:
      A list of arrays of NumPy.

    Raises:
      ValueError: nothing there, with names that are; a file that cannot be read.
      ImportError: h5py is not installed.

    Example:
      >>> read_weights("model.h5", "layers/lstm")
      Traceback (most recent call last):
      ValueError: path: expected a file .weights.h5 or .keras, got model.h5
    """
    path = local_path("path", path)
    if not path.name.endswith((".weights.h5", ".keras")):
        raise ValueError(f"path: expected a file .weights.h5 or .keras, got {path}")
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError('h5py is missing: pip install "seqjax[interop]"') from error
    with _trees.reading(path), contextlib.ExitStack() as stack:
        file: Any = path
        if path.suffix == ".keras":
            archive = stack.enter_context(zipfile.ZipFile(path))
            file = stack.enter_context(archive.open("model.weights.h5"))
        flat = _trees.flatten(stack.enter_context(h5py.File(file)))
    arrays = _trees.under(flat, _trees.require_prefix(prefix))
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
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise TypeError(
            f"source: expected lists of arrays, Keras layers or a path, got {checks.brief(weights)}"
        )
    arrays = [_trees.array(each, f"source[{index}][{i}]") for i, each in enumerate(weights)]
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
