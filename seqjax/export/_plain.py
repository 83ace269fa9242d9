"""Conversion of pytrees to arrays and flat dicts, which need no types of this library."""

from typing import Any

import jax

from seqjax.types import PyTree

__all__ = ["named", "plain", "restored"]


def _names(tree: PyTree) -> list[str]:
    """Return the paths of the leaves, joined by dots, without the `value` of Flax parameters."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    names = [name.removesuffix(".value") for name in names]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"pytree: expected different paths, got {', '.join(twice)} twice")
    return names


def plain(tree: PyTree) -> Any:
    """Return a single leaf unchanged, and any other pytree as a flat dict from paths to leaves.

    Args:
      tree: a pytree of any types.

    Raises:
      ValueError: if two leaves have the same path, as in `{"a.b": x, "a": {"b": y}}`.

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
    """Return the pytree from which `plain` made `flat`.

    Args:
      like: a pytree of the same structure.
      flat: an array or a flat dict, as returned by `plain`.

    Example:
      >>> restored(({"w": 0}, 0), {"0.w": 5, "1": 6})
      ({'w': 5}, 6)
    """
    structure = jax.tree.structure(like)
    if jax.tree.leaves(like) and jax.tree_util.treedef_is_leaf(structure):
        return flat
    return jax.tree.unflatten(structure, [flat[name] for name in _names(like)])


def named(result: Any) -> dict[str, Any]:
    """Return a dict of the results of a function, each made flat by `plain`. None is left out.

    Args:
      result: a dict or named tuple, whose names are used; a tuple or list, whose entries are named
        "0", "1" and so on; or anything else, which is named "output".

    Raises:
      ValueError: if two names are equal as text, such as 1 and "1"; see also `plain`.

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
        raise ValueError(f"result: expected names that are different as text, got {list(parts)}")
    return dict(zip(names, parts.values(), strict=True))
