"""Weights from and to Haiku: `VanillaRNN`, `LSTM` and `GRU`, as the parameters of a transform."""

import re
from collections.abc import Mapping
from typing import Any

from seqjax import cells, checks, nn
from seqjax.interop import _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Group, Scheme

__all__ = ["dump", "load"]

_RNN = (
    Field("linear/w", "w_ih", "h"),
    Field("linear_1/w", "w_hh", "h"),
    Field("linear/b", "b_ih", "h"),
)
SCHEMES: tuple[Scheme, ...] = (
    Scheme(
        cells.LSTM,
        (Field("linear/w", "w_ih w_hh", "igfo"), Field("linear/b", "b_ih", "igfo")),
        optional_bias=False,
        forget_bias=1.0,
    ),
    # Its z is how much of the candidate is taken; ours, how much of the state is kept.
    Scheme(
        cells.ChoGRU,
        (Field("w_i", "w_ih", "zrn"), Field("w_h", "w_hh", "zrn"), Field("b", "b_ih", "zrn")),
        optional_bias=False,
        negated="z",
    ),
    Scheme(
        cells.Elman,
        (*_RNN, Field("linear_1/b", "b_hh", "h")),
        optional_bias=False,
        activations=("relu",),
    ),
    Scheme(cells.Elman, _RNN, optional_bias=False, activations=("relu",)),  # double_bias=False
)
# The names that Haiku gives to its cores.
_NAMES = {cells.LSTM: "lstm", cells.ChoGRU: "gru", cells.Elman: "vanilla_rnn"}


def load(
    source: Mapping[str, Any],
    prefix: str = "",
    *,
    bidirectional: bool = False,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    """A layer with the weights of Haiku's cores.

    Haiku's LSTM adds 1 to the forget gate, which our bias then contains; its GRU applies the reset
    gate before the product, as our `GRU(reset_after=False)`; its `VanillaRNN` has relu units.

    Args:
      source: the parameters, `{"lstm/linear": {"w": ..., "b": ...}}`.
      prefix: the name of the core, such as "agent/~/lstm", by default Haiku's own: "lstm", "gru" or
        "vanilla_rnn". Cores that are numbered on from there, "lstm_1" and so on, are the following
        layers.
      bidirectional: whether each layer has two of the cores, the forward one first.
      into: the layer to fill; a new one if None.
      **options: of a new layer; see `seqjax.nn.Recurrent`.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      TypeError: not a mapping.
      ValueError: a name or a number is missing or unknown, an array has a wrong shape, or `into`
        is of another kind or size.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> params = {"lstm/linear": {"w": rng.normal(size=(8, 20)), "b": rng.normal(size=20)}}
      >>> layer = load(params)
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('LSTM', (3, 20))
    """
    flat = _trees.flatten(_trees.require_mapping(source, "Haiku's parameters"))
    prefix = _trees.require_prefix(prefix).removesuffix("/")
    if not prefix:
        names = [n for n in _NAMES.values() if any(key.startswith(n + "/") for key in flat)]
        if len(names) != 1:
            raise ValueError(
                f"prefix: expected the name of a core, such as one of {', '.join(sorted(source))}"
            )
        (prefix,) = names
    cores = [Group(_trees.under(flat, prefix), prefix + "/")]
    number = re.compile(re.escape(prefix) + r"_([1-9]\d*)/")
    numbers = {int(match[1]) for match in map(number.match, flat) if match}
    for index in range(1, max(numbers, default=0) + 1):
        name = f"{prefix}_{index}"
        if index not in numbers:
            raise ValueError(
                f"source: expected {name}, as there is {prefix}_{max(numbers)}; it is missing"
            )
        cores.append(Group(_trees.under(flat, name), name + "/"))
    size = 2 if checks.require_bool("bidirectional", bidirectional) else 1
    if len(cores) % size:
        raise ValueError(f"source: expected an even number of cores, got {len(cores)}")
    layers = [cores[i : i + size] for i in range(0, len(cores), size)]
    return load_layers(SCHEMES, layers, into, options)


def dump(layer: nn.Recurrent, prefix: str = "") -> dict[str, dict[str, Any]]:
    """The weights of a layer as Haiku's cores have them.

    Args:
      layer: a `seqjax.nn.RNN` with relu, `LSTM`, or `GRU` with `reset_after=False`; where it has no
        biases, Haiku's have their effect.
      prefix: the name of the first core; Haiku's own if it is not given.

    Returns:
      The parameters, by the names of modules: further layers, and the backward directions behind
      their forward ones, are numbered on, "lstm_1" and so on.

    Raises:
      TypeError: not a layer.
      ValueError: a cell that Haiku does not have, or what else the weights do not tell: `norm`,
        `residual`, `zoneout`, a learned initial state.

    Example:
      >>> from flax import nnx
      >>> sorted(dump(nn.LSTM(3, 5, num_layers=2, rngs=nnx.Rngs(0))))
      ['lstm/linear', 'lstm_1/linear']
    """
    cores = [core for directions in dump_layers("Haiku", SCHEMES, layer) for core in directions]
    prefix = _trees.require_prefix(prefix).removesuffix("/") or _NAMES[type(layer.cell)]
    params: dict[str, dict[str, Any]] = {}
    for index, core in enumerate(cores):
        for key, array in core.items():
            module, _, name = f"{prefix}{f'_{index}' * (index > 0)}/{key}".rpartition("/")
            params.setdefault(module, {})[name] = array
    return params
