"""Code that PyTorch's contestants share: modules with given weights, and ways to run a workload."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.timing import fastest
from benchmarks.workload import Structure, Weights
from seqjax._machine import cores

__all__ = ["CELLS", "DEVICE", "Way", "best", "build", "synchronize", "tensor"]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAYERS: dict[str, Any] = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS: dict[str, Any] = {"elman": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


class Way(NamedTuple):
    """A way to run a workload in PyTorch.

    Attributes:
      flag: the value of `batch_first`. For single steps: whether to use a cell (such as
        `nn.LSTMCell`) or a layer (such as `nn.LSTM`).
      threads: the number of threads of PyTorch's operations.
    """

    flag: bool
    threads: int


WAYS = [Way(flag, threads) for flag in (False, True) for threads in sorted({1, cores()})]
Built = TypeVar("Built")


def best(build_way: Callable[[Way], Built], work: Callable[[Built], None]) -> Way:
    """Return the fastest way."""
    return fastest({way: functools.partial(work, build_way(way)) for way in WAYS})


def synchronize() -> None:
    """Wait until the device has done its work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def tensor(array: np.ndarray) -> torch.Tensor:
    """Return a copy of the array on the device."""
    return torch.tensor(array, device=DEVICE)


def _parameters(weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return one direction's weights in PyTorch's order; the second bias is 0 except `b_hn`."""
    b_hh = np.zeros_like(weights["b"])
    if "b_hn" in weights:
        b_hh[-len(weights["b_hn"]) :] = weights["b_hn"]
    return [weights["w_ih"].T, weights["w_hh"].T, weights["b"], b_hh]


def build(structure: Structure, weights: Weights, *, batch_first: bool) -> Any:
    """Return PyTorch's module with these weights."""
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
