"""Writes the golden files beside it: what PyTorch's recurrent layers compute, and the gradients.

    python tests/golden/generate_torch.py

This needs PyTorch and NumPy; `tests/test_pytorch.py`, which reads the files, needs neither PyTorch
nor this script. Draws are seeded by the case's name, so cases can come and go independently.

A file is one case. Its arrays have PyTorch's names and layouts with `batch_first=True`: `input`,
`h_0`, `c_0`, `weight_ih_l0`, `bias_hh_l1_reverse`, …, `output`, `h_n`, `c_n`. Each has a leading
axis of two: its value, and the derivative of the loss with respect to it. The loss is

    Σ output ⊙ d_output + Σ h_n ⊙ d_h_n + Σ c_n ⊙ d_c_n

with random d, which are the derivatives of these three. Everything is computed in float64 from
values that float32 can hold, and only then rounded to float32. Besides, a file has `config` (JSON:
the class and its arguments), `torch_version` and, for sequences of unequal length, `lengths`;
`input` is NaN in the padding, since nobody may read it.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

FOLDER = Path(__file__).resolve().parent
BATCH, STEPS, INPUT_SIZE, HIDDEN_SIZE, PROJ_SIZE = 3, 5, 3, 4, 2

BOTH_WAYS = {"num_layers": 2, "bidirectional": True}
CASES: dict[str, tuple[str, dict[str, Any], list[int] | None]] = {
    "rnn_tanh": ("RNN", {"nonlinearity": "tanh"}, None),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}, None),
    "lstm": ("LSTM", {}, None),
    "gru": ("GRU", {}, None),
    "lstm_no_bias": ("LSTM", {"bias": False}, None),
    "gru_no_bias": ("GRU", {"bias": False}, None),
    "lstm_proj": ("LSTM", {"proj_size": PROJ_SIZE}, None),
    "lstm_stacked": ("LSTM", {"num_layers": 2}, None),
    "rnn_bidirectional": ("RNN", {**BOTH_WAYS}, None),
    "lstm_bidirectional": ("LSTM", {**BOTH_WAYS}, None),
    "gru_bidirectional": ("GRU", {**BOTH_WAYS}, None),
    "lstm_proj_bidirectional": ("LSTM", {**BOTH_WAYS, "proj_size": PROJ_SIZE}, None),
    # Lengths in no order; for the GRU all are below T, so that each row has padding.
    "lstm_bidirectional_lengths": ("LSTM", {**BOTH_WAYS}, [3, 5, 1]),
    "gru_lengths": ("GRU", {}, [2, 1, 4]),
}


def leaf(value: np.ndarray) -> torch.Tensor:
    """A float64 tensor that collects a gradient, of values rounded to float32."""
    return torch.tensor(value.astype(np.float32), dtype=torch.float64, requires_grad=True)


def generate(name: str) -> dict[str, np.ndarray]:
    """Runs one case forwards and backwards; returns what goes into its file."""
    kind, options, lengths = CASES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    config = {"input_size": INPUT_SIZE, "hidden_size": HIDDEN_SIZE, **options}
    module = getattr(torch.nn, kind)(**config, batch_first=True, dtype=torch.float64)
    tensors: dict[str, torch.Tensor] = {}
    for key, parameter in module.named_parameters():
        # Wider than PyTorch's own draw and with biases that matter, so that an error shows.
        tensors[key] = leaf(rng.uniform(-0.8, 0.8, parameter.shape))

    xs = rng.standard_normal((BATCH, STEPS, INPUT_SIZE))
    if lengths is not None:
        xs[np.arange(STEPS) >= np.array(lengths)[:, None]] = np.nan
    tensors["input"] = leaf(xs)
    copies = module.num_layers * (2 if module.bidirectional else 1)
    tensors["h_0"] = leaf(
        rng.standard_normal((copies, BATCH, options.get("proj_size", HIDDEN_SIZE)))
    )
    if kind == "LSTM":
        tensors["c_0"] = leaf(rng.standard_normal((copies, BATCH, HIDDEN_SIZE)))

    packed: Any = tensors["input"]
    if lengths is not None:
        packed = pack_padded_sequence(
            packed, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
    start = (tensors["h_0"], tensors["c_0"]) if kind == "LSTM" else tensors["h_0"]
    weights = {key: tensors[key] for key, _ in module.named_parameters()}
    output, final = torch.func.functional_call(module, weights, (packed, start))
    if lengths is not None:
        output, _ = pad_packed_sequence(output, batch_first=True, total_length=STEPS)
    results = {"output": output}
    results |= dict(zip(("h_n", "c_n"), final, strict=True)) if kind == "LSTM" else {"h_n": final}

    cotangents = {
        key: torch.tensor(rng.standard_normal(result.shape).astype(np.float32)).double()
        for key, result in results.items()
    }
    loss = sum((result * cotangents[key]).sum() for key, result in results.items())
    gradients = torch.autograd.grad(loss, list(tensors.values()))  # type: ignore[arg-type]
    derivatives = {**dict(zip(tensors, gradients, strict=True)), **cotangents}

    file: dict[str, np.ndarray] = {
        "config": np.array(json.dumps({"class": kind, **config})),
        "torch_version": np.array(torch.__version__),
    }
    if lengths is not None:
        file["lengths"] = np.array(lengths, np.int32)
    for key, value in {**tensors, **results}.items():
        pair = torch.stack([value, derivatives[key]]).detach().numpy()
        file[key] = pair.astype(np.float32)
    return file


def main() -> None:
    """Writes all files, and says how large they are."""
    total = 0
    for name in CASES:
        path = FOLDER / f"{name}.npz"
        # The stub's named parameter `allow_pickle` claims every keyword.
        np.savez_compressed(path, **generate(name))  # type: ignore[arg-type]
        total += path.stat().st_size
        print(f"{path.name}: {path.stat().st_size} bytes")
    print(f"{len(CASES)} files, {total} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
