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
    """Return the eigenvalues of a cell's recurrent weights, separately for each gate.

    In a linear network, the eigenvalues determine the gradients over many steps: a component of the
    gradient vanishes if the absolute value of its eigenvalue is below 1, and explodes if it is
    above 1.
    In an LSTM or a GRU, gates also multiply the state, so the eigenvalues are only an indication.

    Args:
      cell: the cell.
      params: the parameters of the cell. For a layer, pass `layer.layers[0].forward.cell` and
        `layer.layers[0].forward.params`.

    Returns:
      A dict from the names of gates to eigenvalues, complex `[H]`, in descending order of absolute
      value. For a cell without gates, the only name is "h". If the state is projected to P
      features, the function returns the H eigenvalues of W_hr W_hh, of which H - P are zero. For
      `IndRNN`, the function returns the weights u.

    Raises:
      TypeError: if the parameters have no values, such as under `jax.jit`.
      ValueError: if the cell has no recurrent weights, these are not matrices, the parameters do
        not belong to the cell, or weights are not finite.

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
            "cell: expected a cell with a recurrent matrix [H, H] per gate, got "
            f"{type(cell).__name__}"
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
    """Raise an error if the parameters do not belong to the cell, or have no values."""
    wanted = cell.param_specs()
    if jax.tree.map(np.shape, wanted) != (given := jax.tree.map(np.shape, params)):
        raise ValueError(
            f"params: expected the parameters of this {type(cell).__name__}, of shapes "
            f"{jax.tree.map(np.shape, wanted)}, got {given}"
        )
    leaves = jax.tree.leaves(params)
    if checks.is_traced(params) or any(isinstance(a, jax.ShapeDtypeStruct) for a in leaves):
        raise TypeError(
            "params: expected arrays with values, got traced arrays or shapes; call this function "
            "outside of jax.jit"
        )
