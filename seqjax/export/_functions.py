"""Export of a function of arrays as a StableHLO program with a manifest, by `jax.export`."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.export._artifact import FORMAT, Artifact
from seqjax.export._inputs import entry_of
from seqjax.export._plain import named, plain, restored
from seqjax.export._quantize import QUANTIZATIONS, dequantized, quantized
from seqjax.kernels import target
from seqjax.types import PyTree

__all__ = ["PLATFORMS", "WEIGHTS", "export_function"]

PLATFORMS = ("cpu", "cuda", "tpu")
"""The default platforms of a program. "rocm" is supported, too."""
WEIGHTS = ("constants", "argument")
"""The places for the weights of a program: constants inside it, or its first argument."""


def export_function(
    function: Callable[..., Any],
    *specs: PyTree,
    model: Any = None,
    weights: str = "constants",
    quantize: str | None = None,
    platforms: Sequence[str] = PLATFORMS,
    kind: str = "function",
) -> Artifact:
    """Export a function of arrays as a StableHLO program.

    The arguments and results of the program do not need the types of this library. An argument that
    is one array remains an array. Any other pytree becomes a flat dict from the path of each leaf
    to the leaf, such as `{"0.h": …}` for the state of a one-layer LSTM. The program returns a dict.
    If `function` returns a dict or a named tuple, the program uses the same names as keys. For a
    tuple or list, the keys are "0", "1", …, and for any other result, the only key is "output".

    Args:
      function: `function(*inputs)`, or `function(model, *inputs)` if `model` is given.
      specs: for each input a pytree of arrays or `jax.ShapeDtypeStruct`. Sizes may be symbols,
        `b, t = jax.export.symbolic_shape("b, t")`, which stand for any size of at least 1.
      model: the object that contains the weights: a Flax module in evaluation mode, or a pytree of
        arrays.
      weights: "constants" stores the weights in the program. "argument" makes the weights the first
        argument, so that they can be replaced; the artifact contains their present values. Random
        keys, for example those of dropout layers, always remain constants.
      quantize: "int8" stores each matrix w as int8 values with one float32 scale for each channel:
        w_ic ≈ q_ic s_c with s_c = max_i |w_ic| / 127, so the error of a weight is at most s_c / 2.
        The program computes this product first and then runs in the dtypes of the model. The
        channels are the rows of an array named `embedding` and the last axis of all others, such as
        the outputs of a dense layer or a convolution. Biases, initial states, arrays with less than
        1,024 values and arrays with less than 16 values in each channel remain as they are. With
        `weights="argument"`, the matrix "w" becomes the two weights "w" and "w.scale". None stores
        the weights as they are.
      platforms: some of "cpu", "cuda", "rocm", "tpu". Kernels are selected for these platforms, not
        for the current machine.
      kind: a name for the kind of program, which is stored in the manifest.

    Returns:
      The artifact.

    Raises:
      TypeError: if `function` is not callable.
      ValueError: if a platform is unknown; if `weights` is "argument" or `quantize` is "int8"
        without a model; if no array of the model can be quantized, or one of them contains values
        that are not finite in float32; or if the names of two results are equal as text, such as 1
        and "1".

    Example:
      >>> from flax import nnx
      >>> linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      >>> xs = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 3"), jnp.float32)
      >>> artifact = export_function(
      ...     lambda model, xs: {"logits": model(xs)}, xs, model=linear, platforms=["cpu"]
      ... )
      >>> artifact(np.ones([4, 3], np.float32))["logits"].shape
      (4, 2)
    """
    if not callable(function):
        raise TypeError(f"function: expected a function, got {checks.brief(function)}")
    as_argument = checks.require_name("weights", weights, WEIGHTS) == "argument"
    if as_argument and model is None:
        raise ValueError("weights: expected 'constants' without a model, got 'argument'")
    if quantize is not None:
        checks.require_name("quantize", quantize, QUANTIZATIONS)
        if model is None:
            raise ValueError(f"quantize: expected None without a model, got {quantize!r}")
    platforms = _checked_platforms(platforms)
    specs = jax.tree.map(_spec, specs)
    leaves: Any = plain(model) if as_argument or quantize else None
    if (as_argument or quantize) and not isinstance(leaves, dict):
        raise ValueError("model: expected a module or a pytree of named weights, got one array")
    stored: Any = quantized(leaves) if quantize else leaves
    kept, keys = _split(stored) if as_argument else (None, {})

    def program(*arguments: Any) -> dict[str, Any]:
        found, inputs, given_weights = model, arguments, stored
        if as_argument:
            given_weights, inputs = arguments[0] | keys, arguments[1:]
        if quantize:
            given_weights = dequantized(given_weights, leaves)
        if given_weights is not None:
            found = restored(model, given_weights)
        given = [restored(like, flat) for like, flat in zip(specs, inputs, strict=True)]
        return named(function(*given) if model is None else function(found, *given))

    inputs = [plain(spec) for spec in specs]
    names = _input_names(function, len(specs), skip=model is not None)
    if as_argument:
        inputs, names = [jax.tree.map(_spec, kept), *inputs], ["weights", *names]
    with target.made_for(platforms):
        exported = jax.export.export(jax.jit(program), platforms=platforms)(*inputs)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "seqjax": _version(),
        "jax": jax.__version__,
        "platforms": list(platforms),
        "calling_convention_version": exported.calling_convention_version,
        "inputs": [entry_of(name, spec) for name, spec in zip(names, inputs, strict=True)],
        "outputs": [entry_of(name, aval) for name, aval in outputs.items()],
        "weights": weights if model is not None else None,
        "quantize": quantize,
        "dtypes": {"weights": dtypes_of(kept), "initial_state": {}},
    }
    return Artifact(exported, manifest, weights=kept)


def _checked_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(platforms, Iterable):
        raise TypeError(f"platforms: expected a list of names, got {checks.brief(platforms)}")
    names = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    if not names:
        raise ValueError("platforms: expected at least one, got none")
    for name in names:
        known = (*PLATFORMS, "rocm")
        if name == "gpu":
            raise ValueError(
                f"platforms: expected one of {', '.join(known)}; got 'gpu'; pass 'cuda' for NVIDIA "
                "GPUs or 'rocm' for AMD GPUs"
            )
        checks.require_name("platforms", name, known)
        if names.count(name) > 1:
            raise ValueError(f"platforms: expected different names, got {name!r} twice")
    return names


def _input_names(function: Callable[..., Any], count: int, *, skip: bool) -> list[str]:
    """Return the names of a function's arguments; `skip` excludes the first argument, the model."""
    single = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    names = [each.name for each in found if each.kind in single][int(skip) :][:count]
    return names + [f"input_{n}" for n in range(len(names), count)]


def _spec(array: Any) -> jax.ShapeDtypeStruct:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(
            f"specs: expected arrays or jax.ShapeDtypeStruct, got {checks.brief(array)}"
        )
    return jax.ShapeDtypeStruct(array.shape, _dtype(array))


def _dtype(array: Any) -> Any:
    """Return the dtype that JAX uses for an array, which depends on `jax_enable_x64`."""
    return jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True)


def _split(weights: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the weights as NumPy arrays, and the random keys, which NumPy cannot represent.

    The keys, for example those of dropout layers, remain constants of the program.
    """
    arrays, keys = {}, {}
    for name, leaf in weights.items():
        if checks.is_key(leaf):
            keys[name] = leaf
        else:
            array = np.asarray(leaf)
            arrays[name] = array.astype(_dtype(array), copy=False)
    return arrays, keys


def dtypes_of(arrays: dict[str, Any] | None) -> dict[str, str]:
    return {name: jnp.dtype(leaf.dtype).name for name, leaf in (arrays or {}).items()}


def _version() -> str:
    from seqjax import __version__  # here, since the package imports this file

    return __version__
