"""Functions for sources that are trees of named arrays, or lists of trees."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.core import meta

from seqjax import checks, nn
from seqjax.interop._layouts import Layout
from seqjax.interop._schemes import Group, Scheme

__all__ = [
    "SIDES",
    "SourceError",
    "array",
    "choices",
    "each_direction",
    "each_layer",
    "few_bits",
    "flatten",
    "group",
    "is_path",
    "layer_trees",
    "layers_in",
    "nested",
    "one_layer",
    "params_of",
    "reading",
    "require_mapping",
    "require_prefix",
    "tree_groups",
    "under",
]

SIDES = ("forward_rnn", "backward_rnn")


class SourceError(Exception):
    """An error whose message is complete, so `reading` does not add the name of the file."""


def array(value: Any, name: str) -> Any:
    """Return a value as an array of JAX or NumPy.

    An array of JAX or NumPy is not copied. Any other value is converted to a NumPy array. Tensors
    of PyTorch are converted without importing PyTorch. Linen's `Partitioned` is removed. NumPy's
    files and HDF5 files store bfloat16 as 2 bytes of unknown dtype. Such arrays become bfloat16
    again. The result has the native byte order.

    Raises:
      ValueError: `value` is a tensor that has no dense numbers, for example a sparse or quantised
        tensor; or its floating-point numbers have fewer than 16 or more than 64 bits.
    """
    checks.require_unmasked(name, value)
    if isinstance(value, meta.AxisMetadata):  # Linen adds the names of axes by such a wrapper
        value = value.unbox()
    if hasattr(value, "detach"):
        value = _from_tensor(value, name)
    elif not (hasattr(value, "dtype") and hasattr(value, "T")):
        try:
            found = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected an array, got {checks.brief(value)}") from error
        if found.dtype == object:  # for example of a jax.ShapeDtypeStruct
            raise ValueError(
                f"{name}: expected an array of numbers, got a {type(value).__name__}, "
                f"{checks.brief(value)}"
            )
        value = found
    if isinstance(value, np.ndarray):
        if value.dtype == np.dtype("V2"):  # bfloat16 is the only 2-byte float that NumPy lacks
            value = value.view(jnp.bfloat16)
        if value.dtype.kind == "V" and value.dtype.names is None and value.dtype.isbuiltin == 0:
            raise ValueError(few_bits(name, f"raw data of {value.dtype.itemsize} byte per element"))
        if not value.dtype.isnative:  # JAX supports only the native byte order
            value = value.astype(value.dtype.newbyteorder("="))
    if jnp.issubdtype(value.dtype, jnp.floating):
        if value.dtype.itemsize > 8:
            raise ValueError(
                f"{name}: expected floating-point numbers of 64 bits or fewer, got {value.dtype}; "
                "convert the array to float64 first"
            )
        if jnp.finfo(value.dtype).bits < 16:
            raise ValueError(few_bits(name, value.dtype))
    return value


def few_bits(name: str, dtype: Any) -> str:
    """Return the error message about an array whose numbers have too few bits."""
    return (
        f"{name}: expected floating-point numbers of 16 bits or more, got {dtype}; convert the "
        "array to float32 first, and multiply it by its scale if it has one"
    )


def _from_tensor(value: Any, name: str) -> Any:
    """Return a PyTorch tensor as a NumPy array."""
    try:
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such dtype of its own
            return tensor.float().numpy().astype(jnp.bfloat16)
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        got = ", ".join(str(getattr(value, what, "")) for what in ("dtype", "layout", "device"))
        raise ValueError(
            f"{name}: expected a dense tensor of numbers, got {got}; convert it with "
            "tensor.to_dense(), tensor.dequantize() or tensor.float() first"
        ) from error


def flatten(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the leaves of nested mappings by their paths, which are joined by "/"."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": leaf for name, leaf in flatten(value).items()}
        elif value is not None:
            flat[str(key)] = value
    return flat


def group(values: Mapping[str, Any], before: str = "") -> Group:
    """Return the arrays of one direction. Error messages add `before` in front of each key."""
    return Group({key: array(value, before + key) for key, value in values.items()}, before)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dicts. This function is the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *folders, name = key.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return tree


def under(flat: Mapping[str, Any], prefix: str, separator: str = "/") -> dict[str, Any]:
    """Return the entries whose names begin with a prefix. The prefix is removed."""
    if prefix and not prefix.endswith(separator):
        prefix += separator
    found = {key.removeprefix(prefix): a for key, a in flat.items() if key.startswith(prefix)}
    if not found:
        names = ", ".join(list(flat)[:6]) or "no names"
        raise ValueError(f"prefix: expected names that begin with {prefix!r}, got {names}")
    return found


def require_prefix(prefix: Any) -> str:
    """Return the prefix, or raise if it is not a string."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {checks.brief(prefix)}")
    return prefix


def require_mapping(source: Any, expected: str) -> Mapping[str, Any]:
    """Return the source, or raise if it is not a mapping."""
    if not isinstance(source, Mapping):
        raise TypeError(f"source: expected {expected}, got {checks.brief(source)}")
    return source


def is_path(source: Any) -> bool:
    """Return whether a source is the path of a file."""
    return isinstance(source, str | os.PathLike)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert any error while a file is read to a `ValueError` whose message names the file."""
    if path.is_dir():
        raise ValueError(f"source: expected a file, got the folder {path}")
    try:
        yield
    except SourceError as error:
        raise ValueError(str(error)) from None
    except (FileNotFoundError, PermissionError):  # their messages contain the name of the file
        raise
    except Exception as error:  # each file format has its own error classes
        raise ValueError(f"source: expected an undamaged file, got {path}: {error}") from error


def each_layer(source: Any) -> list[Any]:
    """Return a list of the source's layers. The source is one layer or a list of layers."""
    layers = list(source) if type(source) in (list, tuple) else [source]
    if not layers:
        raise ValueError("source: expected at least one layer, got an empty list")
    return layers


def each_direction(layer: Any) -> list[Any]:
    """Return a list of the layer's directions: two for a `Bidirectional`, and otherwise one."""
    return list(layer) if isinstance(layer, nn.Bidirectional) else [layer]


def layers_in(names: Iterable[str], schemes: Sequence[Scheme | Layout]) -> list[str]:
    """Return the paths of the cells or layers in a tree.

    Args:
      names: the paths of the leaves of the tree.
      schemes: the `Scheme` or `Layout` (layout of weights) of each cell of the library.
    """
    names, found = list(names), dict[str, None]()
    for scheme in schemes:
        first, *others = scheme.keys(bias=not scheme.optional_bias)
        for name in names:
            path = name.removesuffix(first)
            if (
                path != name
                and path[-1:] in ("", "/")
                and {path + key for key in others} <= {*names}
            ):
                found[_WITHIN.sub("", path.removesuffix("/"))] = None
    return list(found)


# The part of a path between a layer and its arrays.
_WITHIN = re.compile(rf"(^|/)(({'|'.join(SIDES)})(/cell)?|cell)$")


def choices(paths: Iterable[str]) -> str:
    """Return a hint for an error message. The hint lists the paths of layers."""
    quoted = [f"prefix={path!r}" for path in paths]
    return f"; choose a layer by {' or '.join(quoted[:8])}" if quoted else ""


def params_of(tree: Any) -> Any:
    """Return the tree under "params" if there is one, and otherwise the tree itself."""
    return tree["params"] if isinstance(tree, Mapping) and "params" in tree else tree


def one_layer(source: Any, prefix: str, layout: Layout) -> Group:
    """Return the arrays of one layer of one direction, read from the variables of a module.

    Args:
      source: the variables, or the tree of parameters inside them.
      prefix: the path to the layer in the tree.
      layout: the layout of the layer's weights.
    """
    prefix = require_prefix(prefix) and prefix.removesuffix("/") + "/"
    tree = under(flatten(require_mapping(params_of(source), "a tree of variables")), prefix)
    inner = layers_in(tree, [layout])
    if inner and "" not in inner:
        raise ValueError(
            f"prefix: expected the path to one layer, got {prefix!r}"
            + choices(prefix + path for path in inner)
        )
    return group(tree, prefix)


def tree_groups(
    source: Any, prefix: str, schemes: Sequence[Scheme], expected: str
) -> list[list[Group]]:
    """Return a list of layers, each a list of its directions, read from trees with Flax's names.

    Args:
      source: the trees. A layer is a tree with one or two cells, or a `Bidirectional` of two trees.
        A stack is a list of trees or of `Bidirectional`s.
      prefix: the path to the layer in each tree.
      schemes: the `Scheme` (layout of weights) of each cell of the library.
      expected: a description of what a tree must be, for messages.
    """
    prefix = require_prefix(prefix) and prefix.removesuffix("/") + "/"
    layers: list[list[Group]] = []
    for index, layer in enumerate(each_layer(source)):
        before = f"source[{index}]: {prefix}" if type(source) in (list, tuple) else prefix
        layers.append([])
        for tree in each_direction(layer):
            tree = under(flatten(require_mapping(tree, expected)), prefix)
            inner = layers_in(tree, schemes)
            own = "cell" if any(key.startswith("cell/") for key in tree) else ""
            paths = [path or own for path in inner]
            if len(paths) > ("" in inner) and "" not in paths:
                raise ValueError(
                    f"prefix: expected the path to one layer, got {prefix!r}"
                    + choices(prefix + path for path in paths)
                )
            sides = [side for side in SIDES if any(key.startswith(side + "/") for key in tree)]
            if sides:
                _require_sides(tree, sides, before)
            for side in sides or [""]:
                layers[-1].append(_cell(under(tree, side), before + (side and side + "/")))
    return layers


def _require_sides(tree: Iterable[str], sides: Sequence[str], before: str) -> None:
    """Raise if a tree lacks one direction, or contains anything besides the two directions."""
    if len(sides) == 1:
        (missing,) = set(SIDES) - set(sides)
        raise ValueError(
            f"{before}{missing}: expected both directions, got {sides[0]} alone; to load one "
            f"direction, pass a prefix= that ends in {sides[0]!r}"
        )
    for key in tree:
        if key.partition("/")[0] not in SIDES:
            raise ValueError(
                f"{before}{key}: expected {' and '.join(SIDES)} alone, got another name; pass the "
                "trees of the two as a seqjax.nn.Bidirectional(forward, backward)"
            )


def _cell(tree: dict[str, Any], before: str) -> Group:
    """Return the arrays of a cell.

    If the tree is a layer, its arrays are under "cell", and other names are ignored.
    """
    if any(key.startswith("cell/") for key in tree):
        return group(under(tree, "cell"), f"{before}cell/")
    return group(tree, before)


def layer_trees(dumped: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return one tree for each layer. This function is the inverse of `tree_groups`."""
    trees = []
    for directions in dumped:
        cells = [{"cell": nested(direction)} for direction in directions]
        trees.append(cells[0] if len(cells) == 1 else dict(zip(SIDES, cells, strict=True)))
    return trees
