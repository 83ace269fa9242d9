"""Sources that are trees of named arrays, and lists of them."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import checks, nn
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
    "reading",
    "require_mapping",
    "require_prefix",
    "tree_groups",
    "under",
]

SIDES = ("forward_rnn", "backward_rnn")


class SourceError(Exception):
    """An error inside `reading` whose message already says what is wrong."""


def array(value: Any, name: str) -> Any:
    """Return an array of JAX or NumPy as it is, and anything else as an array of NumPy.

    A tensor of PyTorch is converted without importing PyTorch. NumPy's files and HDF5 store
    bfloat16 as 2 bytes without a meaning; these become bfloat16 again. The result has native byte
    order.

    Raises:
      ValueError: a tensor without plain numbers (sparse, quantised, on no device), or numbers of
        fewer than 16 bits or more than 64, which layers do not compute in.
    """
    checks.require_unmasked(name, value)
    if hasattr(value, "detach"):
        value = _from_tensor(value, name)
    elif not (hasattr(value, "dtype") and hasattr(value, "T")):
        try:
            value = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected an array, got {checks.brief(value)}") from error
    if isinstance(value, np.ndarray):
        if value.dtype == np.dtype("V2"):  # no other float of 2 bytes is unknown to NumPy
            value = value.view(jnp.bfloat16)
        if value.dtype.kind == "V" and value.dtype.names is None and value.dtype.isbuiltin == 0:
            raise ValueError(few_bits(name, f"raw data of {value.dtype.itemsize} byte an element"))
        if not value.dtype.isnative:  # JAX takes no others
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
    """Return the message about an array of small numbers."""
    return (
        f"{name}: expected floating-point numbers of 16 bits or more, got {dtype}; convert the "
        "array to float32 first, and multiply it by its scale if it has one"
    )


def _from_tensor(value: Any, name: str) -> Any:
    """Return a tensor of PyTorch as an array of NumPy."""
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
    """Return the leaves of nested mappings by the names on the way to them, joined by "/"."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": leaf for name, leaf in flatten(value).items()}
        elif value is not None:
            flat[str(key)] = value
    return flat


def group(values: Mapping[str, Any], before: str = "") -> Group:
    """Return the arrays of one direction; `before` makes full names."""
    return Group({key: array(value, before + key) for key, value in values.items()}, before)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *folders, name = key.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return tree


def under(flat: Mapping[str, Any], prefix: str, separator: str = "/") -> dict[str, Any]:
    """Return the entries whose names begin with a prefix, without the prefix."""
    if prefix and not prefix.endswith(separator):
        prefix += separator
    found = {key.removeprefix(prefix): a for key, a in flat.items() if key.startswith(prefix)}
    if not found:
        names = ", ".join(list(flat)[:6]) or "no names"
        raise ValueError(f"prefix: expected a name begun by {prefix!r}, got {names}")
    return found


def require_prefix(prefix: Any) -> str:
    """Returns a prefix, or raises if it is not text."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {checks.brief(prefix)}")
    return prefix


def require_mapping(source: Any, expected: str) -> Mapping[str, Any]:
    """Returns a mapping, or raises."""
    if not isinstance(source, Mapping):
        raise TypeError(f"source: expected {expected}, got {checks.brief(source)}")
    return source


def is_path(source: Any) -> bool:
    """Return whether a source is the name of a file."""
    return isinstance(source, str | os.PathLike)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises `ValueError` with the file's name for whatever goes wrong while a file is read."""
    if path.is_dir():
        raise ValueError(f"source: expected a file, got the folder {path}")
    try:
        yield
    except SourceError as error:
        raise ValueError(str(error)) from None
    except (FileNotFoundError, PermissionError):  # which name the file
        raise
    except Exception as error:  # each format has errors of its own
        raise ValueError(f"source: expected a whole file, got {path}: {error}") from error


def each_layer(source: Any) -> list[Any]:
    """Return the layers of a source that is one layer or a list of them."""
    layers = list(source) if type(source) in (list, tuple) else [source]
    if not layers:
        raise ValueError("source: expected at least one layer, got an empty list")
    return layers


def each_direction(layer: Any) -> list[Any]:
    """Return the directions of a layer that may be a pair of them."""
    return list(layer) if isinstance(layer, nn.Bidirectional) else [layer]


def layers_in(names: Iterable[str], schemes: Sequence[Scheme]) -> list[str]:
    """Return the paths in a tree at which there are the arrays of a cell, or of two directions."""
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


# Names between a layer and its arrays.
_WITHIN = re.compile(rf"(^|/)(({'|'.join(SIDES)})(/cell)?|cell)$")


def choices(paths: Iterable[str]) -> str:
    """Return a hint that lists the layers that were found."""
    quoted = [f"prefix={path!r}" for path in paths]
    return f"; choose a layer by {' or '.join(quoted[:8])}" if quoted else ""


def tree_groups(
    source: Any, prefix: str, schemes: Sequence[Scheme], expected: str
) -> list[list[Group]]:
    """Return the directions of trees as Flax names them: one tree a layer, with one or two cells.

    Args:
      source: a tree, a `Bidirectional` of two, or a list of these, one a layer.
      prefix: the path to the layer, in each tree.
      schemes: the library's.
      expected: what a tree is, for messages.
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
    """Raises unless a tree consists of both directions."""
    if len(sides) == 1:
        (missing,) = set(SIDES) - set(sides)
        raise ValueError(
            f"{before}{missing}: expected both directions; it is missing; "
            f"one direction alone is loaded by a prefix= that ends in {sides[0]!r}"
        )
    for key in tree:
        if key.partition("/")[0] not in SIDES:
            raise ValueError(
                f"{before}{key}: expected {' and '.join(SIDES)} alone; pass the trees of the two "
                "as a seqjax.nn.Bidirectional(forward, backward)"
            )


def _cell(tree: dict[str, Any], before: str) -> Group:
    """Return the arrays of a cell; in a layer they are under "cell", perhaps beside others."""
    if any(key.startswith("cell/") for key in tree):
        return group(under(tree, "cell"), f"{before}cell/")
    return group(tree, before)


def layer_trees(dumped: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the inverse of `tree_groups`: a tree a layer."""
    trees = []
    for directions in dumped:
        cells = [{"cell": nested(direction)} for direction in directions]
        trees.append(cells[0] if len(cells) == 1 else dict(zip(SIDES, cells, strict=True)))
    return trees
