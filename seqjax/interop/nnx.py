"""Weights from and to Flax NNX: its cells, `RNN` and `Bidirectional`, as modules or their state."""

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
    """Return the scheme of a cell: a dense layer for each product, with a bias for "i" or "h"."""
    fields = (
        Field("dense_i/kernel", "w_ih", gates),
        Field("dense_h/kernel", "w_hh", gates),
        Field(f"dense_{biased}/bias", f"b_{biased}h", gates),
    )
    return Scheme(cell, fields, optional_bias=False)


_LSTM_CELL = Scheme(
    cells.LSTM,
    (
        # `if` cannot be an attribute.
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
      source: a module, its `nnx.state(module)`, or that as a dictionary: of a cell, of `RNN` or of
        `Bidirectional`, whose random-number streams are left out; a `seqjax.nn.Bidirectional` of
        two; or a list of these, one for each layer of a stack.
      prefix: the path to the layer in the source, such as "encoder/rnn".
      into: the layer to fill; a new one if None.
      **options: of a new layer, such as `activation="relu"` or `merge_mode="sum"`, which a state
        does not tell; a module tells them itself, and `time_major`. See `seqjax.nn.Recurrent`.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      TypeError: not a module or a mapping.
      ValueError: a name is missing or unknown, an array has a wrong shape, or `into` is of another
        kind or size; a module that does what ours do not, such as `RNN(reverse=True)`, a cell
        with a residual connection, or directions that are not alike; or an option against it.

    Example:
      >>> peer = nnx.RNN(nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)))
      >>> layer = load(peer)
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('GRU', (3, 15))
    """
    prefix = _trees.require_prefix(prefix).removesuffix("/")
    told: list[dict[str, Any]] = []  # by each module

    def tree(part: Any, *, backward: bool = False) -> Any:
        if isinstance(part, nnx.Module):
            modules = {"/".join(map(str, path)): each for path, each in nnx.iter_modules(part)}
            if prefix in modules:  # else what reads the arrays says so
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
    time_major = found.pop("time_major", False)  # a layout, which is the user's to choose
    if time_major and into is None:
        options.setdefault("time_major", time_major)
    return load_layers(SCHEMES, groups, into, options, found)


def dump(layer: nn.Recurrent, *, optimized: bool = True) -> list[dict[str, Any]]:
    """Return the weights of a layer as NNX's `RNN(cell)` has them, or `Bidirectional` of two.

    NNX's `GRUCell` has no bias b_hn inside the reset gate's product: ours must be zero there.

    Args:
      layer: a `seqjax.nn.RNN`, `LSTM` or `GRU`; where it has no biases, NNX's are zeros.
      optimized: whether an LSTM is for `OptimizedLSTMCell`, or for `LSTMCell`.

    Returns:
      For each layer of the stack a dictionary that `nnx.update(module, ...)` takes.

    Raises:
      TypeError: not a layer.
      ValueError: a cell that NNX does not have, a b_hn other than zero, or what else the weights do
        not tell: `norm`, `residual`, `zoneout`, a learned initial state.

    Example:
      >>> (state,) = dump(nn.GRU(3, 5, rngs=nnx.Rngs(0)))
      >>> peer = nnx.RNN(nnx.GRUCell(3, 5, rngs=nnx.Rngs(1)))
      >>> nnx.update(peer, state)
    """
    first = () if checks.require_bool("optimized", optimized) else (_LSTM_CELL,)
    return _trees.layer_trees(dump_layers("NNX", (*first, *SCHEMES), layer))


def _without_streams(tree: Any) -> Any:
    """Return a tree without the random-number streams of modules (a key and a count each)."""
    if not isinstance(tree, Mapping):
        return tree
    return {
        name: _without_streams(part)
        for name, part in tree.items()
        if not (isinstance(part, Mapping) and part.keys() == {"key", "count"})
    }
