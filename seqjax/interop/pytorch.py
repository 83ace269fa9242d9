"""Weights from and to PyTorch: `nn.RNN`, `nn.LSTM`, `nn.GRU` and their cells, as a state dict.

PyTorch itself is not needed: the arrays may be tensors, or of NumPy or JAX, or in a file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqjax import cells, nn
from seqjax._files import local_path
from seqjax.interop import _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Group, Scheme

__all__ = ["dump", "load"]


def _scheme(cell: type[Any], gates: str, *more: Field, activations: tuple[str, ...] = ()) -> Scheme:
    fields = (
        Field("weight_ih", "w_ih", gates, transposed=True),
        Field("weight_hh", "w_hh", gates, transposed=True),
        *more,
        Field("bias_ih", "b_ih", gates),
        Field("bias_hh", "b_hh", gates),
    )
    return Scheme(cell, fields, activations=activations)


SCHEMES: tuple[Scheme, ...] = (
    _scheme(cells.Elman, "h", activations=("tanh", "relu")),
    _scheme(cells.LSTM, "ifgo"),
    _scheme(cells.ProjectedLSTM, "ifgo", Field("weight_hr", "w_hr", transposed=True)),
    _scheme(cells.GRU, "rzn"),
)
_NAME = re.compile(
    r"(?P<key>(?:weight|bias)_(?:ih|hh|hr))(?P<suffix>(?:_l(?P<layer>\d+)(?:_reverse)?)?)"
)


def load(
    source: Mapping[str, Any] | str | Path,
    prefix: str = "",
    *,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    r"""A layer with the weights of PyTorch's.

    Sizes, layers, directions, the projection and the kind of cell follow from names and shapes.
    PyTorch has two biases, b_ih and b_hh, where one is enough: ours is their sum, but for the b_hn
    of a GRU, which the reset gate multiplies.

    Args:
      source: a state dict, from names to arrays or tensors, such as `module.state_dict()`; or the
        path of a file `.safetensors`.
      prefix: what the names begin with, such as "encoder.rnn"; names without it are left alone.
      into: the layer to fill; a new one if None.
      **options: of a new layer, such as `activation="relu"` (which a state dict does not tell) or
        `dropout=0.1`; see `seqjax.nn.Recurrent`.

    Returns:
      A `seqjax.nn.RNN`, `LSTM` or `GRU`; or `into`.

    Raises:
      TypeError: not a mapping or a path.
      ValueError: a name is missing or unknown, an array has a wrong shape, or `into` is of another
        kind or size, the message has the name; an option that follows from the source, such as
        `num_layers`, or a `merge_mode` other than "concat"; a file that cannot be read.
      ImportError: a file, and safetensors is not installed.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> shapes = {"weight_ih_l0": (20, 3), "weight_hh_l0": (20, 5)}
      >>> layer = load({f"rnn.{name}": rng.normal(size=s) for name, s in shapes.items()}, "rnn")
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('LSTM', (3, 20))
    """
    prefix = _trees.require_prefix(prefix) and prefix.removesuffix(".") + "."
    arrays = _trees.under(_state_dict(source, prefix), prefix, ".")
    groups: dict[str, dict[str, Any]] = {}
    last, bidirectional = -1, False
    for name, value in arrays.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{prefix}{name}: expected names such as {prefix}weight_ih_l0; which part of a "
                "model to load is said by prefix="
            )
        groups.setdefault(match["suffix"], {})[match["key"]] = _trees.array(value, prefix + name)
        last = max(last, int(match["layer"] or -1))
        bidirectional |= match["suffix"].endswith("_reverse")
    layers = [[f"_l{i}", f"_l{i}_reverse"][: 1 + bidirectional] for i in range(last + 1)] or [[""]]
    if last >= 0 and "" in groups:
        raise ValueError(f"{prefix}{next(iter(groups['']))}: expected a name that ends in _l0")
    return load_layers(
        SCHEMES,
        [[Group(groups.get(suffix, {}), prefix, suffix) for suffix in each] for each in layers],
        into,
        options,
        {"merge_mode": "concat"} if bidirectional else {},
    )


def dump(layer: nn.Recurrent, prefix: str = "") -> dict[str, Any]:
    """The weights of a layer as PyTorch's state dict has them.

    Of PyTorch's two biases, `bias_ih` gets ours; `bias_hh` gets zeros and, in a GRU, b_hn.

    Args:
      layer: a `seqjax.nn.RNN` with tanh or relu, `LSTM`, or `GRU`.
      prefix: put in front of the names.

    Returns:
      Arrays of NumPy by PyTorch's names. `{name: torch.from_numpy(a)}` is a state dict, but of
      bfloat16, which `from_numpy` does not take: `torch.from_numpy(a.astype("float32"))` then.
      `safetensors.numpy.save_file` writes a file of any dtype.

    Raises:
      TypeError: not a layer.
      ValueError: a cell that PyTorch does not have, such as the GRU with `reset_after=False`, or
        what else the weights do not tell: `norm`, `residual`, `zoneout`, a learned
        initial state, or a `merge_mode` other than "concat".

    Example:
      >>> from flax import nnx
      >>> layer = nn.GRU(3, 5, num_layers=2, rngs=nnx.Rngs(0))
      >>> sorted(dump(layer, "rnn."))[:2], dump(layer)["weight_hh_l1"].shape
      (['rnn.bias_hh_l0', 'rnn.bias_hh_l1'], (15, 5))
    """
    prefix = _trees.require_prefix(prefix) and prefix.removesuffix(".") + "."
    dumped = dump_layers("PyTorch", SCHEMES, layer, concat=True)
    return {
        f"{prefix}{key}_l{index}{suffix}": array
        for index, directions in enumerate(dumped)
        for arrays, suffix in zip(directions, ("", "_reverse"), strict=False)
        for key, array in arrays.items()
    }


def _state_dict(source: Any, prefix: str) -> Mapping[str, Any]:
    """The mapping, or what a file has under the prefix."""
    if not _trees.is_path(source):
        return _trees.require_mapping(source, "a state dict or a path")
    path = local_path("source", source)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"source: expected a file .safetensors, got {path}; what torch.load gives is a mapping"
        )
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError('safetensors is missing: pip install "seqjax[interop]"') from error
    # As JAX's arrays, since NumPy alone has no bfloat16.
    with _trees.reading(path), safe_open(path, framework="flax") as file:
        names = list(file.keys())
        chosen = [name for name in names if name.startswith(prefix)]
        return {name: file.get_tensor(name) for name in chosen} or dict.fromkeys(names)
