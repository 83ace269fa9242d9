"""Functions that save and load a model together with the arguments that build it."""

import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import checks, sharding
from seqjax._files import FilePath, new_folder
from seqjax.training import _model_files as model_files
from seqjax.types import PyTree

__all__ = ["load_model", "save_model"]

Model = TypeVar("Model", bound=nnx.Module)

FILE = "model.npz"
_SAVED = nnx.Not(nnx.Any(nnx.RngState, nnx.Intermediate))


def save_model(
    model: nnx.Module,
    folder: FilePath,
    *,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model, and the arguments that build it, to the file `model.npz` in a folder.

    The file holds the arrays of all variables with their dtypes: parameters, batch statistics and
    other state, but not random streams and intermediates. The file is written atomically: if
    writing fails, an older model in the folder is not changed. NumPy can read the file. Dtypes that
    NumPy lacks, such as bfloat16, are stored as unsigned integers with the same bits.

    Args:
      model: a Flax NNX module, such as the `model` that `fit` returns.
      folder: the folder, which is created if it does not exist. Other files in the folder are not
        changed.
      config: the arguments of the model's class, as a dict from names to values, without `rngs`.
        JSON must be able to hold the values: numbers, strings, booleans, None, and lists and dicts
        of these.
      overwrite: whether a model that is already in the folder is replaced.

    Warns:
      UserWarning: the class of the model does not take exactly the arguments of `config` and
        `rngs`.

    Raises:
      FileExistsError: the folder holds a model, and `overwrite` is False.
      TypeError: `model` is not a module, one of its variables is not an array of numbers, or JSON
        cannot hold a value in `config` without a change.
      ValueError: `folder` is not the path of a folder, or `config` contains `rngs`.

    Example:
      >>> import tempfile
      >>> from seqjax import training
      >>> folder = tempfile.mkdtemp()
      >>> config = {"in_features": 3, "out_features": 2}
      >>> model = nnx.Linear(**config, rngs=nnx.Rngs(7))
      >>> training.save_model(model, folder, config=config)
      >>> training.save_model(model, folder, config=config)
      Traceback (most recent call last):
      FileExistsError: folder: expected one without a model, got ...; overwrite=True replaces it
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model: expected a flax.nnx.Module, got {checks.brief(model)}")
    path = new_folder("folder", folder) / FILE
    checked = _checked(config)
    _warn_if_it_cannot_be_built(type(model), checked)
    arrays = _arrays(model)
    if jax.process_index():  # only the first of several processes writes
        return
    if not checks.require_bool("overwrite", overwrite) and path.exists():
        raise FileExistsError(
            f"folder: expected one without a model, got {os.fspath(path.parent)!r}; overwrite=True "
            "replaces it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    model_files.write(path, type(model).__name__, checked, arrays)


def load_model(
    folder: FilePath, model_class: Callable[..., Model], *, rngs: nnx.Rngs | None = None
) -> Model:
    """Build a model from the configuration that `save_model` wrote, and fill in its arrays.

        model = model_class(**config, rngs=rngs)

    Args:
      folder: the folder of the model.
      model_class: the model's class, or a function that builds the model.
      rngs: the random streams of the new model, which the file does not contain. None means
        `nnx.Rngs(0)`.

    Returns:
      The model with the saved values and dtypes, in evaluation mode. `fit` can train the model
      further. Before you train it in your own loop, call `model.train()`.

    Raises:
      FileNotFoundError: there is no model in the folder.
      TypeError: `model_class` does not take the saved configuration and `rngs`.
      ValueError: the model has other arrays than the file; the file is damaged, was written by a
        newer version, or holds 64-bit numbers while `jax_enable_x64` is off.

    Example:
      >>> import tempfile
      >>> from seqjax import training
      >>> folder = tempfile.mkdtemp()
      >>> config = {"in_features": 3, "out_features": 2}
      >>> model = nnx.Linear(**config, rngs=nnx.Rngs(7))
      >>> training.save_model(model, folder, config=config)
      >>> loaded = training.load_model(folder, nnx.Linear)
      >>> bool((loaded.kernel[...] == model.kernel[...]).all())
      True
    """
    path = new_folder("folder", folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: expected one that save_model wrote, got {os.fspath(path.parent)!r} without "
            f"the file {FILE}"
        )
    written, config, arrays = model_files.read(path)
    model = _built(model_class, config, nnx.Rngs(0) if rngs is None else rngs)
    state = _state(model)
    source = f"{os.fspath(path)!r}, which save_model wrote for the class {written}"
    _require_same(type(model).__name__, _named(state), arrays, source)
    nnx.update(
        model,
        jax.tree_util.tree_map_with_path(
            lambda place, leaf: _like(leaf, arrays[_name(place)], _name(place), source), state
        ),
    )
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _checked(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the configuration, or raise if JSON cannot hold one of its values unchanged."""
    config = {} if config is None else config
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        raise TypeError(f"config: expected a dict of arguments by name, got {checks.brief(config)}")
    if "rngs" in config:
        raise ValueError("config: expected no 'rngs', since load_model passes it")
    for name, value in config.items():
        try:
            unchanged = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError, RecursionError):
            unchanged = False
        if not unchanged:
            raise TypeError(
                f"config[{name!r}]: expected a value that JSON can hold (a finite number, a "
                "string, a boolean, None, a list or a dict with strings as keys), got "
                f"{checks.brief(value)}"
            )
    return dict(config)


def _warn_if_it_cannot_be_built(model_class: type[nnx.Module], config: dict[str, Any]) -> None:
    """Warn if a class needs other arguments than those of the configuration and `rngs`."""
    error = _misfit(model_class, config)
    if error is not None:
        warnings.warn(
            f"config: expected the arguments of {model_class.__name__} except rngs, so that "
            f"load_model can build it, got {', '.join(config) or 'none'}: {error}",
            stacklevel=3,
        )


def _misfit(model_class: Callable[..., Any], config: dict[str, Any]) -> TypeError | None:
    """Return the error of a call with the configuration and `rngs`, or None if it fits."""
    maker: Any = model_class
    is_class = isinstance(model_class, type)
    signature = inspect.signature(maker.__init__ if is_class else maker)
    try:
        signature.bind(*[None] * is_class, **config, rngs=None)
    except TypeError as error:
        return error
    return None


def _built(model_class: Callable[..., Model], config: dict[str, Any], rngs: nnx.Rngs) -> Model:
    """Return a new model, or raise if its class does not take the configuration."""
    if not callable(model_class) or isinstance(model_class, nnx.Module):
        raise TypeError(f"model_class: expected a class, got {checks.brief(model_class)}")
    error = _misfit(model_class, config)
    if error is not None:
        raise TypeError(
            f"model_class: expected one that takes {', '.join([*config, 'rngs'])} by name, got "
            f"{checks.brief(model_class)}: {error}"
        )
    model = model_class(**config, rngs=rngs)
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model_class: expected one that gives a flax.nnx.Module, got {checks.brief(model)}"
        )
    return model


def _arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return a dict from the paths of a model's arrays to the arrays on the host."""
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in _named(_state(model)).items():
        dtype = getattr(leaf, "dtype", np.dtype(object))
        if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_)):
            raise TypeError(
                f"model: expected arrays of numbers, got {checks.brief(leaf)} for {name}"
            )
        arrays[name] = sharding.to_host(leaf)
    return arrays


def _require_same(
    owner: str, expected: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: str
) -> None:
    """Raise an error with the path of an array that is missing, unexpected or of a wrong shape."""
    for name in sorted({*expected, *arrays}):
        shapes = [
            str(list(np.shape(side[name]))) if name in side else "nothing"
            for side in (expected, arrays)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"folder: expected {shapes[0]} for {name}, as {owner} has it, got {shapes[1]} from "
                f"{source}"
            )


def _like(leaf: Any, found: np.ndarray, name: str, source: str) -> Any:
    """Return the array `found` as a NumPy or JAX array, like the leaf that it replaces."""
    if isinstance(leaf, np.ndarray):
        return found
    if jax.dtypes.canonicalize_dtype(found.dtype) != found.dtype:
        raise ValueError(
            f"folder: expected at most 32 bits for {name} without jax_enable_x64, got "
            f'{found.dtype} from {source}; call jax.config.update("jax_enable_x64", True) first'
        )
    return jnp.array(found)


def _state(model: nnx.Module) -> PyTree:
    return nnx.as_pure(nnx.state(model, _SAVED))


def _named(state: PyTree) -> dict[str, Any]:
    """Return a dict from paths to the leaves of a state."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if _name(path) in named:
            raise ValueError(f"model: expected names without slashes, got {_name(path)!r} twice")
        named[_name(path)] = leaf
    return named


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
