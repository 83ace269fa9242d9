"""Weights from and to Flax Linen: its cells, `RNN` and `Bidirectional`, as trees of variables."""

from collections.abc import Mapping
from typing import Any

from seqjax import cells, nn
from seqjax.interop import _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Scheme

__all__ = ["dump", "load"]


def _fields(gates: str, biased: str) -> tuple[Field, ...]:
    """Return a dense layer for each product and gate; product `biased` ("i" or "h") has biases."""
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

    Variables are only arrays. `SimpleCell(residual=True)`, which our layers do not compute, has the
    same variables as a cell without `residual`, and `RNN(reverse=True)` the same as a forward one.

    Args:
      source: variables, `{"params": ...}`, or the parameters alone: of a cell, of `RNN`, or of
        `Bidirectional`; a `seqjax.nn.Bidirectional` of two trees; or a list of these, one for each
        layer of a stack.
      prefix: the path to the layer in the tree, such as "encoder/RNN_0".
      into: the layer to fill; a new one if None.
      **options: of a new layer, such as `activation="relu"` or `merge_mode="sum"`, which the tree
        does not tell; see `seqjax.nn.Recurrent`.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      TypeError: not a mapping.
      ValueError: a name is missing or unknown, an array has a wrong shape, or `into` is of another
        kind or size; an `MGUCell`, whose equations are not those of our `MGU`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen
      >>> peer = linen.RNN(linen.GRUCell(5))
      >>> layer = load(peer.init(jax.random.key(0), jnp.ones([2, 7, 3])))
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('GRU', (3, 15))
    """

    def params(tree: Any) -> Any:
        return tree["params"] if isinstance(tree, Mapping) and "params" in tree else tree

    layers = [
        nn.Bidirectional(*map(params, layer))
        if isinstance(layer, nn.Bidirectional)
        else params(layer)
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
    """Return the weights of a layer as Linen's `RNN(cell)` has them, or `Bidirectional` of two.

    Args:
      layer: a `seqjax.nn.RNN`, `LSTM` or `GRU`; where it has no biases, Linen's are zeros.

    Returns:
      For each layer of the stack its variables, `{"params": {"cell": ...}}`. `LSTMCell` and
      `OptimizedLSTMCell` have the same.

    Raises:
      TypeError: not a layer.
      ValueError: a cell that Linen does not have, or what else the weights do not tell: `norm`,
        `residual`, `zoneout`, a learned initial state.

    Example:
      >>> from flax import nnx
      >>> (variables,) = dump(nn.GRU(3, 5, rngs=nnx.Rngs(0)))
      >>> sorted(variables["params"]["cell"]["hn"])
      ['bias', 'kernel']
    """
    return [{"params": tree} for tree in _trees.layer_trees(dump_layers("Linen", SCHEMES, layer))]
