"""PyTorch's `nn.RNN`, `nn.LSTM` and `nn.GRU`, on CUDA if PyTorch finds it, otherwise on the CPU.

The best setting is chosen before the timing, for each workload, separately for inference and
gradient: one thread or one thread per core, with or without `batch_first`. Inference uses
`no_grad`. Sequences of different lengths are packed. The batch is sorted by length in advance
(`enforce_sorted=True`). The contestant `pytorch_padded` does not pack, so it also computes the
padding. Its results are correct only in the forward direction, and only its outputs are correct,
not its final state. Streaming uses a cell such as `nn.LSTMCell`, or a layer on a sequence of one
step, whichever is faster. Training uses the fused Adam. `nn.LSTM` is one library call, so
`torch.compile` would not change it.
"""

import functools
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.peers.base import Gradients, Peer, Prepared, Stepper, Trainer, Writer
from benchmarks.peers.pytorch_modules import CELLS, Way, best, build, synchronize, tensor
from benchmarks.tasks import Task
from benchmarks.translation import Translation
from benchmarks.workload import Structure, Workload
from seqjax._machine import cores

__all__ = ["PyTorch", "PyTorchPadded", "to_common"]


def to_common(structure: Structure, gradients: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return one direction's gradients in the layout that `benchmarks.workload` defines."""
    w_ih, w_hh, b_ih, b_hh = gradients
    found = {"w_ih": w_ih.T, "w_hh": w_hh.T, "b": b_ih}
    return found | ({"b_hn": b_hh[-structure.hidden :]} if structure.cell == "gru" else {})


class _Prepared(Prepared):
    """A workload that runs with one choice of threads and `batch_first`."""

    def __init__(self, workload: Workload, way: Way, *, pack: bool) -> None:
        batch_first, self._threads = way
        self.setting = f"batch_first={batch_first}, threads={self._threads}"
        self._structure = workload.structure
        self._module = build(workload.structure, workload.weights, batch_first=batch_first)
        self._weights = list(self._module.parameters())
        self._batch_first = batch_first
        self._order, self._lengths = np.arange(workload.batch), None
        if pack and workload.lengths is not None:
            self._order = np.argsort(-workload.lengths, kind="stable")
            self._lengths = torch.tensor(workload.lengths[self._order], dtype=torch.int64)
        self._xs = tensor(self._own(workload.xs)).requires_grad_()
        self._cotangent = tensor(self._own(workload.cotangent))

    def _own(self, array: np.ndarray) -> np.ndarray:
        """Convert from the shared layout: sort by length and, if chosen, put time first."""
        array = array[self._order]
        return array if self._batch_first else np.swapaxes(array, 0, 1).copy()

    def _common(self, array: torch.Tensor) -> np.ndarray:
        """Return the inverse of `_own`."""
        found = array.detach().cpu().numpy()
        found = found if self._batch_first else np.swapaxes(found, 0, 1)
        return found[np.argsort(self._order)]

    def _apply(self) -> torch.Tensor:
        torch.set_num_threads(self._threads)
        if self._lengths is None:
            return self._module(self._xs)[0]
        packed = pack_padded_sequence(self._xs, self._lengths, batch_first=self._batch_first)
        return pad_packed_sequence(self._module(packed)[0], batch_first=self._batch_first)[0]

    def _forward(self) -> torch.Tensor:
        with torch.no_grad():
            outputs = self._apply()
        synchronize()
        return outputs

    def _gradient(self) -> tuple[torch.Tensor, ...]:
        loss = torch.vdot(self._apply().flatten(), self._cotangent.flatten())
        gradients = torch.autograd.grad(loss, [self._xs, *self._weights])
        synchronize()
        return gradients

    def forward(self) -> None:
        self._forward()

    def gradient(self) -> None:
        self._gradient()

    def outputs(self) -> np.ndarray:
        return self._common(self._forward())

    def gradients(self) -> Gradients:
        xs, *rest = self._gradient()
        arrays = [gradient.cpu().numpy() for gradient in rest]
        each = [to_common(self._structure, arrays[n : n + 4]) for n in range(0, len(arrays), 4)]
        count = self._structure.directions
        weights = [each[n : n + count] for n in range(0, len(each), count)]
        return Gradients(self._common(xs), weights)


class _Best(Prepared):
    """A workload that runs inference and gradient each in its fastest way."""

    def __init__(self, forward: _Prepared, gradient: _Prepared) -> None:
        self.setting = f"forward {forward.setting}; gradient {gradient.setting}"
        self._inference, self._training = forward, gradient

    def forward(self) -> None:
        self._inference.forward()

    def gradient(self) -> None:
        self._training.gradient()

    def outputs(self) -> np.ndarray:
        return self._inference.outputs()

    def gradients(self) -> Gradients:
        return self._training.gradients()


class _Stepper(Stepper):
    """Single steps, computed by a cell such as `nn.LSTMCell` or by a layer such as `nn.LSTM`."""

    def __init__(self, workload: Workload, way: Way) -> None:
        by_cell, self._threads = way
        self.setting = f"{'cell' if by_cell else 'layer'}, threads={self._threads}"
        structure = workload.structure
        layer = build(structure, workload.weights, batch_first=False)
        self._xs = tensor(workload.xs)
        self._by_cell = by_cell
        if by_cell:
            cell = CELLS[structure.cell](structure.inputs, structure.hidden).to(self._xs.device)
            with torch.no_grad():
                for theirs, value in zip(cell.parameters(), layer.parameters(), strict=True):
                    theirs.copy_(value)
        self._module = cell if by_cell else layer
        self._x = self._input(0)
        self._state: Any = None

    def _input(self, t: int) -> torch.Tensor:
        return self._xs[:, t] if self._by_cell else self._xs[:, t][None]

    def _advance(self, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        torch.set_num_threads(self._threads)
        with torch.no_grad():
            if not self._by_cell:
                return self._module(x, state)
            state = self._module(x, state)
        return (state[0] if isinstance(state, tuple) else state), state

    def step(self) -> None:
        _, self._state = self._advance(self._x, self._state)
        synchronize()

    def outputs(self) -> np.ndarray:
        state, outputs = None, []
        for t in range(self._xs.shape[1]):
            output, state = self._advance(self._input(t), state)
            outputs.append(output.reshape(self._xs.shape[0], -1).cpu().numpy())
        return np.stack(outputs, axis=1)


class PyTorch(Peer):
    """PyTorch's own modules."""

    name: ClassVar[str] = "pytorch"
    distributions: ClassVar[tuple[str, ...]] = ("torch",)
    pack: ClassVar[bool] = True

    def threads(self) -> dict[str, int]:
        return {"torch, at most": cores()}

    def prepare(self, workload: Workload) -> Prepared | str:
        build_way = functools.partial(_Prepared, workload, pack=self.pack)
        works = (_Prepared.forward, _Prepared.gradient)
        return _Best(*(build_way(best(build_way, work)) for work in works))

    def stepper(self, workload: Workload) -> Stepper | str:
        def steps(stepper: Stepper) -> None:
            for _ in range(50):
                stepper.step()

        build_way = functools.partial(_Stepper, workload)
        return build_way(best(build_way, steps))

    def trainer(self, task: Task) -> Trainer | str:
        from benchmarks.peers.pytorch_training import TorchTrainer

        # Trying a step changes the weights, so the chosen way starts with new ones.
        build_way = functools.partial(TorchTrainer, task)
        return build_way(best(build_way, TorchTrainer.step))

    def translator(self, task: Translation) -> Trainer | str:
        from benchmarks.peers.pytorch_translation import TorchTranslator

        build_way = functools.partial(TorchTranslator, task)
        return build_way(best(build_way, TorchTranslator.step))

    def writer(self, task: Translation, width: int) -> Writer | str:
        from benchmarks.peers.pytorch_translation import TorchWriter

        build_way = functools.partial(TorchWriter, task, width)
        return build_way(best(build_way, TorchWriter.write))


class PyTorchPadded(PyTorch):
    """PyTorch without packed sequences. It is used only for the workload with lengths."""

    name: ClassVar[str] = "pytorch_padded"
    pack: ClassVar[bool] = False

    def prepare(self, workload: Workload) -> Prepared | str:
        return "same as pytorch" if workload.lengths is None else super().prepare(workload)

    def stepper(self, workload: Workload) -> Stepper | str:
        del workload
        return "same as pytorch"

    def trainer(self, task: Task) -> Trainer | str:
        del task
        return "same as pytorch"

    def translator(self, task: Translation) -> Trainer | str:
        del task
        return "same as pytorch"

    def writer(self, task: Translation, width: int) -> Writer | str:
        del task, width
        return "same as pytorch"
