"""Weights from and to Flax NNX: its cells, `RNN` and `Bidirectional`, as modules or their state."""

from typing import Any

from flax import nnx

from seqjax import cells, checks, nn
from seqjax.cells.ops import ACTIVATIONS
from seqjax.interop import _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Scheme

__all__ = ["dump", "load"]


def _scheme(cell: type[Any], gates: str, biased: str) -> Scheme:
    """One dense layer for each product; `biased` says which has a bias: "i" or "h"."""
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
    """A layer with the weights of NNX's `SimpleCell`, `LSTMCell`, `OptimizedLSTMCell`, `GRUCell`.

    Args:
      source: a module, its `nnx.state(module, nnx.Param)`, or that as a dictionary: of a cell, of
        `RNN` or of `Bidirectional`; a `seqjax.nn.Bidirectional` of two; or a list of these, one for
        each layer of a stack.
      prefix: the path to the layer in the source, such as "encoder/rnn".
      into: the layer to fill; a new one if None.
      **options: of a new layer, such as `activation="relu"`, which a state does not tell, or
        `merge_mode="sum"`; see `seqjax.nn.Recurrent`.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      TypeError: not a module or a mapping.
      ValueError: a name is missing or unknown, an array has a wrong shape, or `into` is of another
        kind or size; a cell with a residual connection or other activations than ours.

    Example:
      >>> peer = nnx.RNN(nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)))
      >>> layer = load(peer)
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('GRU', (3, 15))
    """
    found: dict[str, Any] = {}

    def tree(part: Any) -> Any:
        if isinstance(part, nnx.Module):
            for path, module in nnx.iter_modules(part):
                if "/".join(map(str, path)).startswith(prefix):
                    found.update(_configuration(module))
            part = nnx.state(part, nnx.Param)
        return nnx.to_pure_dict(part) if isinstance(part, nnx.State) else part

    layers = [
        nn.Bidirectional(*map(tree, layer)) if isinstance(layer, nn.Bidirectional) else tree(layer)
        for layer in _trees.each_layer(source)
    ]
    many = type(source) in (list, tuple)
    groups = _trees.tree_groups(layers if many else layers[0], prefix, "a module or its state")
    return load_layers(SCHEMES, groups, into, options, found)


def dump(layer: nn.Recurrent, *, optimized: bool = True) -> list[dict[str, Any]]:
    """The weights of a layer as NNX's `RNN(cell)` has them, or `Bidirectional` of two.

    NNX's `GRUCell` has no bias b_hn inside the reset gate's product: ours must be zero there.

    Args:
      layer: a `seqjax.nn.RNN`, `LSTM` or `GRU`; where it has no biases, NNX's are zeros.
      optimized: whether an LSTM is for `OptimizedLSTMCell`, or for `LSTMCell`.

    Returns:
      For each layer of the stack a dictionary that `nnx.update(module, ...)` takes.

    Raises:
      TypeError: not a layer.
      ValueError: a cell that NNX does not have, a b_hn other than zero, or what else the weights do
        not tell: `norm`, `residual`, a learned initial state.

    Example:
      >>> (state,) = dump(nn.GRU(3, 5, rngs=nnx.Rngs(0)))
      >>> peer = nnx.RNN(nnx.GRUCell(3, 5, rngs=nnx.Rngs(1)))
      >>> nnx.update(peer, state)
    """
    first = () if checks.require_bool("optimized", optimized) else (_LSTM_CELL,)
    return _trees.layer_trees(dump_layers("NNX", (*first, *SCHEMES), layer))


def _configuration(module: Any) -> dict[str, Any]:
    """What a cell says of itself besides its weights, as our options."""
    if not isinstance(module, nnx.RNNCellBase):
        return {}
    if isinstance(module, nnx.SimpleCell):
        if module.residual:
            raise ValueError("source: expected a SimpleCell without residual, got one with it")
        name = getattr(module.activation_fn, "__name__", "")
        return {"activation": name if name in ACTIVATIONS else module.activation_fn}
    expected = {"gate_fn": "sigmoid", "activation_fn": "tanh"}
    for attribute, name in expected.items():
        function = getattr(module, attribute, None)
        if function is not None and getattr(function, "__name__", "") != name:
            raise ValueError(f"source: expected {attribute} to be {name}, got {function}")
    return {}
