"""Run PyTorch's layers in several precisions. For resets, run its cells in a loop."""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.device.precisions import PRECISIONS
from benchmarks.device.workloads import Recurrence
from benchmarks.peers.pytorch import to_common
from benchmarks.peers.pytorch_modules import CELLS, DEVICE, build, synchronize

__all__ = ["TorchContestant"]


class TorchContestant:
    """`nn.LSTM` or `nn.GRU` on one workload in one precision.

    Sequences of different lengths are sorted by length beforehand and packed. PyTorch's layers do
    not support resets. If `loop` is True, a Python loop therefore runs PyTorch's cell step by step
    and sets the state to zero at resets.
    """

    def __init__(self, problem: Recurrence, precision: str, *, loop: bool = False) -> None:
        if problem.common is None:
            raise ValueError("PyTorch has no such layer")
        if problem.resets is not None and not loop:
            raise ValueError("PyTorch's layers have no resets")
        self._precision = PRECISIONS[precision]
        dtype = getattr(torch, self._precision.dtype)
        structure = problem.common.structure
        self._structure = structure
        layer = build(structure, problem.common.weights, batch_first=False).to(dtype)
        self._module = self._cell(layer) if loop else layer
        self._weights = list(self._module.parameters())
        self._order = np.arange(problem.xs.shape[1])
        self._lengths = self._kept = None
        if problem.lengths is not None:
            self._order = np.argsort(-problem.lengths, kind="stable")
            self._lengths = torch.tensor(problem.lengths[self._order], dtype=torch.int64)
        if problem.resets is not None:
            self._kept = torch.tensor(~problem.resets, device=DEVICE, dtype=dtype)[..., None]
        self._xs, self._cotangent = (
            torch.tensor(array[:, self._order], device=DEVICE, dtype=dtype)
            for array in (problem.xs, problem.cotangent)
        )
        self._xs.requires_grad_()

    def _cell(self, layer: Any) -> Any:
        """Return the cell with the layer's weights."""
        cell = CELLS[self._structure.cell](self._structure.inputs, self._structure.hidden)
        cell = cell.to(device=DEVICE, dtype=next(layer.parameters()).dtype)
        with torch.no_grad():
            for ours, theirs in zip(cell.parameters(), layer.parameters(), strict=True):
                ours.copy_(theirs)
        return cell

    def _apply(self) -> torch.Tensor:
        torch.backends.cuda.matmul.allow_tf32 = self._precision.tf32
        torch.backends.cudnn.allow_tf32 = self._precision.tf32
        if self._kept is not None:
            return torch.stack(list(self._stepped()))
        if self._lengths is None:
            return self._module(self._xs)[0]
        packed = pack_padded_sequence(self._xs, self._lengths)
        return pad_packed_sequence(self._module(packed)[0])[0]

    def _stepped(self) -> Iterator[torch.Tensor]:
        """Return outputs step by step, with the state set to zero at resets."""
        assert self._kept is not None
        state: Any = None
        for x, keep in zip(self._xs, self._kept, strict=True):
            if isinstance(state, tuple):
                state = tuple(keep * part for part in state)
            elif state is not None:
                state = keep * state
            state = self._module(x, state)
            yield state[0] if isinstance(state, tuple) else state

    def forward(self) -> torch.Tensor:
        """Compute the outputs in inference mode, and wait until the device has finished."""
        with torch.no_grad():
            outputs = self._apply()
        synchronize()
        return outputs

    def gradient(self) -> tuple[torch.Tensor, ...]:
        """Compute the gradients with respect to inputs and weights, and wait for the device."""
        found = torch.autograd.grad(self._apply(), [self._xs, *self._weights], self._cotangent)
        synchronize()
        return found

    def calls(self) -> dict[str, Callable[[], Any]]:
        """Return a dict from "forward" and "gradient" to the functions to time."""
        return {"forward": self.forward, "gradient": self.gradient}

    def results(self, what: str) -> dict[str, Any]:
        """Return a dict from seqjax's array names to arrays.

        If `what` is "forward", the arrays are the outputs. Otherwise, they are the gradients.
        """
        back = np.argsort(self._order)
        if what == "forward":
            return {"outputs": jnp.asarray(_numpy(self.forward())[:, back])}
        xs, *weights = self.gradient()
        common = to_common(self._structure, [_numpy(each) for each in weights])
        return {"xs": jnp.asarray(_numpy(xs)[:, back])} | {
            name: jnp.asarray(array) for name, array in common.items()
        }


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
