"""Eigenvalues of recurrent weights."""

from typing import Any

import jax
import numpy as np

from seqjax import checks
from seqjax.cells._base import Cell
from seqjax.nn._layer import recurrent_matrices
from seqjax.traces._gates import gate_names
from seqjax.types import PyTree

__all__ = ["eigenvalues"]


def eigenvalues(cell: Cell[Any, Any], params: PyTree) -> dict[str, np.ndarray]:
    """The eigenvalues of a cell's recurrent weights, of each gate's block on its own.

    Of a linear network they say it all: below 1 in absolute value gradients vanish, above 1 they
    explode. Gates that multiply the state make an LSTM or a GRU less simple.

    Args:
      cell: the cell.
      params: its parameters; of a layer `layer.layers[0].forward.params`, with its `cell`.

    Returns:
      By the name of the gate complex `[H]`, largest first; "h" for cells without gates. Where the
      state is projected, of the products W_hr W_hh: `[H]`, of which H - P are zero. `IndRNN`'s are
      its weights u.

    Raises:
      TypeError: parameters without values, such as those traced by `jax.jit`.
      ValueError: the cell has no recurrent weights, or they are no matrices; parameters that are
        not the cell's; weights that are not finite.

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = GRU(3, 5, recurrent_init="orthogonal")
      >>> values = eigenvalues(cell, cell.init(jax.random.key(0)))
      >>> {name: round(float(abs(v).max()), 4) for name, v in values.items()}
      {'r': 1.0, 'z': 1.0, 'n': 1.0}
    """
    _check_params(cell, params)
    size = cell.hidden_size
    leaves = dict(jax.tree_util.tree_leaves_with_path(params))
    blocks: list[np.ndarray] = []
    for path in recurrent_matrices(params):
        matrix = np.asarray(leaves[path], np.float64)
        if matrix.ndim == 2 and matrix.shape[1] % size == 0:
            blocks += np.split(matrix, matrix.shape[1] // size, axis=1)
    if not blocks and hasattr(params, "u"):
        blocks = [np.diag(np.asarray(params.u, np.float64))]
    if blocks and hasattr(params, "w_hr"):
        projection = np.asarray(params.w_hr, np.float64)
        blocks = [projection @ block for block in blocks]
    if not blocks or any(block.shape != (size, size) for block in blocks):
        raise ValueError(
            f"cell: expected one with a recurrent matrix [H, H] a gate, got {type(cell).__name__}"
        )
    if not all(np.isfinite(block).all() for block in blocks):
        raise ValueError("params: expected finite recurrent weights, got NaN or inf")
    names = list(gate_names(cell)) or ["h"]
    if len(names) != len(blocks):
        names = [f"block {index}" for index in range(1, len(blocks) + 1)]
    values = [np.linalg.eigvals(block).astype(complex) for block in blocks]
    return {
        name: value[np.argsort(-np.abs(value), kind="stable")]
        for name, value in zip(names, values, strict=True)
    }


def _check_params(cell: Cell[Any, Any], params: PyTree) -> None:
    """Raises where parameters are not this cell's, or have no values to look at."""
    wanted = jax.eval_shape(cell.init, jax.random.key(0))
    if jax.tree.map(np.shape, wanted) != (given := jax.tree.map(np.shape, params)):
        raise ValueError(
            f"params: expected those of this {type(cell).__name__}, "
            f"{jax.tree.map(np.shape, wanted)}, got {given}"
        )
    leaves = jax.tree.leaves(params)
    if checks.is_traced(params) or any(isinstance(a, jax.ShapeDtypeStruct) for a in leaves):
        raise TypeError(
            "params: expected arrays with values, got traced ones or shapes alone; call this "
            "outside of jax.jit"
        )
