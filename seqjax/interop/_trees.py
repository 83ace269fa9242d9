"""Sources that are trees of named arrays, and lists of them."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import checks, nn
from seqjax.interop._schemes import Group

SIDES = ("forward_rnn", "backward_rnn")


def array(value: Any, name: str) -> Any:
    """An array of JAX or NumPy as it is; a tensor of PyTorch, which needs no import, as an array.

    What `numpy.asarray` takes becomes an array of NumPy, in the machine's order of bytes.

    Raises:
      ValueError: a tensor without plain numbers (sparse, quantized, on no device), or numbers of
        fewer than 16 bits, which layers do not compute in.
    """
    if hasattr(value, "detach"):
        value = _from_tensor(value, name)
    elif not (hasattr(value, "dtype") and hasattr(value, "T")):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and not value.dtype.isnative:  # JAX takes no others
        value = value.astype(value.dtype.newbyteorder("="))
    if jnp.issubdtype(value.dtype, jnp.floating) and jnp.finfo(value.dtype).bits < 16:
        raise ValueError(f"{name}: expected numbers of 16 bits or more, got {value.dtype}")
    return value


def _from_tensor(value: Any, name: str) -> Any:
    """A tensor of PyTorch as an array of NumPy."""
    try:
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such dtype of its own
            return tensor.float().numpy().astype(jnp.bfloat16)
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:
        got = ", ".join(str(getattr(value, what, "")) for what in ("dtype", "layout", "device"))
        raise ValueError(f"{name}: expected a dense tensor of numbers, got {got}") from error


def flatten(tree: Any, before: str = "") -> dict[str, Any]:
    """The arrays of nested mappings by the names on the way to them, joined by "/".

    Args:
      tree: the mappings.
      before: what stands before a name in messages.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            inner = flatten(value, f"{before}{key}/")
            flat |= {f"{key}/{name}": leaf for name, leaf in inner.items()}
        elif value is not None:
            flat[str(key)] = array(value, f"{before}{key}")
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *folders, name = key.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return tree


def under(flat: Mapping[str, Any], prefix: str, separator: str = "/") -> dict[str, Any]:
    """What stands under a prefix, without it."""
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
    """Whether a source is the name of a file."""
    return isinstance(source, str | os.PathLike)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says which file it is that cannot be read: a folder, or one that is cut off."""
    if path.is_dir():
        raise ValueError(f"source: expected a file, got the folder {path}")
    try:
        yield
    except (FileNotFoundError, PermissionError):  # which name the file
        raise
    except Exception as error:  # each format has errors of its own
        raise ValueError(f"source: expected a whole file, got {path}: {error}") from error


def each_layer(source: Any) -> list[Any]:
    """The layers of a source that is one layer or a list of them."""
    layers = list(source) if type(source) in (list, tuple) else [source]
    if not layers:
        raise ValueError("source: expected at least one layer, got an empty list")
    return layers


def each_direction(layer: Any) -> list[Any]:
    """The directions of a layer that may be a pair of them."""
    return list(layer) if isinstance(layer, nn.Bidirectional) else [layer]


def tree_groups(source: Any, prefix: str, expected: str) -> list[list[Group]]:
    """The directions of trees as Flax names them: one tree a layer, with one or two cells.

    Args:
      source: a tree, a `Bidirectional` of two, or a list of these, one a layer.
      prefix: the path to the layer, in each tree.
      expected: what a tree is, for messages.
    """
    prefix = require_prefix(prefix) and prefix.removesuffix("/") + "/"
    layers: list[list[Group]] = []
    for index, layer in enumerate(each_layer(source)):
        before = f"source[{index}]: {prefix}" if type(source) in (list, tuple) else prefix
        layers.append([])
        for tree in each_direction(layer):
            where = before.removesuffix(prefix)
            tree = under(flatten(require_mapping(tree, expected), where), prefix)
            sides = [side for side in SIDES if any(key.startswith(side + "/") for key in tree)]
            for side in sides or [""]:
                layers[-1].append(_cell(under(tree, side), before + (side and side + "/")))
    return layers


def _cell(tree: dict[str, Any], before: str) -> Group:
    """The arrays of a cell, which a layer keeps under the name "cell"."""
    if all(key.startswith("cell/") for key in tree):
        return Group(under(tree, "cell"), f"{before}cell/")
    return Group(tree, before)


def layer_trees(dumped: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The inverse of `tree_groups`: a tree a layer."""
    trees = []
    for directions in dumped:
        cells = [{"cell": nested(direction)} for direction in directions]
        trees.append(cells[0] if len(cells) == 1 else dict(zip(SIDES, cells, strict=True)))
    return trees
