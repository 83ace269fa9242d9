"""Checks of the inputs of an exported program against its manifest."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.export._plain import plain

__all__ = ["check_ranges", "checked_input", "entry_of"]


def entry_of(name: str, tree: Any) -> dict[str, Any]:
    """Return the manifest entry of an input or output, which is an array or a dict of arrays.

    Example:
      >>> entry_of("xs", np.zeros([2, 3], np.float32))
      {'name': 'xs', 'shape': [2, 3], 'dtype': 'float32'}
    """
    if isinstance(tree, dict):
        return {"name": name, "arrays": {key: _described(leaf) for key, leaf in tree.items()}}
    return {"name": name, **_described(tree)}


def _described(array: Any) -> dict[str, Any]:
    shape = [n if isinstance(n, int) else str(n) for n in array.shape]
    return {"shape": shape, "dtype": jnp.dtype(array.dtype).name}


def checked_input(entry: Mapping[str, Any], given: Any, sizes: dict[str, int]) -> Any:
    """Return an input in the form that the program takes: an array, or a flat dict of arrays.

    Args:
      entry: the entry of the input in the manifest.
      given: an array, a nested list of numbers, a flat dict, or a pytree that `plain` makes flat.
      sizes: the sizes of symbols, known from earlier inputs; the sizes of new symbols are added.

    Raises:
      TypeError: if the input is not an array, or has another dtype.
      ValueError: if the shape or the names of the input differ from the entry.

    Example:
      >>> entry = {"name": "lengths", "shape": ["b"], "dtype": "int32"}
      >>> checked_input(entry, [4, 2], {}).dtype
      dtype('int32')
    """
    name = entry["name"]
    if "arrays" not in entry:
        return _checked_array(name, entry, given, sizes)
    wanted = entry["arrays"]
    if given is None:
        raise TypeError(f"{name}: expected arrays {_listed(wanted)}; got None")
    if not isinstance(given, Mapping) or given.keys() != wanted.keys():
        flat = plain(given)
        if not isinstance(flat, dict) or flat.keys() != wanted.keys():
            came = _listed(flat) if isinstance(flat, dict) else checks.brief(given)
            raise ValueError(f"{name}: expected arrays {_listed(wanted)}; got {came}")
        given = flat
    return {
        key: _checked_array(f"{name}.{key}", described, given[key], sizes)
        for key, described in wanted.items()
    }


def check_ranges(
    entries: Sequence[Mapping[str, Any]], given: Sequence[Any], sizes: Mapping[str, int]
) -> None:
    """Raise an error if an integer is outside the range in the manifest and its value is known.

    Args:
      entries: the entries of the inputs in the manifest. An entry with a range has
        `"range": [least, most]`. `"real_before"` names the input with the length of each row. The
        values of a row at and after its length are padding and are not checked.
      given: the inputs, as returned by `checked_input`.
      sizes: the sizes of symbols.

    Raises:
      ValueError: if a value that is not padding is out of range.

    Example:
      >>> entry = {"name": "lengths", "range": [0, "t"]}
      >>> check_ranges([entry], [np.array([3, 4])], {"t": 3})
      Traceback (most recent call last):
      ValueError: lengths: expected values in [0, 3] at real positions, got 4
    """
    named = {entry["name"]: array for entry, array in zip(entries, given, strict=True)}
    for entry in sorted(entries, key=lambda entry: "real_before" in entry):
        if "range" not in entry:
            continue
        values, (_, most), mask = named[entry["name"]], entry["range"], None
        if "real_before" in entry:
            lengths = named[entry["real_before"]]
            if checks.is_traced(lengths):
                continue
            mask = np.arange(values.shape[1]) < np.asarray(lengths)[:, None]
        checks.require_range(entry["name"], values, sizes.get(most, most), mask=mask)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _checked_array(
    name: str, described: Mapping[str, Any], given: Any, sizes: dict[str, int]
) -> Any:
    shape, dtype = described["shape"], jnp.dtype(described["dtype"])
    expected = f"{dtype} [{', '.join(map(str, shape))}]"
    checks.require_unmasked(name, given)
    try:
        array = given if isinstance(given, jax.Array) else np.asarray(given)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected {expected}, got {checks.brief(given)}") from None
    typed = isinstance(given, (np.ndarray, np.generic, jax.Array))
    if typed and jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True) != dtype:
        raise TypeError(f"{name}: expected {expected}, got {array.dtype}")
    if isinstance(array, np.ndarray):
        if not typed and not array.size:
            array = array.astype(dtype)  # an empty list has no dtype
        array = checks.require_cast(name, array, dtype, expected)
    _check_shape(name, expected, array.shape, shape, sizes)
    return array


def _check_shape(
    name: str,
    expected: str,
    shape: Sequence[int],
    wanted: Sequence[int | str],
    sizes: dict[str, int],
) -> None:
    """Raise an error if the shape is wrong; else add the sizes of new symbols to `sizes`."""
    if len(shape) != len(wanted):
        raise ValueError(f"{name}: expected {expected}, got {tuple(shape)}")
    symbols = [each for each in wanted if isinstance(each, str) and each.isidentifier()]
    empty = [each for each, size in zip(wanted, shape, strict=True) if each in symbols and not size]
    if empty:
        raise ValueError(
            f"{name}: expected {expected} with {', '.join(map(str, empty))} at least 1, "
            f"got {tuple(shape)}"
        )
    known = [f"{each} = {sizes[each]}" for each in dict.fromkeys(symbols) if each in sizes]
    found = dict(sizes)
    for size, each in zip(shape, wanted, strict=True):
        if isinstance(each, str) and not each.isidentifier():
            continue  # JAX checks "2*b" itself
        if size != (found.setdefault(each, size) if isinstance(each, str) else each):
            where = f" with {', '.join(known)}" if known else ""
            raise ValueError(f"{name}: expected {expected}{where}, got {tuple(shape)}")
    sizes.update(found)
