"""Writes the files in the folder `cfc` beside it: what the authors' package computes.

    python tests/golden/generate_cfc.py

This needs PyTorch and ncps 1.0.1 (`pip install ncps`); `tests/test_cells_irregular.py`, which reads
the files, needs neither.

A file is one case. Its arrays have the authors' names and layouts, and each has a leading axis of
two: its value, and the derivative of Σ output ⊙ d_output (+ Σ h_n ⊙ d_h_n + Σ c_n ⊙ d_c_n) with
respect to it, as in `generate_torch.py`. `config` is JSON: the sizes and options of our cell.
Everything is computed in float64 from values that float32 can hold, and only then rounded to
float32.

ncps broadcasts the times of a batch along the wrong axis, so each sequence runs alone.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent / "cfc"
BATCH, STEPS, INPUTS, STATES = 2, 5, 3, 4

CASES: dict[str, dict[str, Any]] = {
    "default": {"backbone_units": 6},
    "no_gate": {"backbone_units": 6, "mode": "no_gate", "activation": "gelu"},
    "pure": {"backbone_units": 6, "mode": "pure", "activation": "silu"},
    "deep": {"backbone_units": 6, "backbone_layers": 3},
    "shallow": {"backbone_layers": 0},
    "mixed": {"backbone_units": 6},
}


def draw(rng: Any, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Normal numbers that float32 can hold, in float64."""
    return {
        name: (0.7 * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)
        for name, shape in shapes.items()
    }


def run(name: str) -> dict[str, Any]:
    """Run one case of ncps forwards and backwards."""
    from ncps.torch import CfC  # type: ignore[import-not-found]

    config, mixed = CASES[name], name == "mixed"
    module = CfC(INPUTS, STATES, mixed_memory=mixed, **config).double()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights = {key: tuple(value.shape) for key, value in module.named_parameters()}
    starts = {"h_0": (BATCH, STATES)} | ({"c_0": (BATCH, STATES)} if mixed else {})
    drawn = draw(rng, **weights, input=(BATCH, STEPS, INPUTS), elapsed=(BATCH, STEPS), **starts)
    drawn["elapsed"] = abs(drawn["elapsed"])
    tensors = {key: torch.tensor(value, requires_grad=True) for key, value in drawn.items()}
    given = {key: tensors[key] for key in weights}
    rows = []
    for row in range(BATCH):
        part = slice(row, row + 1)
        first = tensors["h_0"][part]
        state = (first, tensors["c_0"][part]) if mixed else first
        times = tensors["elapsed"][part]
        rows.append(
            torch.func.functional_call(module, given, (tensors["input"][part], state, times))
        )
    results = {"output": torch.cat([output for output, _ in rows])}
    if mixed:
        results["h_n"] = torch.cat([state[0] for _, state in rows])
        results["c_n"] = torch.cat([state[1] for _, state in rows])
    else:
        results["h_n"] = torch.cat([state for _, state in rows])
    cotangents = draw(rng, **{key: tuple(value.shape) for key, value in results.items()})
    loss = sum((results[key] * torch.tensor(cotangents[key])).sum() for key in results)
    gradients = torch.autograd.grad(loss, list(tensors.values()))  # type: ignore[arg-type]
    derivatives = {**dict(zip(tensors, gradients, strict=True)), **cotangents}
    found = {
        key: np.stack([np.asarray(value.detach()), np.asarray(derivatives[key])])
        for key, value in {**tensors, **results}.items()
    }
    sizes = {"input_size": INPUTS, "hidden_size": STATES}
    return {**found, "config": sizes | config}


def main() -> None:
    """Writes all files, and says how large they are."""
    FOLDER.mkdir(exist_ok=True)
    for name in CASES:
        arrays = run(name)
        config = arrays.pop("config")
        single = {key: value.astype(np.float32) for key, value in arrays.items()}
        path = FOLDER / f"{name}.npz"
        # The stub's named parameter `allow_pickle` claims every keyword.
        np.savez_compressed(path, config=np.array(json.dumps(config)), **single)  # type: ignore[arg-type]
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
