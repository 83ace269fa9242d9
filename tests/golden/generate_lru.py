"""Writes the files in the folder `lru` beside it: the authors' code, with gradients.

    python tests/golden/generate_lru.py RECURRENTGEMMA MINIMAL_LRU

The arguments are folders with checkouts of github.com/google-deepmind/recurrentgemma and
github.com/NicolasZucchet/minimal-LRU. Besides JAX and Flax, this needs einops, jaxtyping and
typeguard. `tests/test_cells_lru.py`, which reads the files, needs none of them.

A file is one case. Its arrays have the names and layouts of the code that computed them. Each has a
leading axis of two: its value, and the derivative of the loss with respect to it. The loss is the
sum of the results, each multiplied by random numbers, which are the derivatives of the results.
"""

import importlib
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = Path(__file__).resolve().parent / "lru"
BATCH, STEPS = 2, 7
WIDTH, HEADS = 6, 2
INPUTS, HIDDEN = 3, 5
POSITIONS = {
    "rg_lru_inside": np.arange(3, 3 + STEPS)[None] + np.zeros((BATCH, 1), np.int32),
    "rg_lru_segments": np.array([[0, 1, 2, 3, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4]], np.int32),
}
"""Positions in segments; at position 0, recurrentgemma resets the state."""


def recurrentgemma(folder: Path) -> Any:
    """Return the module `recurrentgemma.jax.layers`, without the packages' other modules."""
    for name in ("recurrentgemma", "recurrentgemma.jax"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    # A recent typeguard does not read the annotations of jaxtyping.
    importlib.import_module("typeguard").typechecked = lambda function: function  # type: ignore[attr-defined]
    return importlib.import_module("recurrentgemma.jax.layers")


def minimal_lru(folder: Path) -> Any:
    """Return the module `lru.model`."""
    sys.path.insert(0, str(folder))
    return importlib.import_module("lru.model")


def pairs(rng: Any, run: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, np.ndarray]:
    """Run a function `(arguments) -> results` and return all values with their derivatives."""

    def loss(arguments: dict[str, Any]) -> tuple[Any, Any]:
        results = run(arguments)
        return sum((results[name] * cotangents[name]).sum() for name in results), results

    shapes = jax.eval_shape(run, arguments)
    cotangents = {
        name: rng.standard_normal(shape.shape).astype(np.float32) for name, shape in shapes.items()
    }
    (_, results), gradients = jax.value_and_grad(loss, has_aux=True)(arguments)
    values, derivatives = {**arguments, **results}, {**gradients, **cotangents}
    return {name: np.stack([values[name], derivatives[name]]) for name in values}


def normal(rng: Any, scale: float, *shape: int) -> jax.Array:
    """Draw random numbers in float32."""
    return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)


def rg_lru(layers: Any, name: str) -> dict[str, np.ndarray]:
    """Run recurrentgemma's RG-LRU. Inside of a sequence it starts from a state, else from None."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    module = layers.RGLRU(width=WIDTH, num_heads=HEADS)
    inner = WIDTH // HEADS
    arguments = {
        "a_param": normal(rng, 1.0, WIDTH) - 3.0,
        "input_gate_w": normal(rng, 0.6, HEADS, inner, inner),
        "input_gate_b": normal(rng, 0.6, HEADS, inner),
        "a_gate_w": normal(rng, 0.6, HEADS, inner, inner),
        "a_gate_b": normal(rng, 0.6, HEADS, inner),
        "x": normal(rng, 1.0, BATCH, STEPS, WIDTH),
    }
    positions = jnp.asarray(POSITIONS[name])
    if name == "rg_lru_inside":
        arguments["cache"] = normal(rng, 1.0, BATCH, WIDTH)

    def run(given: dict[str, Any]) -> dict[str, Any]:
        params = {"a_param": given["a_param"]} | {
            gate: {"w": given[f"{gate}_w"], "b": given[f"{gate}_b"]}
            for gate in ("input_gate", "a_gate")
        }
        y, last_h = module.apply({"params": params}, given["x"], positions, given.get("cache"))
        return {"y": y, "last_h": last_h}

    return pairs(rng, run, arguments) | {"segment_pos": np.asarray(positions)}


def lru(model: Any) -> dict[str, np.ndarray]:
    """Run minimal-LRU's LRU for each sequence of a batch."""
    rng = np.random.default_rng(zlib.crc32(b"lru"))
    module = model.LRU(d_hidden=HIDDEN, d_model=INPUTS)
    arguments = {
        "theta_log": normal(rng, 0.7, HIDDEN),
        "nu_log": normal(rng, 0.7, HIDDEN) - 1.0,
        "gamma_log": normal(rng, 0.5, HIDDEN),
        "B_re": normal(rng, 0.6, HIDDEN, INPUTS),
        "B_im": normal(rng, 0.6, HIDDEN, INPUTS),
        "C_re": normal(rng, 0.6, INPUTS, HIDDEN),
        "C_im": normal(rng, 0.6, INPUTS, HIDDEN),
        "D": normal(rng, 1.0, INPUTS),
        "x": normal(rng, 1.0, BATCH, STEPS, INPUTS),
    }

    def run(given: dict[str, Any]) -> dict[str, Any]:
        params = {name: value for name, value in given.items() if name != "x"}
        return {"y": jax.vmap(lambda x: module.apply({"params": params}, x))(given["x"])}

    return pairs(rng, run, arguments)


def main() -> None:
    """Writes all files, and says how large they are."""
    layers, model = recurrentgemma(Path(sys.argv[1])), minimal_lru(Path(sys.argv[2]))
    files = {name: rg_lru(layers, name) for name in POSITIONS} | {"lru": lru(model)}
    for name, file in files.items():
        path = FOLDER / f"{name}.npz"
        # The stub's named parameter `allow_pickle` claims every keyword.
        np.savez_compressed(path, **file)  # type: ignore[arg-type]
        print(f"{path.name}: {path.stat().st_size} bytes, JAX {jax.__version__}")


if __name__ == "__main__":
    main()
