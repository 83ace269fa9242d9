"""An encoder-decoder in PyTorch: `nn.LSTM` is the encoder, and `nn.LSTMCell` runs the decoder.

The keys of the attention and, in training, the logits are computed for all steps at once, since no
step needs those of an earlier step. PyTorch's LSTM has two bias vectors. The second one is not
trained, as in `pytorch_training`.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import rnn

from benchmarks.peers.base import Trainer, Writer
from benchmarks.peers.pytorch_modules import DEVICE, Way, build, synchronize, tensor
from benchmarks.peers.pytorch_training import Descent
from benchmarks.translation import BEGIN, END, Translation

__all__ = ["TorchTranslator", "TorchWriter"]


def _linear(task: Translation, name: str, *, bias: bool = True) -> nn.Linear:
    weight = task.arrays[name].reshape(len(task.arrays[name]), -1)
    linear = nn.Linear(*weight.shape, bias=bias).to(DEVICE)
    with torch.no_grad():
        linear.weight.copy_(tensor(np.ascontiguousarray(weight.T)))
        if bias:
            linear.bias.copy_(tensor(task.arrays["b" if name == "w_m" else f"{name}_b"]))
    return linear


class _Model(nn.Module):
    """The encoder, the bridge from encoder to decoder, additive attention, and the decoder."""

    def __init__(self, task: Translation) -> None:
        super().__init__()
        embed = nn.Embedding.from_pretrained
        self.source = embed(tensor(task.arrays["source"]), freeze=False)
        self.target = embed(tensor(task.arrays["target"]), freeze=False)
        self.encoder = build(task.reads, task.encoder, batch_first=True)
        self.bridge_h, self.bridge_c = _linear(task, "bridge_h"), _linear(task, "bridge_c")
        self.query, self.key = _linear(task, "w_q", bias=False), _linear(task, "w_m")
        self.score = _linear(task, "v", bias=False)
        self.cell = nn.LSTMCell(task.writes.inputs, task.writes.hidden).to(DEVICE)
        layer = build(task.writes, task.writer, batch_first=True)
        with torch.no_grad():
            for mine, given in zip(self.cell.parameters(), layer.parameters(), strict=True):
                mine.copy_(given)
        self.combine, self.readout = _linear(task, "combine"), _linear(task, "readout")

    def encode(self, source: Any, lengths: Any) -> tuple[Any, ...]:
        """Return memory, keys, mask and the decoder's first state."""
        packed = rnn.pack_padded_sequence(
            self.source(source), lengths, batch_first=True, enforce_sorted=False
        )
        outputs, (h, c) = self.encoder(packed)
        memory, _ = rnn.pad_packed_sequence(outputs, batch_first=True)
        last = torch.cat([h[0], h[1], c[0], c[1]], dim=-1)
        state = torch.tanh(self.bridge_h(last)), torch.tanh(self.bridge_c(last))
        mask = torch.arange(memory.shape[1], device=DEVICE) < lengths[:, None].to(DEVICE)
        return memory, self.key(memory), mask, state

    def step(self, embedded: Any, memory: Any, keys: Any, mask: Any, state: Any) -> Any:
        """Make one step; return the context and the new state."""
        scores = self.score(torch.tanh(self.query(state[0])[:, None] + keys))[..., 0]
        weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
        context = torch.bmm(weights[:, None], memory)[:, 0]
        return context, self.cell(torch.cat([embedded, context], dim=-1), state)

    def logits(self, output: Any, context: Any) -> Any:
        """Return the logits."""
        return self.readout(torch.tanh(self.combine(torch.cat([output, context], dim=-1))))


class TorchTranslator(Trainer):
    """A training step with the given number of threads."""

    def __init__(self, task: Translation, way: Way) -> None:
        self._threads = way.threads
        self.setting = f"threads={way.threads}"
        self._model = _Model(task)
        self._descent = Descent(self._model)
        self._source, self._tokens, labels = (
            tensor(array).long() for array in (task.source, task.tokens, task.labels)
        )
        self._lengths = torch.tensor(task.source_lengths).long()
        steps = torch.arange(labels.shape[1], device=DEVICE)
        padding = steps >= tensor(task.target_lengths)[:, None]
        self._labels = labels.masked_fill(padding, -100).flatten()
        self._loss = torch.tensor(float("nan"))

    def step(self) -> None:
        torch.set_num_threads(self._threads)
        memory, keys, mask, state = self._model.encode(self._source, self._lengths)
        outputs, contexts = [], []
        for embedded in self._model.target(self._tokens).unbind(1):
            context, state = self._model.step(embedded, memory, keys, mask, state)
            outputs.append(state[0])
            contexts.append(context)
        logits = self._model.logits(torch.stack(outputs, 1), torch.stack(contexts, 1))
        loss = functional.cross_entropy(logits.flatten(0, 1), self._labels)
        self._loss = self._descent.step(loss)

    def loss(self) -> float:
        return float(self._loss)


class TorchWriter(Writer):
    """Greedy decoding or beam search, step by step in Python, until all sentences have ended."""

    def __init__(self, task: Translation, width: int, way: Way) -> None:
        self._threads = way.threads
        self.setting = f"threads={way.threads}"
        self._model = _Model(task).eval()
        self._source = tensor(task.source).long()
        self._lengths = torch.tensor(task.source_lengths).long()
        self._width, self._most = width, 2 * task.sizes[1]
        self._tokens: Any = None

    def write(self) -> None:
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            self._tokens = self._search()
        synchronize()

    def tokens(self) -> np.ndarray:
        return np.asarray(self._tokens.cpu().numpy())

    def _search(self) -> Any:
        """Return each sentence's best hypothesis, `[B, L]`; a finished hypothesis repeats END."""
        width, batch = self._width, len(self._source)
        memory, keys, mask, state = self._model.encode(self._source, self._lengths)
        memory, keys, mask, h, c = (
            x.repeat_interleave(width, 0) for x in (memory, keys, mask, *state)
        )
        log_probs = torch.full((batch, width), -torch.inf, device=DEVICE)
        log_probs[:, 0] = 0.0
        last = torch.full((batch * width,), BEGIN, device=DEVICE)
        ended = torch.zeros(batch, width, dtype=torch.bool, device=DEVICE)
        written = torch.zeros(batch, width, 0, dtype=torch.long, device=DEVICE)
        first = torch.arange(batch, device=DEVICE)[:, None] * width
        for _ in range(self._most):
            context, (h, c) = self._model.step(self._model.target(last), memory, keys, mask, (h, c))
            scores = torch.log_softmax(self._model.logits(h, context), -1).view(batch, width, -1)
            only_end = torch.full_like(scores, -torch.inf)
            only_end[..., END] = 0.0
            scores = torch.where(ended[..., None], only_end, scores) + log_probs[..., None]
            log_probs, chosen = scores.flatten(1).topk(width)
            parent, token = chosen // scores.shape[-1], chosen % scores.shape[-1]
            rows = (first + parent).flatten()
            h, c = h[rows], c[rows]
            written = torch.cat(
                [written.gather(1, parent[..., None].expand_as(written)), token[..., None]], -1
            )
            ended = ended.gather(1, parent) | (token == END)
            last = token.flatten()
            if bool(ended.all()):
                break
        best = written[:, 0]
        return functional.pad(best, (0, self._most - best.shape[1]), value=END)
