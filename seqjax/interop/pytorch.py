"""Conversion of weights and states from and to PyTorch's `nn.RNN`, `nn.LSTM`, `nn.GRU` and cells.

PyTorch need not be installed: the arrays may be tensors, NumPy or JAX arrays, or in a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import cells, checks, nn
from seqjax._files import FilePath
from seqjax.interop import _dtypes, _state_dict, _trees
from seqjax.interop._layers import dump_layers, load_layers
from seqjax.interop._schemes import Field, Group, Scheme

__all__ = ["dump", "dump_state", "load", "load_state"]


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


def load(
    source: Mapping[str, Any] | FilePath,
    prefix: str | Sequence[Any] = "",
    *,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.Recurrent:
    r"""Return a layer with the weights of a PyTorch layer.

    The names and shapes of the arrays determine the sizes, the number of layers, the directions,
    the projection and the kind of cell. PyTorch has two biases, b_ih and b_hh. Our bias is their
    sum. In a GRU, b_hn stays a separate array, since the reset gate multiplies it.

    A state dict does not record `batch_first`. By default our layers are batch-major, like
    PyTorch's layers with `batch_first=True`. If the PyTorch layer has `batch_first=False`, which is
    its default, pass `time_major=True`.

    Weights under weight normalisation are converted to plain weights w = g v / ‖v‖. The parts that
    `DataParallel`, `torch.compile`, FSDP and `AveragedModel` add to names are removed.

    Args:
      source: a state dict from names to arrays or tensors, such as `module.state_dict()`, or the
        path of a `.safetensors` file.
      prefix: the path to the layer or cell, such as "encoder.rnn". If `source` is the state dict of
        the layer itself, pass "". Names of arrays that are not the layer's own are ignored,
        including those of modules inside the layer, such as "encoder.rnn.proj.weight". To load a
        stack, pass a list of paths, such as `["cells.0", "cells.1"]`. In this list,
        `seqjax.nn.Bidirectional("forward", "backward")` stands for a bidirectional layer.
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer, such as `dropout=0.1`; see `seqjax.nn.Recurrent`. For
        `nn.RNN` and `RNNCell`, pass `activation="tanh"` or `"relu"`, since a state dict does not
        contain the activation.

    Returns:
      A new `seqjax.nn.RNN`, `LSTM` or `GRU`, or `into` if it is given.

    Raises:
      TypeError: `source` is not a mapping or a path.
      ValueError: a name is missing or unknown; an array has a wrong shape; `into` differs from the
        source in its cell or sizes; an option is passed that the source determines, such as
        `num_layers`; `merge_mode` is not "concat"; the weights are quantised or parametrised; the
        source is a training checkpoint; or the file cannot be read.
      ImportError: `source` is a file, and safetensors is not installed.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> shapes = {"weight_ih_l0": (20, 3), "weight_hh_l0": (20, 5)}
      >>> layer = load({f"rnn.{name}": rng.normal(size=s) for name, s in shapes.items()}, "rnn")
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape
      ('LSTM', (3, 20))
    """
    paths: list[Any] = list(prefix) if isinstance(prefix, list | tuple) else [prefix]
    if not paths:
        raise ValueError("prefix: expected at least one path, got an empty list")
    for path in (path for pair in paths for path in _trees.each_direction(pair)):
        _trees.require_prefix(path)
    state = _state_dict.opened(source)
    names = _state_dict.plain_names(state)
    layers: list[list[Group]] = []
    found: dict[str, Any] = {}
    for path in paths:
        if not isinstance(path, nn.Bidirectional):
            layers += _module(state, names, path)
            continue
        sides = [_module(state, names, side) for side in path]
        for side, module in zip(path, sides, strict=True):
            if len(module) != 1 or len(module[0]) != 1:
                raise ValueError(
                    f"prefix: expected one layer of one direction at {side!r}, got more"
                )
        layers.append([module[0][0] for module in sides])
    if any(group.after.endswith("_reverse") for groups in layers for group in groups):
        found = {"merge_mode": "concat"}
    return load_layers(SCHEMES, layers, into, options, found)


def dump(layer: nn.Recurrent, prefix: str = "") -> dict[str, Any]:
    """Return the weights of a layer as arrays with the names of PyTorch's state dict.

    `bias_ih` is our bias. `bias_hh` is zero, except that in a GRU it contains our b_hn.

    Args:
      layer: a `seqjax.nn.RNN` with tanh or relu, an `LSTM` or a `GRU`.
      prefix: the path to the layer in a model, which is added in front of the names.

    Returns:
      A dict from PyTorch's names to NumPy arrays. To get a state dict, convert each array with
      `torch.from_numpy(a)`. `from_numpy` does not support bfloat16: for such an array, use
      `torch.from_numpy(a.astype("float32"))`. `safetensors.numpy.save_file` supports all dtypes.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has a cell that PyTorch lacks, such as the GRU with `reset_after=False`;
        or an option that PyTorch lacks: `norm`, `residual`, `zoneout`, a learned initial state, or
        a `merge_mode` other than "concat".

    Example:
      >>> from flax import nnx
      >>> layer = nn.GRU(3, 5, num_layers=2, rngs=nnx.Rngs(0))
      >>> sorted(dump(layer, "rnn."))[:2], dump(layer)["weight_hh_l1"].shape
      (['rnn.bias_hh_l0', 'rnn.bias_hh_l1'], (15, 5))
    """
    prefix = _trees.require_prefix(prefix)
    dumped = dump_layers("PyTorch", SCHEMES, layer, concat=True)
    named = {
        f"{key}_l{index}{suffix}": array
        for index, directions in enumerate(dumped)
        for arrays, suffix in zip(directions, ("", "_reverse"), strict=False)
        for key, array in arrays.items()
    }
    return _state_dict.prefixed(named, prefix)


def load_state(layer: nn.Recurrent, source: Any) -> Any:
    """Convert PyTorch's `h`, or `(h, c)` of an LSTM, to a state of our layer.

    PyTorch has one axis for layers and directions. Our state is a tuple with one entry per layer.
    In a bidirectional layer, the entry is a `seqjax.nn.Bidirectional` of two states. Therefore
    PyTorch's `h[2 * layer]` is `state[layer].forward`, or `state[layer].forward.h` in an LSTM.

    Args:
      layer: a `seqjax.nn.RNN`, `LSTM` or `GRU`, for example one that `load` returned.
      source: `h [layers * directions, ..., H]` of `nn.RNN` or `nn.GRU`, or `(h, c)` of `nn.LSTM`.
        With a projection, h has P features. For the h of a cell, pass `h[None]`.

    Returns:
      The state in the dtype of the source. Pass the state to the layer as `initial_state`.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.RNN`, `LSTM` or `GRU`.
      ValueError: `source` has a wrong number of arrays, a wrong shape, or numbers that are not
        floating-point; or a number does not fit into the dtype of the state. If `jax_enable_x64` is
        off, float64 becomes float32.

    Example:
      >>> import numpy as np
      >>> from flax import nnx
      >>> layer = nn.GRU(3, 5, num_layers=2, rngs=nnx.Rngs(0))
      >>> [state.shape for state in load_state(layer, np.zeros((2, 7, 5)))]
      [(7, 5), (7, 5)]
    """
    example, count = _example(layer)
    parts = list(source) if isinstance(source, list | tuple) else [source]
    if len(parts) != count:
        raise ValueError(
            f"source: expected {'(h, c)' if count == 2 else 'h alone'}, got {len(parts)} arrays"
        )
    leaves, structure = jax.tree.flatten(example)
    names = ("h", "c") if count == 2 else ("h",)
    arrays = [_trees.array(part, name) for part, name in zip(parts, names, strict=True)]
    for index, (name, array) in enumerate(zip(names, arrays, strict=True)):
        shape, features = np.shape(array), leaves[index].shape[-1]
        batch = np.shape(arrays[0])[1:-1]
        expected = (len(leaves) // count, *batch, features)
        if len(shape) < 2 or shape != expected:
            wanted = f"[{expected[0]}, ..., {features}] with the same batch axes in all arrays"
            raise ValueError(f"{name}: expected the shape {wanted}, got {shape}")
        dtype = _dtypes.widest([array])
        if dtype is None:
            raise ValueError(f"{name}: expected floating-point numbers, got {array.dtype}")
        _dtypes.require_fitting(name, array, dtype)
    values = [jnp.asarray(arrays[i % count][i // count]) for i in range(len(leaves))]
    return jax.tree.unflatten(structure, values)


def dump_state(layer: nn.Recurrent, state: Any) -> Any:
    """Convert a state of our layer to PyTorch's form: `h`, or `(h, c)` of an LSTM.

    Args:
      layer: a `seqjax.nn.RNN`, `LSTM` or `GRU`.
      state: a state of the layer, such as the final state that a call returns.

    Returns:
      `h [layers * directions, ..., H]`, or the tuple of h and c, as NumPy arrays.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.RNN`, `LSTM` or `GRU`.
      ValueError: `state` does not fit the layer, its arrays have different batch axes, or its
        numbers are not floating-point.

    Example:
      >>> from flax import nnx
      >>> layer = nn.LSTM(3, 5, bidirectional=True, rngs=nnx.Rngs(0))
      >>> h, c = dump_state(layer, layer.initial_state([7]))
      >>> h.shape, c.shape
      ((2, 7, 5), (2, 7, 5))
    """
    example, count = _example(layer)
    leaves = jax.tree.leaves(state)
    mine: Any = jax.tree.structure(example)
    alike = mine == jax.tree.structure(state) and all(
        np.shape(leaf)[-1:] == like.shape
        for leaf, like in zip(leaves, jax.tree.leaves(example), strict=True)
    )
    if not alike:
        raise ValueError(
            f"state: expected a state of the layer with the shapes "
            f"{jax.tree.map(np.shape, example)} after batch axes, got {checks.brief(state)}"
        )
    batches = list(dict.fromkeys(np.shape(leaf)[:-1] for leaf in leaves))
    if len(batches) > 1:
        raise ValueError(
            f"state: expected the same batch axes in all arrays, got {batches[0]} and {batches[1]}"
        )
    xp: Any = jnp if checks.is_traced(state) else np
    arrays = [_trees.array(leaf, "state") for leaf in leaves]
    dtype = _dtypes.widest(arrays)
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in arrays):
        raise ValueError(
            "state: expected floating-point numbers, got "
            + ", ".join(dict.fromkeys(str(array.dtype) for array in arrays))
        )
    parts = tuple(xp.stack([xp.asarray(a, dtype) for a in arrays[i::count]]) for i in range(count))
    return parts if count == 2 else parts[0]


def _example(layer: Any) -> tuple[Any, int]:
    """Return the shapes of a layer's state, and the number of arrays in PyTorch's state.

    The state has no batch axes. PyTorch's state has 2 arrays for an LSTM, and otherwise 1.
    """
    if not isinstance(layer, nn.Recurrent):
        raise TypeError(f"layer: expected a seqjax.nn.Recurrent, got {checks.brief(layer)}")
    known = [scheme.cell for scheme in SCHEMES]
    if type(layer.cell) not in known:
        names = ", ".join(dict.fromkeys(cell.__name__ for cell in known))
        raise TypeError(
            f"layer: expected a cell that PyTorch has ({names}), got {type(layer.cell).__name__}"
        )
    count = 2 if isinstance(layer.cell, cells.LSTM | cells.ProjectedLSTM) else 1
    return jax.eval_shape(lambda: layer.initial_state()), count


def _module(
    state: Mapping[str, Any], names: Mapping[str, _state_dict.Stored], prefix: str
) -> list[list[Group]]:
    """Return a list of the layers of a PyTorch module. Each layer is a list of its directions."""
    [prefix] = _state_dict.unwrapped([prefix.removesuffix(".")], state)
    prefix += "." if prefix else ""
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if not inside:
        raise ValueError(
            f"prefix: expected names that begin with {prefix!r}, got "
            f"{', '.join([*names][:6]) or 'none'}" + _trees.choices(_state_dict.layers_in(names))
        )
    if "" in _state_dict.layers_in(inside):  # ignore the weights of modules inside the layer
        inside = [n for n in inside if "." not in n or n.startswith("parametrizations.")]
    groups: dict[str, dict[str, Any]] = {}
    last, bidirectional = -1, False
    matches = {name: _state_dict.NAME.fullmatch(name) for name in inside}
    for name, match in matches.items():
        if match is None:
            raise ValueError(
                f"{prefix}{name}: expected the names of one layer, such as {prefix}weight_ih_l0"
                + _state_dict.hint(inside, prefix)
            )
        last = max(last, int(match["layer"] or -1))
        bidirectional |= match["suffix"].endswith("_reverse")
        array = _state_dict.read(state, names[prefix + name])
        groups.setdefault(match["suffix"], {})[match["key"]] = array
    suffixes = [[f"_l{i}", f"_l{i}_reverse"][: 1 + bidirectional] for i in range(last + 1)]
    if last >= 0 and "" in groups:
        raise ValueError(
            f"{prefix}{next(iter(groups['']))}: expected a name that ends in _l0, since others do"
        )
    return [
        [Group(groups.get(suffix, {}), prefix, suffix) for suffix in each]
        for each in suffixes or [[""]]
    ]
