"""Functions that split the arrays of Keras's `get_weights()` into cells, layers and directions."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.interop import _dtypes

__all__ = ["Arrays", "arrange", "split"]

# The number of gates of each kind of cell.
_GATES = (1, 3, 4)
Arrays = list[Any]


def split(arrays: Sequence[Any], name: str) -> list[Arrays]:
    """Return the arrays of each cell: the kernel, the recurrent kernel and, if present, the bias.

    Args:
      arrays: the arrays of all cells, one after another.
      name: the name of the source, for messages.

    Raises:
      ValueError: the arrays do not have the shapes of a list of recurrent cells.
    """
    if len(arrays) in (2, 3):  # one cell; wrong shapes are found later
        return [_native(list(arrays), name)]
    for size in (3, 2):
        chunks = [list(arrays[i : i + size]) for i in range(0, len(arrays), size)]
        if chunks and all(len(chunk) == size and _is_cell(chunk) for chunk in chunks):
            return [_native(chunk, name) for chunk in chunks]
    raise ValueError(
        f"{name}: expected the kernel, recurrent kernel and bias of recurrent layers only, got "
        f"{len(arrays)} arrays of the shapes {_shapes(arrays)}; pass a list with the get_weights() "
        "of each recurrent layer"
    )


def arrange(cells: list[Arrays], bidirectional: bool | None, name: str) -> list[list[Arrays]]:
    """Return a list of cells grouped into layers with one or two directions each.

    In a stack, the number of inputs of a layer is the number of outputs of the previous layer. In a
    bidirectional layer, both directions have the same number of inputs. If the shapes fit both a
    stack and bidirectional layers, the user must pass `bidirectional`.

    Args:
      cells: the arrays of each cell.
      bidirectional: whether each layer has two directions. If None, the shapes decide.
      name: the name of the source, for messages.

    Raises:
      ValueError: the shapes do not fit the value of `bidirectional`, or `bidirectional` is None and
        the shapes fit both True and False.
    """
    pairs = [cells[i : i + 2] for i in range(0, len(cells), 2)]
    both = all(_are_directions(pair) for pair in pairs) and all(
        _inputs(after[0]) in (_units(before[0]), 2 * _units(before[0]))
        for before, after in itertools.pairwise(pairs)
    )
    stack = all(_inputs(b) == _units(a) for a, b in itertools.pairwise(cells))
    count = len(cells)
    if bidirectional is None and both and stack:
        raise ValueError(
            f"{name}: ambiguous, the shapes fit a stack of {count} layers as well as {count // 2} "
            "bidirectional layers; pass bidirectional=False or True"
        )
    chosen = both if bidirectional is None else bidirectional
    if not (both if chosen else stack):
        expected = {None: "a stack or two directions", True: "two directions", False: "a stack"}
        flat = [array for cell in cells for array in cell]
        raise ValueError(
            f"{name}: expected the arrays of {expected[bidirectional]}, got the shapes "
            f"{_shapes(flat)}; pass a list with the get_weights() of each layer"
        )
    return pairs if chosen else [[cell] for cell in cells]


def _shapes(arrays: Sequence[Any]) -> str:
    text = ", ".join(str(np.shape(array)) for array in arrays[:12])
    return text + (", ..." if len(arrays) > 12 else "")


def _inputs(cell: Arrays) -> int:
    return int(np.shape(cell[0])[0])


def _units(cell: Arrays) -> int:
    return int(np.shape(cell[1])[0])


def _is_cell(arrays: Arrays) -> bool:
    """Return whether the arrays have the shapes of one cell's kernels and, if present, its bias."""
    kernel, recurrent, *bias = map(np.shape, arrays)
    if len(kernel) != 2 or len(recurrent) != 2 or 0 in (*kernel, *recurrent):
        return False
    units, width = recurrent
    if kernel[1] != width or width not in [gates * units for gates in _GATES]:
        return False
    wide = [(2, width), (2 * width,)] if width == 3 * units else [(2 * width,)]
    return all(shape in [(width,), *wide] for shape in bias)


def _are_directions(pair: Sequence[Arrays]) -> bool:
    return len(pair) == 2 and [*map(np.shape, pair[0])] == [*map(np.shape, pair[1])]


def _native(arrays: Arrays, name: str) -> Arrays:
    """Return the arrays of a cell, converted from `CuDNNLSTM` or `CuDNNGRU` to `LSTM` or `GRU`.

    In `CuDNNLSTM` and `CuDNNGRU`, one vector contains the input bias and then the recurrent bias.
    The matrix of each gate is transposed. A kernel has the shape `[I, H]`, but its numbers are in
    the order of `[H, I]`.
    """
    if len(arrays) != 3 or not _is_cell(arrays):
        return arrays
    kernel, recurrent, bias = arrays
    inputs, (units, width) = _inputs(arrays), np.shape(recurrent)
    if width == units or np.shape(bias) != (2 * width,):
        return arrays
    xp: Any = jnp if checks.is_traced(arrays) else np
    gates = range(0, width, units)
    blocks = [kernel[:, g : g + units].reshape(units, inputs).T for g in gates]
    squares = [recurrent[:, g : g + units].T for g in gates]
    halves = bias.reshape(2, width)
    both = halves if width == 3 * units else _sum(halves, name)
    return [xp.concatenate(blocks, 1), xp.concatenate(squares, 1), both]


def _sum(biases: Any, name: str) -> Any:
    """Return the sum of two biases in the dtype of the biases."""
    if checks.is_traced(biases):
        return biases[0] + biases[1]
    both = np.asarray(biases, np.float64).sum(0)
    _dtypes.require_fitting(f"{name}: bias", both, biases.dtype)
    return both.astype(biases.dtype)
