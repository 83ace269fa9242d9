"""Writes the files in the folder `s5_sru` beside it: what the authors' code computes.

    python tests/golden/generate_s5_sru.py S5_FOLDER SRU_FOLDER

The folders are checkouts of github.com/lindermanlab/S5 (commit 3c18fdb6b061) and of
github.com/asappresearch/sru (commit 9ddc8da12f06). This needs JAX, Flax and PyTorch;
`tests/test_cells_s5.py`, `tests/test_cells_sru.py` and `tests/interop/test_papers.py`, which read
the files, need neither the folders nor PyTorch.

A file is one case. Its arrays have the authors' names and layouts, and each has a leading axis of
two: its value, and the derivative of Σ output ⊙ d_output (+ Σ c_n ⊙ d_c_n) with respect to it, as
in `generate_torch.py`. `config` is JSON: the sizes and options of our cell, or the options of the
authors' module in the cases of `STACK_CASES`. Everything is computed
in float64 from values that float32 can hold, and only then rounded to float32.
"""

import importlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent / "s5_sru"
BATCH, STEPS = 2, 6

S5_CASES: dict[str, dict[str, Any]] = {
    "s5_zoh": {"discretization": "zoh"},
    "s5_bilinear": {"discretization": "bilinear", "clip_eigenvalues": False},
    "s5_no_pairs": {"conj_pairs": False, "clip_eigenvalues": False},
    "s5_bidirectional": {"bidirectional": True},
}
SRU_CASES: dict[str, dict[str, Any]] = {
    "sru_wide": {"input_size": 3},
    "sru_same": {"highway_bias": -1.0},
    "sru_linear": {"use_peephole": False, "rescale": False},
}
STACK_CASES: dict[str, dict[str, Any]] = {
    "sru_stack": {"projection_size": 2, "highway_bias": -1.0},
    "sru_bidirectional": {"bidirectional": True, "highway_bias": -2.0},
}
"""Options of the authors' `SRU`, the module with several layers."""
SIZES = {"s5": {"input_size": 3, "hidden_size": 4}, "sru": {"input_size": 4, "hidden_size": 4}}


def draw(rng: Any, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Normal numbers that float32 can hold, in float64."""
    return {
        name: (0.7 * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)
        for name, shape in shapes.items()
    }


def of_s5(name: str) -> dict[str, Any]:
    """Run one case of the authors' S5 forwards and backwards."""
    jnp.DeviceArray = jax.Array  # type: ignore[attr-defined]  # the name that old versions had
    from s5.ssm import S5SSM  # type: ignore[import-not-found]
    from s5.ssm_init import make_DPLR_HiPPO  # type: ignore[import-not-found]

    config = SIZES["s5"] | S5_CASES[name]
    inputs, states = config["input_size"], config["hidden_size"]
    pairs, both = config.get("conj_pairs", True), config.get("bidirectional", False)
    eigenvalues, _, _, vectors, _ = make_DPLR_HiPPO(2 * states if pairs else states)
    eigenvalues, vectors = eigenvalues[:states], vectors[:, :states]
    module = S5SSM(
        eigenvalues.real, eigenvalues.imag, vectors, vectors.conj().T,
        H=inputs, P=states, C_init="lecun_normal", dt_min=0.001, dt_max=0.1, conj_sym=pairs,
        discretization=config.get("discretization", "zoh"),
        clip_eigs=config.get("clip_eigenvalues", True), bidirectional=both,
    )  # fmt: skip
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    arrays = draw(
        rng, Lambda_re=(states,), Lambda_im=(states,), B=(states, inputs, 2),
        **{name: (inputs, states, 2) for name in (("C1", "C2") if both else ("C",))},
        D=(inputs,), log_step=(states, 1), input=(BATCH, STEPS, inputs),
    )  # fmt: skip
    (d_output,) = draw(rng, d_output=(BATCH, STEPS, inputs)).values()

    def run(arrays: dict[str, Any]) -> tuple[Any, Any]:
        params = {key: value for key, value in arrays.items() if key != "input"}
        output = jax.vmap(lambda xs: module.apply({"params": params}, xs))(arrays["input"])
        return (output * d_output).sum(), output

    (_, output), gradients = jax.value_and_grad(run, has_aux=True)(
        jax.tree.map(jnp.asarray, arrays)
    )
    found = {key: np.stack([arrays[key], gradients[key]]) for key in arrays}
    initial = {"initial_eigenvalues": np.stack([eigenvalues.real, eigenvalues.imag])}
    return {**found, "output": np.stack([output, d_output]), **initial, "config": config}


def sru_modules() -> Any:
    """Return the authors' module `sru.modules`, without their compiled kernels."""
    with mock.patch("torch.utils.cpp_extension.load"), mock.patch("torch.jit.script", lambda f: f):
        return importlib.import_module("sru.modules")


def of_sru(name: str) -> dict[str, Any]:
    """Run one case of the authors' SRU forwards and backwards, by their loop in Python."""
    config = SIZES["sru"] | SRU_CASES[name]
    inputs, states = config["input_size"], config["hidden_size"]
    module = sru_modules().SRUCell(
        inputs, states, rescale=config.get("rescale", True),
        highway_bias=config.get("highway_bias", 0.0), v1=not config.get("use_peephole", True),
    ).double()  # fmt: skip
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = draw(
        rng, weight=tuple(module.weight.shape), weight_c=(2 * states,), bias=(2 * states,),
        input=(STEPS, BATCH, inputs), c_0=(BATCH, states),
    )  # fmt: skip
    if not config.get("use_peephole", True):
        drawn["weight_c"][:] = 0
    tensors = {key: torch.tensor(value, requires_grad=True) for key, value in drawn.items()}
    weights = {key: tensors[key] for key in ("weight", "weight_c", "bias")}
    # Their buffer has the rounding of float32.
    alpha = (1 + 2 * np.exp(config.get("highway_bias", 0.0))) ** 0.5
    scale = alpha if config.get("rescale", True) else 1.0
    weights["scale_x"] = torch.tensor([scale], dtype=torch.float64)
    output, c_n = torch.func.functional_call(module, weights, (tensors["input"], tensors["c_0"]))
    results = {"output": output, "c_n": c_n}
    cotangents = draw(rng, **{key: tuple(value.shape) for key, value in results.items()})
    loss = sum((results[key] * torch.tensor(cotangents[key])).sum() for key in results)
    gradients = torch.autograd.grad(loss, list(tensors.values()))  # type: ignore[arg-type]
    derivatives = {**dict(zip(tensors, gradients, strict=True)), **cotangents}
    found = {
        key: np.stack([np.asarray(value.detach()), np.asarray(derivatives[key])])
        for key, value in {**tensors, **results}.items()
    }
    return {**found, "config": config}


def of_stack(name: str) -> dict[str, Any]:
    """Run two layers of the authors' SRU forwards and backwards; arrays by their state dict."""
    config = {"input_size": 3, "hidden_size": 4, "num_layers": 2, "rescale": True}
    module = sru_modules().SRU(**config, **STACK_CASES[name]).double()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shapes = {key: tuple(value.shape) for key, value in module.named_parameters()}
    drawn = draw(rng, **shapes, input=(STEPS, BATCH, 3))
    tensors = {key: torch.tensor(value, requires_grad=True) for key, value in drawn.items()}
    weights = {key: tensors[key] for key in shapes}
    output, _ = torch.func.functional_call(module, weights, (tensors["input"],))
    (d_output,) = draw(rng, d_output=tuple(output.shape)).values()
    loss = (output * torch.tensor(d_output)).sum()
    gradients = torch.autograd.grad(loss, list(tensors.values()))
    values = {**drawn, "output": output.detach().numpy()}
    slopes = {**dict(zip(tensors, gradients, strict=True)), "output": d_output}
    found = {key: np.stack([values[key], np.asarray(slopes[key])]) for key in values}
    # The buffers have no derivatives.
    buffers = {key: np.asarray(value) for key, value in module.named_buffers()}
    return {**found, **buffers, "config": STACK_CASES[name]}


def main() -> None:
    """Writes all files, and says how large they are."""
    sys.path[:0] = sys.argv[1:3]
    jax.config.update("jax_enable_x64", True)
    for name in (*S5_CASES, *SRU_CASES, *STACK_CASES):
        run = of_stack if name in STACK_CASES else of_s5 if name in S5_CASES else of_sru
        arrays = run(name)
        config = arrays.pop("config")
        single = {key: value.astype(np.float32) for key, value in arrays.items()}
        path = FOLDER / f"{name}.npz"
        # The stub's named parameter `allow_pickle` claims every keyword.
        np.savez_compressed(path, config=np.array(json.dumps(config)), **single)  # type: ignore[arg-type]
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
