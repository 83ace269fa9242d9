"""Conversion of weights from and to Flax Linen's cells, `RNN` and `Bidirectional`.

The weights are trees of variables.
"""

from typing import Any

from seqjax import cells, nn
from seqjax.interop import _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Scheme

__all__ = ["dump", "load"]


def _fields(gates: str, biased: str) -> tuple[Field, ...]:
    """Return the fields of a cell that has one dense layer for each product and gate.

    `biased` is "i" if the dense layers of the inputs have the biases, or "h" if those of the state
    have them.
    """
    return (
        *(Field(f"i{gate}/kernel", "w_ih", gate) for gate in gates),
        *(Field(f"h{gate}/kernel", "w_hh", gate) for gate in gates),
        *(Field(f"{biased}{gate}/bias", f"b_{biased}h", gate) for gate in gates),
    )


SCHEMES: tuple[Scheme, ...] = (
    Scheme(
        cells.Elman,
        (
            Field("i/kernel", "w_ih", "h"),
            Field("h/kernel", "w_hh", "h"),
            Field("i/bias", "b_ih", "h"),
        ),
        optional_bias=False,
    ),
    Scheme(cells.LSTM, _fields("ifgo", "h"), optional_bias=False),
    Scheme(cells.GRU, (*_fields("rzn", "i"), Field("hn/bias", "b_hh", "n")), optional_bias=False),
)


def load(
    source: Any, prefix: str = "", *, into: nn.Recurrent | None = None, **options: Any
) -> nn.Recurrent:
    """Return a layer with the weights of Linen's cells.

    The cells are `SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` and `GRUCell`.

    Variables are only arrays, so two unsupported configurations cannot be detected.
    `SimpleCell(residual=True)` has the same variables as a cell without `residual`.
    `RNN(reverse=True)` has the same variables as an `RNN` that runs forward.

    Args:
      source: the source of one layer, or a list with the source of each layer of a stack. The
        source of a layer is the variables `{"params": ...}` of a cell, an `RNN` or a
        `Bidirectional`, or only the tree under "params". The source of a bidirectional layer can
        also be a `seqjax.nn.Bidirectional` of two trees.
      prefix: the path to the layer in the tree, such as "encoder/RNN_0".
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer that the tree does not contain, such as `activation="relu"`
        or `merge_mode="sum"`; see `seqjax.nn.Recurrent`.

    Returns:
      A new `seqjax.nn.RNN`, `LSTM` or `GRU`, or `into` if it is given.

    Raises:
      TypeError: `source` is not a mapping.
      ValueError: a name is missing or unknown, an array has a wrong shape, `into` differs from the
        source in its cell or sizes, or the cell is an `MGUCell`, whose equations differ from those
        of our `MGU`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen
      >>> peer = linen.RNN(linen.GRUCell(5))
      >>> layer = load(peer.init(jax.random.key(0), jnp.ones([2, 7, 3])))
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('GRU', (3, 15))
    """
    layers = [
        nn.Bidirectional(*map(_trees.params_of, layer))
        if isinstance(layer, nn.Bidirectional)
        else _trees.params_of(layer)
        for layer in _trees.each_layer(source)
    ]
    many = type(source) in (list, tuple)
    groups = _trees.tree_groups(
        layers if many else layers[0], prefix, SCHEMES, "a tree of variables"
    )
    for group in (group for directions in groups for group in directions):
        if {"if/bias", "hn/kernel"} <= group.arrays.keys():
            raise ValueError(
                f"{group.name('hf/kernel')}: expected a cell that seqjax has, got an MGUCell, "
                "which applies its gate after the recurrent product; cells.MGU applies it before"
            )
    return load_layers(SCHEMES, groups, into, options)


def dump(layer: nn.Recurrent) -> list[dict[str, Any]]:
    """Return the weights of a layer as variables of Linen's `RNN(cell)` or `Bidirectional`.

    Args:
      layer: a `seqjax.nn.RNN`, `LSTM` or `GRU`. If the layer has no biases, Linen's biases are
        zeros.

    Returns:
      A list with the variables of each layer of the stack. The variables of an `RNN` are
      `{"params": {"cell": ...}}`. `LSTMCell` and `OptimizedLSTMCell` have the same variables.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has a cell or an option that Linen lacks. Linen lacks the options
        `norm`, `residual`, `zoneout` and a learned initial state.

    Example:
      >>> from flax import nnx
      >>> (variables,) = dump(nn.GRU(3, 5, rngs=nnx.Rngs(0)))
      >>> sorted(variables["params"]["cell"]["hn"])
      ['bias', 'kernel']
    """
    return [{"params": tree} for tree in _trees.layer_trees(dump_layers("Linen", SCHEMES, layer))]
