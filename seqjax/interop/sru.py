"""Conversion of weights from and to the PyTorch modules `SRU` and `SRUCell` of the package `sru`.

The library is github.com/asappresearch/sru. PyTorch need not be installed.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import cells, checks, nn
from seqjax._files import FilePath
from seqjax.interop import _dtypes, _state_dict
from seqjax.interop._described import dump_described, load_described
from seqjax.interop._layers import agreed
from seqjax.interop._layouts import Layout, Named
from seqjax.interop._requirements import require_layer
from seqjax.interop._schemes import Group, odd_name, require_array

__all__ = ["dump", "load"]

_KEYS = ("weight", "weight_c", "bias", "scale_x")
_NAME = re.compile(r"rnn_lst\.(?P<layer>\d+)\.(?P<key>.+)")
_LARGEST = 1e18
"""The limit of α, whose square must fit into float32."""
_LACKING = ("layer_norm", "custom_m", "input_to_hidden")
"""The options of the library that seqjax lacks, as they appear in the names of arrays."""


def _layout(*, square: bool) -> Layout:
    """Return the layout of one direction, for a cell with as many inputs as units or not.

    The library's arrays are those that `_directions` returns.
    """
    weights = "n f r" if square else "n f r h"
    return Layout(
        "sru",
        cells.SRU,
        theirs=(
            Named("bias", "(* H)", "b_f b_r"),
            Named("weight_c", "(* H)", "v_f v_r"),
            Named("weight", "I (H *)", weights),
        ),
        ours=(
            Named("w_ih", "I (* H)", weights),
            Named("v", "(* H)", "v_f v_r"),
            Named("b", "(* H)", "b_f b_r"),
        ),
        fields=lambda n: {"input_size": n["I"], "hidden_size": n["H"]},
        suits=lambda cell: (cell.input_size == cell.hidden_size) == square,
    )


LAYOUTS = (_layout(square=False), _layout(square=True))


def load(
    source: Mapping[str, Any] | FilePath,
    prefix: str = "",
    *,
    bidirectional: bool | None = None,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.SRU:
    """Return a layer with the weights of an `SRU` or an `SRUCell` of the package `sru`.

    The buffer `scale_x` contains α, from which `rescale` and `highway_bias` of the new layer
    follow. If the library projects the inputs (`projection_size`), the product of both matrices
    becomes one matrix.

    Layers of the library are time-major: to read the same arrays, pass `time_major=True`. A state
    dict does not contain the options `use_tanh` and `has_skip_term`. Do not load a layer with
    `use_tanh=True` or `has_skip_term=False`, since the new layer would compute something else.

    Args:
      source: a state dict from names to arrays or tensors, or the path of a `.safetensors` file.
      prefix: the path to the `SRU` or `SRUCell` in the model, such as "encoder.rnn".
      bidirectional: whether the layers have two directions. A layer of two directions with H units
        each has the same arrays as a layer of one direction with 2 H units. So this argument is
        needed, unless `into` is given or the number of units is odd.
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.SRU`. For a layer with `v1=True`, whose
        `weight_c` is zero, `use_peephole=False` gives a layer that runs all steps in parallel.

    Returns:
      A new `seqjax.nn.SRU`, or `into` if it is given.

    Raises:
      TypeError: `source` is not a mapping or a path.
      ValueError: a name is missing or unknown; an array has a wrong shape; `bidirectional` is
        needed; `into` differs from the source in its cell, sizes or options; the source has layer
        normalisation or another option that seqjax lacks; or the file cannot be read.
      ImportError: `source` is a file, and safetensors is not installed.

    References:
      Lei, Zhang, Wang, Dai, Artzi (2018), Simple recurrent units for highly parallelizable
      recurrence.

    Example:
      >>> import numpy as np
      >>> shapes = {"weight": (3, 20), "weight_c": 10, "bias": 10, "scale_x": 1}
      >>> state = {f"rnn_lst.0.{name}": np.ones(shape) for name, shape in shapes.items()}
      >>> layer = load(state)
      >>> type(layer).__name__, layer.layers[0].forward.w_ih.shape, layer.cell.rescale
      ('SRU', (3, 20), False)
    """
    groups = _layers(_state_dict.arrays_under(source, prefix, r"rnn_lst\.0\.weight_c"))
    sides = _number_of_directions(groups[0], bidirectional, into)
    cell = into.cell if isinstance(into, nn.Recurrent) else None
    like = cell if isinstance(cell, cells.SRU) else None
    inputs, hidden = (like.input_size, like.hidden_size) if like else (None, None)
    told, layers = [], []
    for group in groups:
        inputs, hidden = _require_shapes(group, inputs, hidden, sides)
        told.append(_rescaling(group, like))
        layers.append(_directions(group, sides, cells.SRU(inputs, hidden, **told[-1]).alpha))
        inputs = sides * hidden
    if into is None:
        dtype = _dtypes.widest(a for group in groups for a in group.arrays.values())
        options.setdefault("param_dtype", dtype)
    found = agreed(told) | ({"merge_mode": "concat"} if sides == 2 else {})
    layer: nn.SRU = load_described(LAYOUTS, layers, into, options, found)
    return layer


def dump(layer: nn.Recurrent, prefix: str = "") -> dict[str, Any]:
    """Return the weights of a layer as arrays with the names of the state dict of an `SRU`.

    If the layer has no biases or peepholes, the library's are zeros. `scale_x` is α. If α is not
    1, create the library's module with `rescale=True`.

    Args:
      layer: a `seqjax.nn.SRU`. If a bidirectional layer reads 2 H inputs, where H is its
        `hidden_size`, the library uses the inputs themselves in the highway connection. Then the
        layer must do the same: W_h must select the first half of the inputs in the forward
        direction, and the second half in the backward direction.
      prefix: the path to the `SRU` in a model, which is added in front of the names.

    Returns:
      A dict from the names of the library to NumPy arrays. To get a state dict, convert each array
      with `torch.from_numpy(a)`.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has another cell, a W_h that the library lacks, or an option that the
        library lacks: `norm`, `residual`, `zoneout`, a learned initial state, or a `merge_mode`
        other than "concat".

    Example:
      >>> from flax import nnx
      >>> state = dump(nn.SRU(3, 5, num_layers=2, rngs=nnx.Rngs(0)), "rnn")
      >>> state["rnn.rnn_lst.0.weight"].shape, state["rnn.rnn_lst.1.weight"].shape
      ((3, 20), (5, 15))
    """
    dumped = dump_described(LAYOUTS, require_layer("layer", layer), concat=True)
    cell: Any = layer.cell
    named: dict[str, Any] = {}
    for index, directions in enumerate(dumped):
        arrays = _joined(directions, cell.alpha, f"layers[{index}].")
        named |= {f"rnn_lst.{index}.{key}": array for key, array in arrays.items()}
    return _state_dict.prefixed(named, prefix)


def _layers(group: Group) -> list[Group]:
    """Return the arrays of each layer of an `SRU`, or those of an `SRUCell`."""
    for key in group.arrays:
        if any(part in key for part in _LACKING):
            raise ValueError(
                f"{group.name(key)}: expected an SRU without {', '.join(_LACKING)}, since seqjax "
                "lacks these, got this name"
            )
    matches = {key: _NAME.fullmatch(key) for key in group.arrays}
    if not any(matches.values()):
        layers = [group]
    else:
        arrays: dict[int, dict[str, Any]] = {}
        for key, match in matches.items():
            if match is None:
                raise ValueError(
                    f"{group.name(key)}: expected the names of one SRU, such as "
                    f"{group.name('rnn_lst.0.weight')}; leave it out of the source if it does not "
                    "belong to the SRU"
                )
            arrays.setdefault(int(match["layer"]), {})[match["key"]] = group.arrays[key]
        layers = [
            Group(arrays.get(index, {}), f"{group.before}rnn_lst.{index}.")
            for index in range(max(arrays) + 1)
        ]
    for layer in layers:
        if not {*_KEYS} <= {*layer.arrays} <= {*_KEYS, "weight_proj"}:
            raise ValueError(odd_name(layer, [_KEYS]))
    return layers


def _number_of_directions(group: Group, bidirectional: bool | None, into: Any) -> int:
    """Return 1 or 2, or raise if the number of directions is unknown."""
    if bidirectional is None and isinstance(into, nn.Recurrent):
        bidirectional = into.bidirectional
    if bidirectional is None:
        units = np.size(group.arrays["bias"]) // 2
        if units % 2 == 0:
            raise ValueError(
                f"bidirectional: expected True or False, since {units} units in "
                f"{group.name('bias')} may be those of one direction or of two, got None"
            )
        bidirectional = False
    return 2 if checks.require_bool("bidirectional", bidirectional) else 1


def _require_shapes(
    group: Group, inputs: int | None, hidden: int | None, sides: int
) -> tuple[int, int]:
    """Check the shapes of a layer's arrays, and return its input size and hidden size.

    `inputs` and `hidden` are the expected sizes, or None if the arrays determine them.
    """
    first = "weight_proj" if "weight_proj" in group.arrays else "weight"
    for key in {first, "weight", "bias"}:
        rank, shape = 1 if key == "bias" else 2, np.shape(group.arrays[key])
        if len(shape) != rank or 0 in shape:
            raise ValueError(
                f"{group.name(key)}: expected {rank} axes that are not empty, got the shape {shape}"
            )
    inputs = inputs or np.shape(group.arrays[first])[0]
    hidden = hidden or np.size(group.arrays["bias"]) // (2 * sides)
    units = sides * hidden
    rows = np.shape(group.arrays[first])[1] if first == "weight_proj" else inputs
    expected = {
        first: (inputs, rows),
        "bias": (2 * units,),
        "weight_c": (2 * units,),
        "weight": (rows, (3 if inputs == units else 4) * units),
        "scale_x": (1,),
    }
    without_skip = np.shape(group.arrays["weight"]) == (rows, 3 * units)
    for key, shape in expected.items():
        hint = "; an SRU with has_skip_term=False is not supported"
        require_array(group, key, shape, hint if key == "weight" and without_skip else "")
    return inputs, hidden


def _rescaling(group: Group, like: cells.SRU | None) -> dict[str, Any]:
    """Return the options of our cell that follow from α, which is in `scale_x`.

    If the highway bias of the cell `like` gives the same α, it is returned unchanged.
    """
    scale = group.arrays["scale_x"]
    name = group.name("scale_x")
    if checks.is_traced(scale):
        raise ValueError(f"{name}: expected an array that is not traced, got {checks.brief(scale)}")
    alpha = float(np.asarray(scale)[0])
    if alpha == 1:
        return {"rescale": False}
    if not 1 < alpha < _LARGEST:
        raise ValueError(
            f"{name}: expected a number of 1 or more and below {_LARGEST:g}, got {alpha}"
        )
    exact = math.log((alpha**2 - 1) / 2)
    candidates = [round(exact, digits) + 0.0 for digits in range(5)]
    if like is not None:
        candidates = [like.highway_bias, *candidates]
    # α may have been rounded to a smaller dtype before it was stored in this one.
    dtypes = (scale.dtype, jnp.float32, jnp.float16, jnp.bfloat16)
    for bias in candidates:
        found = cells.SRU(1, 1, highway_bias=bias).alpha
        if any(float(np.asarray(found).astype(dtype)) == alpha for dtype in dtypes):
            exact = bias
            break
    return {"rescale": True, "highway_bias": exact}


def _directions(group: Group, sides: int, alpha: float) -> list[Group]:
    """Return the arrays of each direction of a layer, in the layout of `LAYOUTS`.

    If a direction has other inputs than units, its weights have four blocks. The fourth block is
    the matrix of the highway connection, divided by α.
    """
    wide = _dtypes.widened(group.arrays)
    xp: Any = jnp if checks.is_traced(wide) else np
    weight = wide["weight_proj"] @ wide["weight"] if "weight_proj" in wide else wide["weight"]
    inputs, units = weight.shape[0], wide["bias"].size // 2
    hidden = units // sides
    weight = weight.reshape(inputs, units, -1)
    given = weight.shape[2] == 4
    skip = weight[:, :, 3] / alpha if given else np.eye(inputs)
    weight = weight[:, :, :3]
    if inputs != hidden:
        weight = xp.concatenate([weight, skip[:, :, None]], axis=2)
    elif given:
        identity = np.tile(np.eye(inputs), (1, sides))
        if checks.is_traced(skip) or not np.allclose(skip, identity, 1e-6, 1e-6):
            raise ValueError(
                f"{group.name('weight')}: expected scale_x times the identity matrix as the "
                "weights of the highway connection, since seqjax has no such weights if "
                "input_size equals hidden_size, got other numbers"
            )
    directions = []
    for side in range(sides):
        own = slice(side * hidden, (side + 1) * hidden)
        arrays = {"weight": weight[:, own].reshape(inputs, -1)}
        for key in ("weight_c", "bias"):
            arrays[key] = wide[key].reshape(2, units)[:, own].reshape(2 * hidden)
        directions.append(group._replace(arrays=arrays))
    return directions


def _joined(directions: list[dict[str, Any]], alpha: float, name: str) -> dict[str, Any]:
    """Return the arrays of a layer. This function is the inverse of `_directions`."""
    xp: Any = jnp if checks.is_traced(directions) else np
    inputs, hidden = len(directions[0]["weight"]), directions[0]["bias"].size // 2
    dtype = directions[0]["weight"].dtype
    units = len(directions) * hidden
    weight = xp.concatenate([d["weight"].reshape(inputs, hidden, -1) for d in directions], axis=1)
    skip = np.tile(np.eye(inputs), (1, len(directions)))
    if inputs != hidden:
        skip, weight = weight[:, :, 3], weight[:, :, :3]
    if inputs != units:
        weight = xp.concatenate([weight, (alpha * skip)[:, :, None]], axis=2)
    elif checks.is_traced(skip) or not np.array_equal(skip, np.eye(inputs)):
        raise ValueError(
            f"{name}forward.w_ih, {name}backward.w_ih: expected matrices W_h that select the "
            f"direction's own half of the {inputs} inputs, since sru has no others, got other "
            "numbers"
        )
    joined = {"weight": xp.asarray(weight, dtype).reshape(inputs, -1)}
    for key in ("weight_c", "bias"):
        parts = [direction[key].reshape(2, hidden) for direction in directions]
        joined[key] = xp.concatenate(parts, axis=1).reshape(-1)
    return joined | {"scale_x": np.array([alpha], dtype)}
