"""The workload of a case that measures speed: its weights, inputs and number of operations."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import seqjax
from benchmarks import workload
from benchmarks.peers.ours import cell_of
from benchmarks.workload import Shape, Structure, Workload

__all__ = ["Recurrence", "make", "operations"]

LINEAR = "min_gru"
"""The cell that is linear in its state, so all time steps can be computed in parallel.

`benchmarks.workload` does not have this cell.
"""


class Recurrence(NamedTuple):
    """One layer over a batch of sequences, in NumPy, float32, time-major.

    Attributes:
      cell: the seqjax cell.
      params: the parameters of the cell.
      xs: `[T, B, I]`.
      cotangent: the cotangent of the outputs, `[T, B, H]`; zero in padding.
      lengths: int32 `[B]`, or None.
      resets: bool `[T, B]`, or None.
      common: the same workload in the layout of `benchmarks.workload`, which all libraries share.
        If no other contestant has the cell, `common` is None.
    """

    cell: Any
    params: Any
    xs: np.ndarray
    cotangent: np.ndarray
    lengths: np.ndarray | None
    resets: np.ndarray | None
    common: Workload | None


def make(cell: str, variant: str, shape: Sequence[int]) -> Recurrence:
    """Draw the workload of a case.

    Args:
      cell: "lstm", "gru" or "min_gru".
      variant: "plain", "lengths" or "resets". Lengths are drawn between T/2 and T. With "resets",
        one step in fifty has a reset on average.
      shape: B, T, I, H.
    """
    sizes = Shape(*shape)
    resets = None
    if variant == "resets":
        resets = np.random.default_rng(1).random((sizes.steps, sizes.batch)) < 0.02
    base = "gru" if cell == LINEAR else cell
    common = workload.make(base, "plain" if variant == "resets" else variant, sizes)
    xs, cotangent = (
        np.ascontiguousarray(array.swapaxes(0, 1)) for array in (common.xs, common.cotangent)
    )
    if cell == LINEAR:
        ours = seqjax.cells.MinGRU(sizes.inputs, sizes.hidden)
        params = ours.init(jax.random.key(0))
        return Recurrence(ours, params, xs, cotangent, common.lengths, resets, None)
    ours, params_class = cell_of(common.structure)
    params = params_class(**common.weights[0][0])
    return Recurrence(ours, params, xs, cotangent, common.lengths, resets, common)


def operations(cell: str, shape: Sequence[int], what: str) -> int:
    """Return the number of floating-point operations in matrix products; see `workload.flops`."""
    batch, steps, inputs, hidden = shape
    if cell == LINEAR:  # two gates of the input, no product with the state
        return 2 * steps * batch * 2 * hidden * inputs * {"forward": 1, "gradient": 3}[what]
    return workload.flops(Structure(cell, inputs, hidden), batch, steps, what)
