"""The parameters of pure functions as attributes of Flax modules."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax.types import PyTree

__all__ = ["Parameters", "path_name"]


def path_name(path: Any, prefix: str = "") -> str:
    """The name of a leaf of a pytree by its path, e.g. `w_ih`; "value" for a bare array.

    Example:
      >>> leaves, _ = jax.tree_util.tree_flatten_with_path({"gate": {"w": jnp.ones(1)}})
      >>> path_name(leaves[0][0], prefix="cell")
      'cell_gate_w'
    """
    parts = [prefix, *(jax.tree_util.keystr((key,), simple=True) for key in path)]
    return "_".join(part for part in parts if part) or "value"


class Parameters(nnx.Module):
    """Base of modules that own the parameters of a pure function, a cell or an attention.

    Each leaf of the pytree is an `nnx.Param` under its own name, so that paths stay readable.

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
        """Makes each leaf an attribute named by its path, e.g. `w_ih`, `initial_state_h`.

        Leaves that are neither floating-point nor complex, such as a permutation, are a
        `nnx.Variable` and not a `nnx.Param`. With a prefix, leaves that are not learned are no
        attribute, and their name is None.
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
                name += "_"  # a parameter may be called `cell`, as attributes here are
            setattr(self, name, nnx.Param(leaf) if learns else nnx.Variable(leaf))
            names.append(name)
        return tuple(names), structure

    def _restored(self, names: tuple[str | None, ...], structure: Any) -> PyTree:
        """The pytree that `_store` was given."""
        return jax.tree.unflatten(structure, [getattr(self, str(name))[...] for name in names])

    if TYPE_CHECKING:  # the parameters, whose names are the function's

        def __getattr__(self, name: str) -> nnx.Param[Any]: ...
