"""The base class of Flax modules that hold the parameters of a pure function."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax.types import PyTree

__all__ = ["Parameters", "path_name"]


def path_name(path: Any, prefix: str = "") -> str:
    """Return a name for a leaf of a pytree, made from its path, such as `w_ih`.

    If the pytree is a single array, its path is empty and the name is "value".

    Example:
      >>> leaves, _ = jax.tree_util.tree_flatten_with_path({"gate": {"w": jnp.ones(1)}})
      >>> path_name(leaves[0][0], prefix="cell")
      'cell_gate_w'
    """
    parts = [prefix, *(jax.tree_util.keystr((key,), simple=True) for key in path)]
    return "_".join(part for part in parts if part) or "value"


class Parameters(nnx.Module):
    """Base class of modules that hold the parameters of a cell or of an attention.

    Each array of the parameters is an `nnx.Param` with its own name, so paths are readable.

    Example:
      >>> class Weights(Parameters):
      ...     def __init__(self, tree):
      ...         self.names, self.structure = self._store("", tree)
      >>> weights = Weights({"w": jnp.ones([2]), "b": None})
      >>> weights.w.shape, weights._restored(weights.names, weights.structure)["b"] is None
      ((2,), True)
    """

    def _store(
        self, prefix: str, tree: PyTree, learned: Sequence[bool] | None = None
    ) -> tuple[tuple[str | None, ...], Any]:
        """Store each leaf as an attribute that is named by its path, such as `w_ih`.

        A leaf that is neither floating-point nor complex, such as a permutation, is stored as
        `nnx.Variable` instead of `nnx.Param`. If a prefix is given, the names begin with the
        prefix, as in `initial_state_h`. With a prefix, leaves that are not learned are not stored,
        and their names are None.

        Returns:
          The names of the leaves, and the structure of the pytree.
        """
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        if learned is None:
            learned = [jnp.issubdtype(leaf.dtype, jnp.inexact) for _, leaf in leaves]
        names: list[str | None] = []
        for (path, leaf), learns in zip(leaves, learned, strict=True):
            if not learns and prefix:
                names.append(None)
                continue
            name = path_name(path, prefix)
            while hasattr(type(self), name) or name in vars(self):
                name += "_"  # because a parameter may have the name of another attribute (`cell`)
            setattr(self, name, nnx.Param(leaf) if learns else nnx.Variable(leaf))
            names.append(name)
        return tuple(names), structure

    def _restored(self, names: tuple[str | None, ...], structure: Any) -> PyTree:
        """Return the pytree that was passed to `_store`, with the current values of its arrays."""
        return jax.tree.unflatten(structure, [getattr(self, str(name))[...] for name in names])

    if TYPE_CHECKING:  # tells type checkers that parameters are attributes of any name

        def __getattr__(self, name: str) -> nnx.Param[Any]: ...
