"""Conversion of weights from and to Flax NNX's cells, `RNN` and `Bidirectional`.

The source is a module or the state of a module.
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from seqjax import cells, checks, nn
from seqjax.interop import _trees
from seqjax.interop._layers import agreed, dump_layers, load_layers
from seqjax.interop._nnx import configuration
from seqjax.interop._schemes import Field, Scheme

__all__ = ["dump", "load"]


def _scheme(cell: type[Any], gates: str, biased: str) -> Scheme:
    """Return the `Scheme` (names and layouts of the weights) of a cell with two dense layers.

    The layer "dense_i" reads the inputs, and the layer "dense_h" reads the state.

    `biased` is "i" if the layer of the inputs has the bias, and "h" if the layer of the state has
    it.
    """
    fields = (
        Field("dense_i/kernel", "w_ih", gates),
        Field("dense_h/kernel", "w_hh", gates),
        Field(f"dense_{biased}/bias", f"b_{biased}h", gates),
    )
    return Scheme(cell, fields, optional_bias=False)


_LSTM_CELL = Scheme(
    cells.LSTM,
    (
        # NNX names the layer `if_`, since `if` is a keyword of Python.
        *(Field(f"i{gate}{'_' * (gate == 'f')}/kernel", "w_ih", gate) for gate in "ifgo"),
        *(Field(f"h{gate}/kernel", "w_hh", gate) for gate in "ifgo"),
        *(Field(f"h{gate}/bias", "b_hh", gate) for gate in "ifgo"),
    ),
    optional_bias=False,
)
SCHEMES: tuple[Scheme, ...] = (
    _scheme(cells.Elman, "h", "i"),
    _scheme(cells.LSTM, "ifgo", "h"),
    _LSTM_CELL,
    _scheme(cells.GRU, "rzn", "i"),
)


def load(
    source: Any, prefix: str = "", *, into: nn.Recurrent | None = None, **options: Any
) -> nn.Recurrent:
    """Return a layer with the weights of NNX's cells.

    The cells are `SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` and `GRUCell`.

    Args:
      source: the source of one layer, or a list with the source of each layer of a stack. The
        source of a layer is a module (a cell, `RNN` or `Bidirectional`), its `nnx.state(module)`,
        or the state as a dictionary. The source of a bidirectional layer can also be a
        `seqjax.nn.Bidirectional` of two sources. Streams of random numbers are ignored.
      prefix: the path to the layer in the source, such as "encoder/rnn".
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.Recurrent`. If the source is a state, pass
        options such as `activation="relu"` or `merge_mode="sum"`, since a state does not contain
        them. If the source is a module, the options of the module are used. If an option other than
        `time_major` contradicts the module, an error is raised.

    Returns:
      A new `seqjax.nn.RNN`, `LSTM` or `GRU`, or `into` if it is given.

    Raises:
      TypeError: `source` is not a module or a mapping.
      ValueError: a name is missing or unknown, an array has a wrong shape, `into` differs from the
        source in its cell or sizes, an option contradicts the module, or our layers cannot compute
        the same as the module. Examples of unsupported modules are `RNN(reverse=True)`, a cell with
        a residual connection, and directions with different options.

    Example:
      >>> peer = nnx.RNN(nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)))
      >>> layer = load(peer)
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('GRU', (3, 15))
    """
    prefix = _trees.require_prefix(prefix).removesuffix("/")
    told: list[dict[str, Any]] = []  # the options that each module states

    def tree(part: Any, *, backward: bool = False) -> Any:
        if isinstance(part, nnx.Module):
            modules = {"/".join(map(str, path)): each for path, each in nnx.iter_modules(part)}
            if prefix in modules:  # otherwise an error is raised when the arrays are read
                told.append(configuration(modules[prefix], backward=backward))
            part = nnx.state(part, nnx.Param)
        return _without_streams(nnx.to_pure_dict(part) if isinstance(part, nnx.State) else part)

    layers = [
        nn.Bidirectional(tree(layer.forward), tree(layer.backward, backward=True))
        if isinstance(layer, nn.Bidirectional)
        else tree(layer)
        for layer in _trees.each_layer(source)
    ]
    many = type(source) in (list, tuple)
    groups = _trees.tree_groups(
        layers if many else layers[0], prefix, SCHEMES, "a module or its state"
    )
    found = agreed(told)
    time_major = found.pop("time_major", False)  # the user may override this option
    if time_major and into is None:
        options.setdefault("time_major", time_major)
    return load_layers(SCHEMES, groups, into, options, found)


def dump(layer: nn.Recurrent, *, optimized: bool = True) -> list[dict[str, Any]]:
    """Return the weights of a layer as the state of NNX's `RNN(cell)` or `Bidirectional`.

    NNX's `GRUCell` does not have the bias b_hn, which the reset gate multiplies, so b_hn of our
    layer must be zero.

    Args:
      layer: a `seqjax.nn.RNN`, `LSTM` or `GRU`. If the layer has no biases, NNX's biases are zeros.
      optimized: whether the weights of an LSTM are for `OptimizedLSTMCell` (True) or for `LSTMCell`
        (False).

    Returns:
      A list with one dictionary for each layer of the stack. Pass each dictionary to
      `nnx.update(module, ...)`.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: b_hn is not zero, or the layer has a cell or an option that NNX lacks. NNX lacks
        the options `norm`, `residual`, `zoneout` and a learned initial state.

    Example:
      >>> (state,) = dump(nn.GRU(3, 5, rngs=nnx.Rngs(0)))
      >>> peer = nnx.RNN(nnx.GRUCell(3, 5, rngs=nnx.Rngs(1)))
      >>> nnx.update(peer, state)
    """
    first = () if checks.require_bool("optimized", optimized) else (_LSTM_CELL,)
    return _trees.layer_trees(dump_layers("NNX", (*first, *SCHEMES), layer))


def _without_streams(tree: Any) -> Any:
    """Return a tree without its streams of random numbers.

    A stream of random numbers is a mapping of a key and a count.
    """
    if not isinstance(tree, Mapping):
        return tree
    return {
        name: _without_streams(part)
        for name, part in tree.items()
        if not (isinstance(part, Mapping) and part.keys() == {"key", "count"})
    }
