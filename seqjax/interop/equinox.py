"""Conversion of weights from and to Equinox's cells `LSTMCell` and `GRUCell`.

The source is a module or a dict of arrays.
"""

from typing import Any

from seqjax import cells, checks, nn
from seqjax.interop import _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Scheme

__all__ = ["dump", "load"]


def _scheme(cell: type[Any], gates: str, *more: Field) -> Scheme:
    fields = (
        Field("weight_ih", "w_ih", gates, transposed=True),
        Field("weight_hh", "w_hh", gates, transposed=True),
        Field("bias", "b_ih", gates),
        *more,
    )
    return Scheme(cell, fields)


SCHEMES: tuple[Scheme, ...] = (
    _scheme(cells.LSTM, "ifgo"),
    _scheme(cells.GRU, "rzn", Field("bias_n", "b_hh", "n")),
)


def load(source: Any, *, into: nn.Recurrent | None = None, **options: Any) -> nn.Recurrent:
    """Return a layer with the weights of Equinox's cells.

    Args:
      source: the source of one layer, or a list with the source of each layer of a stack. The
        source of a layer is a cell, or a mapping from the names of its arrays to arrays. The source
        of a bidirectional layer is a `seqjax.nn.Bidirectional` of two cells or mappings.
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.Recurrent`.

    Returns:
      A new `seqjax.nn.LSTM` or `GRU`, or `into` if it is given.

    Raises:
      TypeError: `source` is neither a cell nor a mapping.
      ValueError: a name is missing or unknown, an array has a wrong shape, or `into` differs from
        the source in its cell or sizes.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> shapes = {"weight_ih": (20, 3), "weight_hh": (20, 5), "bias": 20}
      >>> layer = load({name: rng.normal(size=shape) for name, shape in shapes.items()})
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('LSTM', (3, 20))
    """
    layers = []
    for index, layer in enumerate(_trees.each_layer(source)):
        before = f"source[{index}]." if type(source) in (list, tuple) else ""
        parts = map(_arrays, _trees.each_direction(layer))
        layers.append([_trees.group(_trees.flatten(part), before) for part in parts])
    return load_layers(SCHEMES, layers, into, options)


def dump(layer: nn.Recurrent) -> list[Any]:
    """Return the weights of a layer in dictionaries with the names that Equinox's cells use.

    Args:
      layer: a `seqjax.nn.LSTM` or `GRU`.

    Returns:
      A list with one entry for each layer of the stack. Each entry is a dictionary of arrays, or a
      `Bidirectional` of two dictionaries. Use `eqx.tree_at` to put the arrays into a cell.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has a cell or an option that Equinox lacks. Equinox lacks the options
        `norm`, `residual`, `zoneout` and a learned initial state.

    Example:
      >>> from flax import nnx
      >>> sorted(dump(nn.GRU(3, 5, rngs=nnx.Rngs(0)))[0])
      ['bias', 'bias_n', 'weight_hh', 'weight_ih']
    """
    dumped = dump_layers("Equinox", SCHEMES, layer)
    return [each[0] if len(each) == 1 else nn.Bidirectional(*each) for each in dumped]


def _arrays(cell: Any) -> Any:
    """Return a mapping from the names of a cell's arrays to the arrays."""
    if hasattr(cell, "weight_ih"):
        names = ("weight_ih", "weight_hh", "bias", "bias_n")
        return {name: getattr(cell, name, None) for name in names}
    if not hasattr(cell, "items"):
        raise TypeError(
            f"source: expected a cell of Equinox or its arrays, got {checks.brief(cell)}"
        )
    return cell
