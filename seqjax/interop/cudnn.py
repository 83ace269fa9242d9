"""Conversion of weights from and to cuDNN's LSTM.

The weights are one array in the layout of `jax.experimental.rnn`.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import cells, checks, nn
from seqjax.interop import _trees, pytorch
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Group, Sizes
from seqjax.kernels._cudnn import flat_weights

__all__ = ["dump", "load"]

# The matrices and biases are arranged as in PyTorch, which uses cuDNN's arrangement.
SCHEMES = tuple(scheme for scheme in pytorch.SCHEMES if scheme.cell is cells.LSTM)


def load(
    source: Any,
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    """Return an LSTM with the weights of cuDNN's LSTM.

    The array contains W_ih and W_hh of all layers and directions, followed by b_ih and b_hh of all
    layers and directions. In each layer, the forward direction comes before the backward direction.
    Our bias is the sum of b_ih and b_hh.

    Args:
      source: the weights, a floating-point array `[N]`.
      input_size: the number of input features, I.
      hidden_size: the number of hidden units, H.
      num_layers: the number of layers of the stack.
      bidirectional: whether each layer has two directions.
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.Recurrent`.

    Returns:
      A new `seqjax.nn.LSTM`, or `into` if it is given.

    Raises:
      ValueError: the length of the array does not fit the sizes, `into` has other sizes, or
        `merge_mode` is not "concat".

    Example:
      >>> from jax.experimental import rnn
      >>> import jax
      >>> weights = rnn.init_lstm_weight(jax.random.key(0), 3, 5, 2, True)
      >>> layer = load(weights, 3, 5, num_layers=2, bidirectional=True)
      >>> layer.layers[1].backward.w_ih.shape
      (10, 20)
    """
    sizes = [checks.require_integer("input_size", input_size)]
    hidden = checks.require_integer("hidden_size", hidden_size)
    directions = 2 if checks.require_bool("bidirectional", bidirectional) else 1
    sizes += [directions * hidden] * (checks.require_integer("num_layers", num_layers) - 1)
    (scheme,) = SCHEMES
    shapes = [
        (index, field.key, field.shape(Sizes(sizes[index // directions], hidden, hidden)))
        for bias in (False, True)
        for index in range(directions * len(sizes))
        for field in scheme.fields
        if field.is_bias == bias
    ]
    flat, total = _trees.array(source, "source"), sum(math.prod(shape) for *_, shape in shapes)
    if np.shape(flat) != (total,):
        raise ValueError(f"source: expected the shape {(total,)}, got {np.shape(flat)}")
    arrays: list[dict[str, Any]] = [{} for _ in range(directions * len(sizes))]
    start = 0
    for index, key, shape in shapes:
        arrays[index][key] = flat[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    groups = [Group(each, f"weights {index}: ") for index, each in enumerate(arrays)]
    layers = [groups[i : i + directions] for i in range(0, len(groups), directions)]
    found = {"merge_mode": "concat"} if directions == 2 else {}
    return load_layers(SCHEMES, layers, into, options, found)


def dump(layer: nn.Recurrent) -> Any:
    """Return the weights of an LSTM as one array in cuDNN's layout.

    The first of cuDNN's two biases is our bias, and the second bias is zero.

    Args:
      layer: a `seqjax.nn.LSTM` without projection.

    Returns:
      The weights for `jax.experimental.rnn.lstm`, an array `[N]`.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has another cell, or an option that cuDNN lacks: `norm`, `residual`,
        `zoneout`, a learned initial state, or a `merge_mode` other than "concat".

    Example:
      >>> from flax import nnx
      >>> dump(nn.LSTM(3, 5, rngs=nnx.Rngs(0))).shape
      (200,)
    """
    dump_layers("cuDNN", SCHEMES, layer, concat=True)  # called only to check the layer
    sides = [(each.forward, each.backward) for each in layer.layers]
    flats = [flat_weights(d.params) for pair in sides for d in pair if d is not None]
    biases = 8 * layer.cell.hidden_size  # two biases of four gates, at the end of each array
    return jnp.concatenate([flat[:-biases] for flat in flats] + [flat[-biases:] for flat in flats])
