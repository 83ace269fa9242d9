"""Functions that read PyTorch's state dicts from files or memory.

Names that wrappers of modules have changed are recognised, too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax._files import local_path
from seqjax.cells.ops import accumulator_dtype
from seqjax.interop import _trees
from seqjax.interop._schemes import Group

__all__ = [
    "NAME",
    "Stored",
    "arrays_under",
    "hint",
    "layers_in",
    "opened",
    "plain_names",
    "prefixed",
    "read",
    "unwrapped",
]

NAME = re.compile(
    r"(?P<key>(?:weight|bias)_(?:ih|hh|hr))(?P<suffix>(?:_l(?P<layer>\d+)(?:_reverse)?)?)"
)
_WEIGHT = r"(?:weight|bias)_(?:ih|hh|hr)(?:_l\d+(?:_reverse)?)?"
# Weight normalisation splits a weight into two arrays. The first pattern matches the names that
# PyTorch's hook gives them, and the second pattern the names that a parametrization gives them.
_PARTS = (
    (re.compile(rf"((?:.*\.)?)({_WEIGHT})_([gv])"), "gv"),
    (re.compile(rf"((?:.*\.)?)parametrizations\.({_WEIGHT})\.original([01])"), "01"),
)
# Wrappers of modules add these components to names.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_COUNTER = "n_averaged"  # a name that AveragedModel adds
_DTYPES = ("F64", "F32", "F16", "BF16")
_HINTS = {
    r"_packed_params|_packed_weight|_all_weight_values|[ih]gates\.": "this name is from a "
    "quantised module; use the state_dict of the model before it was quantised",
    r"parametrizations\.|_(orig|u|v|g)$": "this name is from a parametrised weight; call "
    "torch.nn.utils.parametrize.remove_parametrizations (or remove_spectral_norm, "
    "remove_weight_norm) on the module before you call state_dict",
    r"_raw$": "this is a weight before dropout; rename it to the name without '_raw', and remove "
    "the other copy",
}


class Stored(NamedTuple):
    """The names under which one array is stored.

    Most arrays have one name. Under weight normalisation, an array has two: the name of its
    magnitude and the name of its direction.
    """

    names: tuple[str, ...]


class _File(Mapping[str, Any]):
    """A mapping from names to the tensors of a `.safetensors` file.

    Each tensor is read when it is accessed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from safetensors import safe_open
        except ImportError as error:
            raise ImportError(
                'reading this file needs safetensors: pip install "seqjax[interop]"'
            ) from error
        self._path = path
        with _trees.reading(path):
            # The file is opened for JAX, because NumPy by itself has no bfloat16.
            self._file: Any = safe_open(path, framework="flax")
            self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Any:
        with _trees.reading(self._path):
            dtype = self._file.get_slice(name).get_dtype()
            if dtype.startswith("F8"):
                raise _trees.SourceError(_trees.few_bits(name, dtype))
            if dtype not in _DTYPES:
                raise _trees.SourceError(
                    f"{name}: expected floating-point numbers, got {dtype}; a quantised "
                    "model must be converted to float32 first"
                )
            if dtype == "F64":  # JAX would silently convert float64 to float32
                from safetensors import safe_open

                with safe_open(self._path, framework="numpy") as file:
                    return file.get_tensor(name)
            return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def opened(source: Any) -> Mapping[str, Any]:
    """Return a mapping from names to arrays.

    If the source is a mapping, it is returned unchanged. If the source is a path, the result reads
    the arrays from the file.

    Raises:
      TypeError: `source` is neither a mapping nor a path.
      ValueError: the file cannot be read, or `source` is a whole training checkpoint, not the state
        dict inside it.
    """
    if _trees.is_path(source):
        path = local_path("source", source)
        if path.suffix == ".npz":
            raise ValueError(
                f"source: expected a .safetensors file, got {path}; pass dict(numpy.load(path))"
            )
        if path.suffix.lower() != ".safetensors":
            raise ValueError(
                f"source: expected a .safetensors file, got {path}; read other files with "
                "torch.load(path, map_location='cpu') and pass the state dict"
            )
        return _File(path)
    if callable(getattr(source, "state_dict", None)):
        raise TypeError(
            f"source: expected a state dict or a path, got a {type(source).__name__}; pass its "
            "state_dict()"
        )
    state = _trees.require_mapping(source, "a state dict or a path")
    odd = next((name for name in state if not isinstance(name, str)), "")
    if odd != "":
        raise TypeError(f"source: expected names that are strings, got {checks.brief(odd)}")
    if not layers_in(plain_names(state)):
        _require_no_checkpoint(state)
    return state


def plain_names(names: Iterable[str]) -> dict[str, Stored]:
    """Return a dict from plain names to stored names.

    A plain name is the name that an array has in the model without wrappers. `torch.compile` and
    FSDP add a component to names, and `DataParallel` adds "module." in front of all names. Weight
    normalisation stores a weight as `weight_hh_l0_g` and `weight_hh_l0_v`, or as
    `parametrizations.weight_hh_l0.original0` and `original1`.

    Raises:
      ValueError: two stored names have the same plain name.
    """
    names = [name for name in names if name != _COUNTER]
    plain: dict[str, Stored] = {}
    for name, short in zip(names, unwrapped(names, names), strict=True):
        if short in plain:
            raise ValueError(
                f"{name}: expected one array of this name, got {plain[short].names[0]}, too"
            )
        plain[short] = Stored((name,))
    pairs: dict[str, dict[int, str]] = {}
    for name in plain:
        for pattern, parts in _PARTS:
            if match := pattern.fullmatch(name):
                pairs.setdefault(match[1] + match[2], {})[parts.index(match[3])] = name
    for whole, pair in pairs.items():
        if len(pair) == 2 and whole not in plain:
            (g,), (v,) = plain.pop(pair[0]).names, plain.pop(pair[1]).names
            plain[whole] = Stored((g, v))
    return plain


def unwrapped(paths: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return paths without the parts that wrappers of modules add.

    Args:
      paths: the paths of modules or arrays in a model.
      names: the names of all arrays of the model.
    """
    outer = ("module.", "_orig_mod.module.", _COUNTER)
    wrapped = all(name.startswith(outer) for name in names)
    plain = []
    for path in paths:
        parts = [part for part in path.split(".") if part not in _WRAPPERS]
        plain.append(".".join(parts[1:] if wrapped and parts[:1] == ["module"] else parts))
    return plain


def layers_in(names: Iterable[str], first: str = "weight_ih(?:_l0)?") -> list[str]:
    """Return the paths of a model's recurrent layers, found in the plain names of its arrays.

    Args:
      names: the plain names.
      first: a regular expression for the name of one array that each layer has.
    """
    matches = filter(None, map(re.compile(rf"(?:(?P<path>.*)\.)?{first}").fullmatch, names))
    return list(dict.fromkeys(match["path"] or "" for match in matches))


def arrays_under(source: Any, prefix: str, first: str) -> Group:
    """Return the arrays of one module.

    Args:
      source: a state dict, a tree of parameters, or the path of a `.safetensors` file, of which
        only the arrays of the module are read. The names of a tree are joined by ".".
      prefix: the path to the module.
      first: a regular expression for the name of one array that each such module has.

    Raises:
      TypeError: `source` is not a mapping or a path, or `prefix` is not a string.
      ValueError: there is no name under the prefix, the prefix is not the path of the module, or
        the file cannot be read.
    """
    prefix = _trees.require_prefix(prefix).replace("/", ".").removesuffix(".")
    state = opened(source)
    if not _trees.is_path(source):
        state = _trees.flatten(_trees.params_of(state))
    plain = [name.replace("/", ".") for name in state]
    names = dict(zip(unwrapped(plain, plain), state, strict=True))
    [prefix] = unwrapped([prefix], plain)
    inside = _trees.under(names, prefix, ".")
    before = prefix and prefix + "."
    paths = layers_in(inside, first)
    if paths and "" not in paths:
        raise ValueError(
            f"prefix: expected the path to one layer, got {prefix!r}"
            + _trees.choices(before + path for path in paths)
        )
    return _trees.group({key: state[name] for key, name in inside.items()}, before)


def prefixed(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return arrays with the path of a module in front of their names."""
    before = _trees.require_prefix(prefix) and prefix.removesuffix(".") + "."
    return {before + name: array for name, array in arrays.items()}


def read(state: Mapping[str, Any], stored: Stored) -> Any:
    """Return one array, computed as g v / ‖v‖ if a magnitude g and a direction v are stored."""
    arrays = [_trees.array(state[name], name) for name in stored.names]
    if len(arrays) == 1:
        return arrays[0]
    g, v = arrays
    shapes, name = (np.shape(g), np.shape(v)), stored.names[0]
    axes = range(len(shapes[1]))
    norms = [tuple(n if i == axis else 1 for i, n in enumerate(shapes[1])) for axis in axes]
    if shapes[0] not in [(), *norms]:  # other parametrizations store two arrays, too
        raise ValueError(
            f"{name}: expected the magnitude of weight normalisation for the shape {shapes[1]}, of "
            f"the shape {' or '.join(map(str, [*norms, ()]))}, got {shapes[0]}; if the weight has "
            "another parametrization, call torch.nn.utils.parametrize.remove_parametrizations on "
            "the module before you call state_dict"
        )
    traced, dtype = checks.is_traced(g, v), jnp.promote_types(g.dtype, v.dtype)
    xp: Any = jnp if traced else np
    wide = accumulator_dtype(dtype) if traced else np.float64
    summed = tuple(i for i in axes if np.ndim(g) == 0 or shapes[0][i] == 1)
    norm = xp.sqrt(xp.sum(xp.square(xp.asarray(v, wide)), summed, keepdims=np.ndim(g) > 0))
    if not traced and not xp.all(norm > 0):
        raise ValueError(f"{stored.names[1]}: expected a norm above zero, got a row of zeros")
    return (xp.asarray(g, wide) * (xp.asarray(v, wide) / norm)).astype(dtype)


def hint(names: Iterable[str], prefix: str) -> str:
    """Return a hint for the error message about names that do not belong to one layer."""
    names = list(names)
    for pattern, advice in _HINTS.items():
        odd = next((name for name in names if re.search(pattern, name)), None)
        if odd is not None:
            return f"; {prefix}{odd}: {advice}"
    paths = [f"{prefix}{path}" for path in layers_in(names) if path]
    if "" in layers_in(names):
        return "; leave it out of the source if it does not belong to the layer"
    if not paths:
        return "; there is no recurrent layer here"
    stack = f"; load several layers as a stack with prefix={paths[:2]}" if len(paths) > 1 else ""
    return _trees.choices(paths) + stack


def _require_no_checkpoint(state: Mapping[str, Any]) -> None:
    """Raise if the mapping contains the state dict of a model, as training checkpoints do."""
    found = [f"source{where}" for where in _inside(state)]
    if found:
        raise ValueError(
            f"source: expected a state dict, got a training checkpoint with "
            f"{', '.join(list(state)[:6])}; pass {' or '.join(found[:4])}"
        )


def _inside(state: Mapping[str, Any], depth: int = 3) -> Iterator[str]:
    """Yield the keys of inner state dicts that have recurrent layers, as text such as "['a']"."""
    for key, value in state.items():
        if isinstance(value, Mapping) and depth:
            names = [name for name in value if isinstance(name, str)]
            if layers_in(plain_names(names)):
                yield f"[{key!r}]"
            else:
                for where in _inside(value, depth - 1):
                    yield f"[{key!r}]{where}"
