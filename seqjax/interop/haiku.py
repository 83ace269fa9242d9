"""Weights from and to Haiku: `VanillaRNN`, `LSTM` and `GRU`, as the parameters of a transform."""

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
    num_layers: int | None = None,
    bidirectional: bool | None = None,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    """Return a layer with the weights of Haiku's cores.

    Haiku's LSTM adds 1 to the forget gate, which our bias then contains; its GRU applies the reset
    gate before the product, as our `GRU(reset_after=False)`; its `VanillaRNN` has relu units.

    Haiku numbers the cores of one name: "lstm", "lstm_1", "lstm_2". The names do not tell whether
    these are the layers of a stack, or an encoder and a decoder. So one core is loaded unless
    `num_layers` or `bidirectional` asks for more.

    Args:
      source: the parameters, `{"lstm/linear": {"w": ..., "b": ...}}`.
      prefix: the name of the first core, such as "agent/~/lstm" or "lstm_1". It may be left out if
        the parameters have no other cores than the ones to load, under Haiku's own names: "lstm",
        "gru" or "vanilla_rnn".
      num_layers: layers of the stack; as many as `into` has if None, and 1 without `into`. The
        cores are numbered on from the first one.
      bidirectional: whether each layer has two of the cores, the forward one first; if None, as in
        `into`, and False without `into`.
      into: the layer to fill; a new one if None.
      **options: of a new layer; see `seqjax.nn.Recurrent`.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      TypeError: not a mapping.
      ValueError: a name or a number is missing or unknown, several cores without a choice, an array
        has a wrong shape, or `into` is of another kind or size.

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
                f"source: expected the core {name}, got {', '.join(list(source)[:6])}; it is "
                f"missing{_trees.choices(_cores(flat))}"
            )
    groups = [_trees.group(_trees.under(flat, name), name + "/") for name in names]
    pairs = [groups[i : i + size] for i in range(0, len(groups), size)]
    # If arrays of a core are missing, the rest may fit another kind; the core's name decides.
    own = [c for c, n in _NAMES.items() if re.fullmatch(rf"(.*/)?{n}(_\d+)?", prefix)]
    schemes = [scheme for scheme in SCHEMES if not own or scheme.cell in own]
    return load_layers(schemes, pairs, into, options)


def dump(layer: nn.Recurrent, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return the weights of a layer as Haiku's cores have them.

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
    """Return the names of Haiku's cores: "lstm", "lstm_1", or from "lstm_3" on "lstm_4"."""
    match = re.fullmatch(r"(.*)_([1-9]\d*)", first)
    name, start = (match[1], int(match[2])) if match else (first, 0)
    return [first] + [f"{name}_{start + index}" for index in range(1, count)]


def _cores(flat: Mapping[str, Any]) -> list[str]:
    """Return the cores in the parameters that have one of Haiku's own names."""
    own = re.compile(rf"(.*/)?({'|'.join(_NAMES.values())})(_\d+)?")
    return sorted(filter(own.fullmatch, _trees.layers_in(flat, SCHEMES)))


def _only(flat: Mapping[str, Any], count: int) -> str:
    """Return the name of the first core, if the parameters have as many cores as are asked for."""
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
            "if they are the layers of a stack, pass num_layers=, and for pairs of directions "
            "bidirectional=True"
        )
    return own[0]
