"""Conversion of weights from and to Haiku's cores `VanillaRNN`, `LSTM` and `GRU`."""

import re
from collections.abc import Mapping
from typing import Any

from seqjax import cells, checks, nn
from seqjax.interop import _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Scheme

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
    # Haiku's z is the weight of the candidate; our z is the weight of the previous state.
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
    num_layers: int | None = None,
    bidirectional: bool | None = None,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    """Return a layer with the weights of Haiku's cores.

    Haiku's LSTM adds 1 to the forget gate. Our bias includes this 1. Haiku's GRU applies the reset
    gate before the recurrent product, like our `GRU(reset_after=False)`. Haiku's `VanillaRNN` has
    the activation relu.

    Haiku numbers cores of the same name: "lstm", "lstm_1", "lstm_2". The names do not show whether
    these cores are the layers of a stack, or for example an encoder and a decoder. By default one
    core is loaded. To load several cores, pass `num_layers`, `bidirectional` or `into`.

    Args:
      source: the parameters, a dict such as `{"lstm/linear": {"w": ..., "b": ...}}`.
      prefix: the name of the first core, such as "agent/~/lstm" or "lstm_1". The prefix may be
        omitted if the source has only the cores to load, with Haiku's default names "lstm", "gru"
        or "vanilla_rnn".
      num_layers: the number of layers of the stack. The default is the number of layers of `into`,
        or 1 if `into` is None. The names of further cores have the next numbers, such as "lstm_1"
        after "lstm".
      bidirectional: whether each layer has two cores, the forward core and then the backward core.
        The default is the value of `into`, or False if `into` is None.
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.Recurrent`.

    Returns:
      A new `seqjax.nn.RNN`, `LSTM` or `GRU`, or `into` if it is given.

    Raises:
      TypeError: `source` is not a mapping.
      ValueError: a name or a core is missing or unknown; `prefix` is omitted, but the source has
        more cores than are loaded; an array has a wrong shape; or `into` differs from the source in
        its cell or sizes.

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
    filled = into if isinstance(into, nn.Recurrent) else None
    if num_layers is None:
        num_layers = filled.num_layers if filled else 1
    if bidirectional is None:
        bidirectional = filled.bidirectional if filled else False
    layers = checks.require_integer("num_layers", num_layers)
    size = 2 if checks.require_bool("bidirectional", bidirectional) else 1
    if not prefix:
        prefix = _only(flat, size * layers)
    names = _numbered(prefix, size * layers)
    for name in names:
        if not any(key.startswith(name + "/") for key in flat):
            raise ValueError(
                f"source: expected the core {name}, got {', '.join(list(source)[:6])}"
                f"{_trees.choices(_cores(flat))}"
            )
    groups = [_trees.group(_trees.under(flat, name), name + "/") for name in names]
    pairs = [groups[i : i + size] for i in range(0, len(groups), size)]
    # If some arrays of a core are missing, the other arrays may fit another kind of core. So the
    # name of the core decides which kinds are tried.
    own = [c for c, n in _NAMES.items() if re.fullmatch(rf"(.*/)?{n}(_\d+)?", prefix)]
    schemes = [scheme for scheme in SCHEMES if not own or scheme.cell in own]
    return load_layers(schemes, pairs, into, options)


def dump(layer: nn.Recurrent, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return the weights of a layer as parameters of Haiku's cores.

    Args:
      layer: a `seqjax.nn.RNN` with relu, an `LSTM`, or a `GRU` with `reset_after=False`. If the
        layer has no biases, the biases of the cores are chosen so that they have no effect.
      prefix: the name of the first core. The default is the name that Haiku gives the core.

    Returns:
      A dict from the names of modules to their parameters. The cores after the first one have
      numbers, such as "lstm_1". A backward core follows its forward core.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has a cell or an option that Haiku lacks. Haiku lacks the options
        `norm`, `residual`, `zoneout` and a learned initial state.

    Example:
      >>> from flax import nnx
      >>> params = dump(nn.LSTM(3, 5, num_layers=2, rngs=nnx.Rngs(0)))
      >>> sorted(params)
      ['lstm/linear', 'lstm_1/linear']
      >>> load(params, num_layers=2).num_layers
      2
    """
    cores = [core for directions in dump_layers("Haiku", SCHEMES, layer) for core in directions]
    prefix = _trees.require_prefix(prefix).removesuffix("/") or _NAMES[type(layer.cell)]
    params: dict[str, dict[str, Any]] = {}
    for core_name, core in zip(_numbered(prefix, len(cores)), cores, strict=True):
        for key, array in core.items():
            module, _, name = f"{core_name}/{key}".rpartition("/")
            params.setdefault(module, {})[name] = array
    return params


def _numbered(first: str, count: int) -> list[str]:
    """Return the names of `count` cores: "lstm", "lstm_1", … if `first` is "lstm"."""
    match = re.fullmatch(r"(.*)_([1-9]\d*)", first)
    name, start = (match[1], int(match[2])) if match else (first, 0)
    return [first] + [f"{name}_{start + index}" for index in range(1, count)]


def _cores(flat: Mapping[str, Any]) -> list[str]:
    """Return the names of the cores in the parameters that have Haiku's default names."""
    own = re.compile(rf"(.*/)?({'|'.join(_NAMES.values())})(_\d+)?")
    return sorted(filter(own.fullmatch, _trees.layers_in(flat, SCHEMES)))


def _only(flat: Mapping[str, Any], count: int) -> str:
    """Return the name of the first core, or raise if there are more than `count` cores."""
    own = [name for name in _NAMES.values() if any(key.startswith(name + "/") for key in flat)]
    cores = _cores(flat)
    if len(own) != 1:
        raise ValueError(
            f"prefix: expected the name of a core, got '' and {', '.join(list(flat)[:6])}"
            + _trees.choices(cores)
        )
    if len(cores) > count:
        raise ValueError(
            f"prefix: ambiguous, got '' and the cores {', '.join(cores)}{_trees.choices(cores)}; "
            "if they are the layers of a stack, pass num_layers=; if they are pairs of directions, "
            "pass bidirectional=True"
        )
    return own[0]
