"""Any function of arrays as a StableHLO program, by `jax.export`, and what its manifest says."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.export._artifact import Artifact
from seqjax.export._plain import named, plain, restored
from seqjax.kernels import target
from seqjax.types import PyTree

__all__ = ["PLATFORMS", "WEIGHTS", "export_function"]

PLATFORMS = ("cpu", "cuda", "tpu")
"""The default platforms of a program. "rocm" is another one."""
WEIGHTS = ("constants", "argument")
"""Where a program has its weights: inside it, or as its first argument."""


def export_function(
    function: Callable[..., Any],
    *specs: PyTree,
    model: Any = None,
    weights: str = "constants",
    platforms: Sequence[str] = PLATFORMS,
    kind: str = "function",
) -> Artifact:
    """Exports any function of arrays.

    The program's arguments and results are plain: an argument that is one array stays one, any
    other pytree becomes a flat dict from each leaf's path to the leaf, such as `{"0.h": …}` for the
    state of an LSTM of one layer. The result is a dict, see `seqjax.export.plain.named`.

    Args:
      function: `function(*inputs)`, or `function(model, *inputs)` if there is a model.
      specs: for each input a pytree of `jax.ShapeDtypeStruct` or arrays like it. Sizes may be
        symbols, `b, t = jax.export.symbolic_shape("b, t")`, which stand for any size of at least 1.
      model: what holds the weights: a Flax module in evaluation mode, or a pytree of arrays.
      weights: "constants", inside the program, or "argument", its first one, so that other weights
        can be given to it; they are kept in the artifact.
      platforms: some of "cpu", "cuda", "rocm", "tpu". Kernels are planned for these, whatever this
        machine is.
      kind: what the manifest says this is.

    Returns:
      The artifact.

    Raises:
      TypeError: not a function.
      ValueError: unknown names of platforms; weights as an argument without a model; results whose
        names are the same as text.

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
    platforms = _checked_platforms(platforms)
    specs = jax.tree.map(_spec, specs)
    kept = jax.tree.map(np.asarray, plain(model)) if as_argument else None
    if as_argument and not isinstance(kept, dict):
        raise ValueError("model: expected a module or a pytree of named weights, got one array")

    def program(*arguments: Any) -> dict[str, Any]:
        found, inputs = model, arguments
        if as_argument:
            found, inputs = restored(model, arguments[0]), arguments[1:]
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
        "format": 1,
        "kind": kind,
        "seqjax": _version(),
        "jax": jax.__version__,
        "platforms": list(platforms),
        "calling_convention_version": exported.calling_convention_version,
        "inputs": [_entry(name, spec) for name, spec in zip(names, inputs, strict=True)],
        "outputs": [_entry(name, aval) for name, aval in outputs.items()],
        "weights": weights if model is not None else None,
        "dtypes": {"weights": dtypes_of(kept), "initial_state": {}},
    }
    return Artifact(exported, manifest, weights=kept)


def _checked_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    names = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    if not names:
        raise ValueError("platforms: expected at least one, got none")
    for name in names:
        checks.require_name("platforms", name, (*PLATFORMS, "rocm"))
    return names


def _input_names(function: Callable[..., Any], count: int, *, skip: bool) -> list[str]:
    """The names of a function's arguments, those behind the model."""
    single = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    names = [each.name for each in found if each.kind in single][int(skip) :][:count]
    return names + [f"input_{n}" for n in range(len(names), count)]


def _spec(array: Any) -> jax.ShapeDtypeStruct:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(
            f"specs: expected jax.ShapeDtypeStruct or arrays like it, got {checks.brief(array)}"
        )
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _described(array: Any) -> dict[str, Any]:
    shape = [n if isinstance(n, int) else str(n) for n in array.shape]
    return {"shape": shape, "dtype": jnp.dtype(array.dtype).name}


def _entry(name: str, tree: Any) -> dict[str, Any]:
    """An input or output in the manifest: one array, or a dict of them."""
    if isinstance(tree, dict):
        return {"name": name, "arrays": {key: _described(leaf) for key, leaf in tree.items()}}
    return {"name": name, **_described(tree)}


def dtypes_of(arrays: dict[str, Any] | None) -> dict[str, str]:
    return {name: jnp.dtype(leaf.dtype).name for name, leaf in (arrays or {}).items()}


def _version() -> str:
    from seqjax import __version__  # not above: the package imports this file

    return __version__
