"""What PyTorch's sequences, steps and training share: modules with weights, ways to run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.machine import cores
from benchmarks.timing import fastest
from benchmarks.workload import Structure, Weights

__all__ = ["CELLS", "DEVICE", "Way", "best", "build", "synchronize", "tensor"]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAYERS: dict[str, Any] = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS: dict[str, Any] = {"elman": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


class Way(NamedTuple):
    """One of the ways to run a workload that are tried.

    Attributes:
      flag: `batch_first`; for single steps, whether the cell is used and not the layer.
      threads: of PyTorch's operations.
    """

    flag: bool
    threads: int


WAYS = [Way(flag, threads) for flag in (False, True) for threads in sorted({1, cores()})]
Built = TypeVar("Built")


def best(build_way: Callable[[Way], Built], work: Callable[[Built], None]) -> Way:
    """The way in which work takes least."""
    return fastest({way: functools.partial(work, build_way(way)) for way in WAYS})


def synchronize() -> None:
    """Waits until the device has done its work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of the array on the device."""
    return torch.tensor(array, device=DEVICE)


def _parameters(weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """One direction's weights in PyTorch's order; the second bias is zero but for `b_hn`."""
    b_hh = np.zeros_like(weights["b"])
    if "b_hn" in weights:
        b_hh[-len(weights["b_hn"]) :] = weights["b_hn"]
    return [weights["w_ih"].T, weights["w_hh"].T, weights["b"], b_hh]


def build(structure: Structure, weights: Weights, *, batch_first: bool) -> Any:
    """PyTorch's module with these weights."""
    module = LAYERS[structure.cell](
        structure.inputs,
        structure.hidden,
        structure.layers,
        batch_first=batch_first,
        bidirectional=structure.bidirectional,
    )
    arrays = [array for layer in weights for each in layer for array in _parameters(each)]
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), arrays, strict=True):
            parameter.copy_(torch.tensor(np.ascontiguousarray(array)))
    return module.to(DEVICE)
