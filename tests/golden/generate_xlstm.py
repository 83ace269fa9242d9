"""Writes `xlstm/*.npz` beside it: what the sLSTM of the authors' code computes, and the gradients.

    git clone https://github.com/NX-AI/xlstm
    python tests/golden/generate_xlstm.py xlstm

This needs PyTorch, NumPy and a checkout of that repository, whose version without CUDA it runs;
`tests/test_cells_slstm.py` and `tests/interop/test_papers.py`, which read the files, need none of
them.

A file is one case, with our names and layouts: `input [B, T, I]`, `w_ih`, `w_hh`, `b`, `h_0`,
`output` and the final `h_n`, `c_n`, `n_n`, `m_n`. Each array has a leading axis of two: its value,
and the derivative of the loss with respect to it. The loss is the sum of the results, each
multiplied by a random array, which is its derivative. Everything is computed in float64 from values
that float32 can hold, and only then rounded to float32. In the case `carried`, which begins with a
state, there are also `c_0`, `n_0` and `m_0`.

The cases `layer` and `layer_convolved` are those of `sLSTMLayer`, without and with its convolution.
Their arrays have the names and layouts of its state dict, besides `input` and `output`.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent / "xlstm"
VANILLA = "xlstm/blocks/slstm/src/vanilla"
BATCH, STEPS, INPUT_SIZE, HEADS, WIDTH = 2, 6, 3, 2, 3
HIDDEN_SIZE = HEADS * WIDTH


def authors_code(checkout: Path) -> ModuleType:
    """The folder of their repository, as a package of its own."""
    folder = checkout / VANILLA
    spec = importlib.util.spec_from_file_location(
        "vanilla", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vanilla"] = module
    spec.loader.exec_module(module)
    return module


def leaf(value: np.ndarray) -> torch.Tensor:
    """A float64 tensor that collects a gradient, of values rounded to float32."""
    return torch.tensor(value.astype(np.float32), dtype=torch.float64, requires_grad=True)


def generate(theirs: ModuleType, carried: bool) -> dict[str, np.ndarray]:
    """Runs one case forwards and backwards; returns what goes into its file."""
    rng = np.random.default_rng(int(carried))
    normal = lambda *shape: leaf(np.asarray(rng.standard_normal(shape)))  # noqa: E731
    tensors = {
        "input": normal(BATCH, STEPS, INPUT_SIZE),
        "w_ih": normal(INPUT_SIZE, 4 * HIDDEN_SIZE),
        "w_hh": normal(HEADS, WIDTH, 4 * WIDTH),
        "b": normal(4 * HIDDEN_SIZE),
        "h_0": normal(BATCH, HIDDEN_SIZE),
    }
    zeros = torch.zeros(BATCH, HIDDEN_SIZE, dtype=torch.float64)
    if carried:
        tensors |= {name: normal(BATCH, HIDDEN_SIZE) for name in ("c_0", "m_0")}
        tensors["n_0"] = leaf(rng.uniform(1, 3, (BATCH, HIDDEN_SIZE)))
    start = torch.stack([tensors.get(f"{name}_0", zeros) for name in "hcnm"])
    states, final, _ = theirs.slstm_forward(
        (tensors["input"] @ tensors["w_ih"]).transpose(0, 1),
        start,
        tensors["w_hh"].transpose(1, 2),
        tensors["b"],
        theirs.slstm_pointwise_function_registry["slstm"],
    )
    results = {"output": states[0, 1:].transpose(0, 1)}
    results |= {f"{name}_n": value for name, value in zip("hcnm", final, strict=True)}
    cotangents = {
        key: torch.tensor(rng.standard_normal(result.shape).astype(np.float32)).double()
        for key, result in results.items()
    }
    loss = sum((result * cotangents[key]).sum() for key, result in results.items())
    gradients = torch.autograd.grad(loss, list(tensors.values()))  # type: ignore[arg-type]
    derivatives = {**dict(zip(tensors, gradients, strict=True)), **cotangents}
    return {
        key: torch.stack([value, derivatives[key]]).detach().numpy().astype(np.float32)
        for key, value in {**tensors, **results}.items()
    }


def layer_module(checkout: Path) -> Any:
    """The module with `sLSTMLayer`, without the code of the packages around it."""
    for name in ("xlstm", "xlstm.blocks", "xlstm.blocks.slstm", "xlstm.blocks.slstm.src"):
        package = ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    compiled = ModuleType("xlstm.blocks.slstm.src.cuda_init")
    compiled.load = None  # type: ignore[attr-defined]  # compiles the version with CUDA
    sys.modules[compiled.__name__] = compiled
    return importlib.import_module("xlstm.blocks.slstm.layer")


def generate_layer(theirs: Any, kernel_size: int) -> dict[str, np.ndarray]:
    """Runs a whole layer forwards and backwards; returns what goes into its file."""
    config = theirs.sLSTMLayerConfig(
        embedding_dim=HIDDEN_SIZE,
        num_heads=HEADS,
        conv1d_kernel_size=kernel_size,
        backend="vanilla",
    )
    layer = theirs.sLSTMLayer(config).double()
    rng = np.random.default_rng(10 + kernel_size)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    tensors = {name: leaf(0.7 * rng.standard_normal(shape)) for name, shape in shapes.items()}
    xs = leaf(rng.standard_normal((BATCH, STEPS, HIDDEN_SIZE)))
    output = torch.func.functional_call(layer, tensors, (xs,))
    slope = torch.tensor(rng.standard_normal(output.shape).astype(np.float32)).double()
    given = {**tensors, "input": xs}
    found = torch.autograd.grad((output * slope).sum(), list(given.values()))
    derivatives = {**dict(zip(given, found, strict=True)), "output": slope}
    return {
        key: torch.stack([value, derivatives[key]]).detach().numpy().astype(np.float32)
        for key, value in {**given, "output": output}.items()
    }


def main() -> None:
    """Writes all files, and says how large they are."""
    theirs, layers = authors_code(Path(sys.argv[1])), layer_module(Path(sys.argv[1]))
    FOLDER.mkdir(exist_ok=True)
    files = {name: generate(theirs, name == "carried") for name in ("fresh", "carried")}
    files |= {"layer": generate_layer(layers, 0), "layer_convolved": generate_layer(layers, 4)}
    for name, file in files.items():
        path = FOLDER / f"{name}.npz"
        # The stub's named parameter `allow_pickle` claims every keyword.
        np.savez_compressed(path, **file)  # type: ignore[arg-type]
        print(f"{path.name}: {path.stat().st_size} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
