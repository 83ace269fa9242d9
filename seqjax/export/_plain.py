"""Pytrees as plain ones: what a program can be called with where this library is not installed."""

from typing import Any

import jax

from seqjax.types import PyTree

__all__ = ["named", "plain", "restored"]


def _names(tree: PyTree) -> list[str]:
    """The paths of the leaves, joined by dots; of parameters without Flax's own `value`."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    names = [name.removesuffix(".value") for name in names]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"pytree: expected paths that differ, got {', '.join(twice)} twice")
    return names


def plain(tree: PyTree) -> Any:
    """An array as it is; anything else as a flat dict from each leaf's path to the leaf.

    Args:
      tree: a pytree of any types.

    Raises:
      ValueError: two leaves of the same path, such as `{"a.b": x, "a": {"b": y}}`.

    Example:
      >>> from seqjax.cells import LSTMState
      >>> plain((LSTMState(h=1, c=2), LSTMState(h=3, c=4)))
      {'0.h': 1, '0.c': 2, '1.h': 3, '1.c': 4}
      >>> plain(5)
      5
    """
    leaves, structure = jax.tree.flatten(tree)
    if leaves and jax.tree_util.treedef_is_leaf(structure):  # an empty dict also counts as a leaf
        return leaves[0]
    return dict(zip(_names(tree), leaves, strict=True))


def restored(like: PyTree, flat: Any) -> PyTree:
    """The pytree that `plain` was given.

    Args:
      like: a pytree of the same structure.
      flat: as from `plain`.

    Example:
      >>> restored(({"w": 0}, 0), {"0.w": 5, "1": 6})
      ({'w': 5}, 6)
    """
    structure = jax.tree.structure(like)
    if jax.tree.leaves(like) and jax.tree_util.treedef_is_leaf(structure):
        return flat
    return jax.tree.unflatten(structure, [flat[name] for name in _names(like)])


def named(result: Any) -> dict[str, Any]:
    """Return the results of a function by name, each plain; None falls out.

    Args:
      result: a dict or named tuple, whose names are taken; a tuple or list, whose parts are called
        "0", "1" and so on; or anything else, which is called "output".

    Raises:
      ValueError: two names of the same text, such as 1 and "1"; see `plain`.

    Example:
      >>> from seqjax import Unrolled
      >>> named(Unrolled(1, (2, 3)))
      {'outputs': 1, 'state': {'0': 2, '1': 3}}
      >>> named(4)
      {'output': 4}
    """
    if hasattr(result, "_asdict"):
        result = result._asdict()
    elif isinstance(result, (tuple, list)):
        result = {str(n): part for n, part in enumerate(result)}
    elif not isinstance(result, dict):
        result = {"output": result}
    parts = {name: plain(part) for name, part in result.items() if part is not None}
    names = list(map(str, parts))
    if len(set(names)) < len(names):
        raise ValueError(f"result: expected names that differ as text, got {list(parts)}")
    return dict(zip(names, parts.values(), strict=True))
