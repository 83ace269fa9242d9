"""The base class of Flax modules that hold the parameters of a pure function."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax.types import PyTree

__all__ = ["Names", "Parameters", "path_name"]

Names: TypeAlias = tuple[str, ...]
"""The attributes of one leaf: one, or those of the real and the imaginary part; or none."""


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
    ) -> tuple[tuple[Names, ...], Any]:
        """Store each leaf as an attribute that is named by its path, such as `w_ih`.

        A learned complex leaf is stored as two real ones, `w_re` and `w_im`: the gradient that
        JAX computes for a complex array is the conjugate of the direction in which the loss rises,
        so an optimiser of optax would raise the loss along the imaginary part.

        A leaf that is neither floating-point nor complex, such as a permutation, is stored as
        `nnx.Variable` instead of `nnx.Param`. If a prefix is given, the names begin with the
        prefix, as in `initial_state_h`. With a prefix, leaves that are not learned are not stored,
        and have no names.

        Returns:
          The names of each leaf, and the structure of the pytree.
        """
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        if learned is None:
            learned = [jnp.issubdtype(leaf.dtype, jnp.inexact) for _, leaf in leaves]
        names: list[Names] = []
        for (path, leaf), learns in zip(leaves, learned, strict=True):
            name = path_name(path, prefix)
            if learns and jnp.iscomplexobj(leaf):
                parts = {f"{name}_re": leaf.real, f"{name}_im": leaf.imag}
            else:
                parts = {name: leaf} if learns or not prefix else {}
            names.append(tuple(self._add(*part, learns) for part in parts.items()))
        return tuple(names), structure

    def _add(self, name: str, leaf: jax.Array, learns: bool) -> str:
        """Store an array as an attribute; return the attribute's name."""
        while hasattr(type(self), name) or name in vars(self):
            name += "_"  # because a parameter may have the name of another attribute (`cell`)
        setattr(self, name, nnx.Param(leaf) if learns else nnx.Variable(leaf))
        return name

    def _leaf(self, names: Names) -> jax.Array:
        """Return the current value of the leaf with these names."""
        parts = [getattr(self, name)[...] for name in names]
        return jax.lax.complex(*parts) if len(parts) == 2 else parts[0]

    def _restored(self, names: tuple[Names, ...], structure: Any) -> PyTree:
        """Return the pytree that was passed to `_store`, with the current values of its arrays."""
        return jax.tree.unflatten(structure, [self._leaf(each) for each in names])

    if TYPE_CHECKING:  # tells type checkers that parameters are attributes of any name

        def __getattr__(self, name: str) -> nnx.Param[Any]: ...
