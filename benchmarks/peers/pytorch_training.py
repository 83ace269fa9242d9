"""PyTorch's training step, in eager mode: its recurrent modules are library calls.

PyTorch adds two biases where one is enough, and Adam would change both. The second bias is not
trained, so that all contestants train the same model.
"""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.base import Trainer
from benchmarks.peers.pytorch_modules import DEVICE, Way, build, synchronize, tensor
from benchmarks.tasks import ADAM_EPS, ADAM_RATE, CLIP_NORM, Task

__all__ = ["Descent", "TorchTrainer"]


class Descent:
    """Gradient, clipping and Adam for all parameters of a module except the second biases."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parameters = [
            parameter for name, parameter in module.named_parameters() if "bias_hh" not in name
        ]
        self._optimiser = torch.optim.Adam(self._parameters, lr=ADAM_RATE, eps=ADAM_EPS, fused=True)

    def step(self, loss: torch.Tensor) -> torch.Tensor:
        """Make one update, wait for it, and return the loss."""
        self._module.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        self._optimiser.step()
        synchronize()
        return loss.detach()


class TorchTrainer(Trainer):
    """A training step with one choice of threads and `batch_first`."""

    def __init__(self, task: Task, way: Way) -> None:
        batch_first, self._threads = way
        self.setting = f"batch_first={batch_first}, threads={self._threads}"
        self._last_only = task.readout == "sigmoid"
        self._batch_first = batch_first
        self._embedding = nn.Embedding.from_pretrained(tensor(task.embedding), freeze=False)
        self._recurrent = build(task.structure, task.weights, batch_first=batch_first)
        self._readout = nn.Linear(*task.w_out.shape).to(DEVICE)
        with torch.no_grad():
            self._readout.weight.copy_(tensor(task.w_out.T.copy()))
            self._readout.bias.copy_(tensor(task.b_out))
        ids = tensor(task.ids).long()
        targets = tensor(task.targets)
        self._ids = ids if batch_first else ids.T.contiguous()
        if self._last_only:
            self._targets = targets
        else:
            targets = targets.long()
            self._targets = (targets if batch_first else targets.T.contiguous()).flatten()
        self._descent = Descent(nn.ModuleList([self._embedding, self._recurrent, self._readout]))
        self._loss = torch.tensor(float("nan"))

    def step(self) -> None:
        torch.set_num_threads(self._threads)
        outputs, state = self._recurrent(self._embedding(self._ids))
        if self._last_only:
            hidden = state[0] if isinstance(state, tuple) else state
            logits = self._readout(hidden[-1])[:, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, self._targets)
        else:
            logits = self._readout(outputs).flatten(0, 1)
            loss = functional.cross_entropy(logits, self._targets)
        self._loss = self._descent.step(loss)

    def loss(self) -> float:
        return float(self._loss)
