"""One layer of a stack: the parameters of one or two directions, and how they are run."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax.cells.base import Cell
from seqjax.types import Array, PyTree, Shape, Unrolled
from seqjax.unroll import unroll

__all__ = ["MERGE_MODES", "Bidirectional", "Direction", "Layer", "MergeMode", "merge"]

MergeMode: TypeAlias = Literal["concat", "sum", "mean", "mul", "none"]
MERGE_MODES: tuple[MergeMode, ...] = ("concat", "sum", "mean", "mul", "none")


class Bidirectional(NamedTuple):
    """A pair of things for the two directions: states, or outputs with `merge_mode="none"`.

    Attributes:
      forward: of the direction that starts at the first step.
      backward: of the direction that starts at the last real step.
    """

    forward: Any
    backward: Any


def merge(mode: MergeMode, forward: Array, backward: Array) -> Any:
    """Joins the outputs of two directions.

    Args:
      mode: "concat" along the features, "sum", "mean", "mul" (elementwise), or "none" for the pair.
      forward: `[..., H]`.
      backward: `[..., H]`.

    Returns:
      `[..., 2H]` for "concat", `Bidirectional` for "none", else `[..., H]`.

    Example:
      >>> merge("mean", jnp.array([1.0]), jnp.array([3.0])).tolist()
      [2.0]
    """
    match mode:
        case "concat":
            return jnp.concatenate([forward, backward], axis=-1)
        case "sum":
            return forward + backward
        case "mean":
            return (forward + backward) / 2
        case "mul":
            return forward * backward
        case _:
            return Bidirectional(forward, backward)


def path_name(path: Any, prefix: str = "") -> str:
    """The name of a leaf of a pytree by its path, e.g. `w_ih`; "value" for a bare array."""
    parts = [prefix, *(jax.tree_util.keystr((key,), simple=True) for key in path)]
    return "_".join(part for part in parts if part) or "value"


class Direction(nnx.Module):
    """A cell's parameters as attributes: each leaf of `cell.init` an `nnx.Param` of its own name.

    Args:
      cell: the cell.
      learned_initial_state: whether the initial state is a parameter too: `initial_state`,
        or `initial_state_h` and so on for a state of several arrays.
      param_dtype: of all parameters.
      rngs: draws the parameters, from the stream "params".

    Example:
      >>> from seqjax.cells import GRU
      >>> direction = Direction(GRU(3, 5), param_dtype=jnp.float32, rngs=nnx.Rngs(0))
      >>> direction.w_hh.shape
      (5, 15)
    """

    def __init__(
        self,
        cell: Cell[Any, Any],
        *,
        learned_initial_state: bool = False,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        self.cell = cell
        self._names, self._structure = self._store("", cell.init(rngs.params(), param_dtype))
        self._state_names: tuple[str, ...] = ()
        self._state_structure = None
        if learned_initial_state:
            zeros = cell.initial_state((), param_dtype)
            self._state_names, self._state_structure = self._store("initial_state", zeros)

    def _store(self, prefix: str, tree: PyTree) -> tuple[tuple[str, ...], Any]:
        """Makes each leaf an attribute named by its path, e.g. `w_ih`, `initial_state_h`."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        names = []
        for path, leaf in leaves:
            name = path_name(path, prefix)
            setattr(self, name, nnx.Param(leaf))
            names.append(name)
        return tuple(names), structure

    @property
    def params(self) -> PyTree:
        """The parameters as the cell knows them."""
        return jax.tree.unflatten(self._structure, [getattr(self, n)[...] for n in self._names])

    def start(self, batch_shape: Shape, dtype: Any) -> PyTree:
        """The state to start from: learned, or the cell's own."""
        if not self._state_names:
            return self.cell.initial_state(batch_shape, dtype)
        leaves = [getattr(self, name)[...] for name in self._state_names]
        return jax.tree.unflatten(
            self._state_structure,
            [jnp.broadcast_to(a.astype(dtype), (*batch_shape, *a.shape)) for a in leaves],
        )

    def __call__(
        self, xs: PyTree, *, state: PyTree, reset_state: PyTree, **options: Any
    ) -> Unrolled:
        """Runs `unroll` with these parameters; arguments as there."""
        return unroll(self.cell, self.params, xs, state=state, reset_state=reset_state, **options)


class Layer(nnx.Module):
    """One layer of a stack: a direction or two, and the normalisation of what they give.

    Attributes:
      forward: the direction that starts at the first step.
      backward: the other one, or None.
      norm: `nnx.LayerNorm` or `nnx.BatchNorm` over the merged outputs, or None.

    Example:
      >>> from seqjax.cells import GRU
      >>> direction = Direction(GRU(3, 5), param_dtype=jnp.float32, rngs=nnx.Rngs(0))
      >>> Layer(direction).backward is None
      True
    """

    def __init__(
        self,
        forward: Direction,
        backward: Direction | None = None,
        norm: nnx.LayerNorm | nnx.BatchNorm | None = None,
    ) -> None:
        self.forward = forward
        self.backward = backward
        self.norm = norm

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The forward direction, and the backward one if there is one."""
        return (self.forward,) if self.backward is None else (self.forward, self.backward)
