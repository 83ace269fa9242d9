"""Conversion of the containers of many libraries to NumPy arrays. Row labels are ignored."""

from collections.abc import Iterable, Iterator, Mapping, MappingView, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks

__all__ = ["column", "columns", "entries", "numbers", "table_columns"]

_SCALARS = {bool, int, float, complex, *(np.dtype(code).type for code in "?bhilqBHILQefdFD")}


def columns(name: str, table: Any) -> dict[str, Any]:
    """Return the fields of a dict, data frame, table or structured array, or raise an error."""
    names: Any = None
    if isinstance(table, Mapping):
        names = table.keys()
    elif isinstance(table, np.ndarray):
        names = table.dtype.names
    elif not isinstance(table, type):  # columns: pandas, polars; column_names: pyarrow, datasets
        names = getattr(table, "column_names", getattr(table, "columns", None))
    if names is None:
        raise TypeError(f"{name}: expected a dict of fields, got {_kind(table)}{_hint(table)}")
    names = list(names)
    for field in names:
        if not isinstance(field, str):
            raise TypeError(f"{name}: expected strings as names of fields, got {field!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"{name}: expected no name of a field twice, got {', '.join(names)}")
    try:
        return {field: table[field] for field in names}
    except Exception as error:  # of any class: the columns of a lazy table cannot be read
        raise TypeError(f"{name}: expected a dict of fields, got {_kind(table)}: {error}") from None


def column(name: str, field: Any) -> np.ndarray | Sequence[Any]:
    """Return the entries of a field as an array, a list of arrays or another indexable object.

    An array, or a list of plain numbers of one shape, becomes an array [N, ...]. Any other list
    becomes a list of N arrays. Other indexable objects with a length are not converted, so that
    they can read an entry from a file when the entry is needed.
    """
    field = _on_host(name, _ordered(name, field))
    if isinstance(field, np.ndarray):
        if not field.ndim:
            raise TypeError(f"{name}: expected one entry per example, got {_kind(field)}")
        if field.dtype != object:
            return _narrow(name, _checked(name, field))
        field = list(field)
    if isinstance(field, range):
        return _narrow(name, np.asarray(field))
    if not isinstance(field, list | tuple):
        if not _is_indexed(field):
            raise TypeError(f"{name}: expected one entry per example, got {_kind(field)}")
        _read(name, len, field)
        return field  # type: ignore[no-any-return]
    if field and _is_plain(field):
        try:
            return _narrow(name, numbers(name, field))
        except (TypeError, ValueError):
            pass  # the entries differ in shape, or one is wrong; the error below names that entry
    if field and all(isinstance(entry, jax.Array) for entry in field):
        field = _read(name, jax.device_get, field)
    arrays = _parts(name, field)
    wide = [n for n, array in enumerate(arrays) if array.dtype.itemsize == 8 and array.size]
    if wide and _cut(np.concatenate([arrays[n].ravel() for n in wide])) is not None:
        for n in wide:
            _narrow(f"{name}[{n}]", arrays[n])
    return arrays


def entries(name: str, values: Any) -> Iterable[Any]:
    """Return the entries of a container, such as texts or words, in order, or raise an error.

    An iterator is returned as it is, so the caller can read it only once.
    """
    if isinstance(values, Iterator | MappingView | list | tuple):
        return values  # type: ignore[return-value]
    if not isinstance(values, Iterable | type) and _is_indexed(values):
        return (values[n] for n in range(len(values)))
    no_list = isinstance(values, str | bytes | bytearray | Mapping | Set)
    if no_list or hasattr(values, "columns") or not isinstance(values, Iterable):
        hint = "; put it in a list" if isinstance(values, str) else _hint(values)
        raise TypeError(f"{name}: expected a list, got {_kind(values)}{hint}")
    values = _on_host(name, values)
    if isinstance(values, np.ndarray) and not values.ndim:
        raise TypeError(f"{name}: expected a list, got {_kind(values)}")
    return values  # type: ignore[no-any-return]


def numbers(name: str, value: Any) -> np.ndarray:
    """Return a value as one NumPy array of numbers, or raise an error that contains `name`."""
    if type(value) is np.ndarray and value.dtype.kind in "biufc":
        return value
    value = _on_host(name, _ordered(name, value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, list | tuple) and not _is_plain(value):
        names = None
        for part in value:
            names = table_columns(name, part, names)
        value = [numbers(name, part) for part in value]
    array = _read(name, np.asarray, value)
    if isinstance(value, list | tuple) and _was_whole(array, value):
        raise ValueError(f"{name}: expected integers that int64 can hold, got {array.max():g}")
    return _checked(name, array)


def table_columns(name: str, part: Any, before: list[Any] | None) -> list[Any] | None:
    """Check that an entry of a list of tables has the same columns as the earlier entries.

    `before` contains the column names of the earlier entries. Return the column names of `part`, or
    `before` if `part` is not a table. If the column names differ, raise an error.
    """
    found = getattr(part, "column_names", getattr(part, "columns", None))
    if not isinstance(found, Iterable):
        return before
    names = list(found)
    if before is not None and names != before:
        raise ValueError(
            f"{name}: expected the columns {', '.join(map(str, before))}, as before, got "
            f"{', '.join(map(str, names))}; reorder them with frame[names]"
        )
    return names


def _parts(name: str, values: Iterable[Any]) -> list[np.ndarray]:
    arrays, names = [], None
    for n, part in enumerate(values):
        names = table_columns(f"{name}[{n}]", part, names)
        arrays.append(numbers(f"{name}[{n}]", part))
    return arrays


def _ordered(name: str, value: Any) -> Any:
    """Return the value, or raise an error if its type cannot be an ordered container of numbers."""
    if isinstance(value, MappingView):
        return list(value)  # type: ignore[call-overload]
    if value is None or isinstance(value, str | bytes | bytearray | Mapping | Set | Iterator):
        raise TypeError(f"{name}: expected numbers, got {_kind(value)}{_hint(value)}")
    return value


def _on_host(name: str, value: Any) -> Any:
    """Return an array of another library as a NumPy array; other values are not changed."""
    if isinstance(value, list | tuple | range):
        return value
    if isinstance(value, np.ndarray):
        checks.require_unmasked(name, value)
        return np.asarray(value)  # as a plain array, not a subclass
    if hasattr(value, "detach"):
        return _read(name, _of_torch, value)
    if hasattr(value, "to_numpy") or hasattr(value, "to_pylist"):
        return _read(name, _of_table, value)
    if hasattr(value, "__array__") or isinstance(value, memoryview):
        return _read(name, np.asarray, value)
    if hasattr(value, "__dlpack__"):
        return _read(name, np.from_dlpack, value)
    if hasattr(value, "to_list"):  # a ragged tensor of TensorFlow, an array of awkward
        return value.to_list()
    return value


def _of_torch(tensor: Any) -> Any:
    if getattr(tensor, "is_nested", False):
        return list(tensor.unbind())
    tensor = tensor.detach().cpu()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype.startswith(("bfloat16", "float8")):  # these dtypes are JAX's, not NumPy's
        return tensor.float().numpy().astype(jnp.dtype(dtype))
    return tensor.resolve_conj().resolve_neg().numpy()


def _of_table(values: Any) -> Any:
    """Return the values of a column or frame, or raise if values are missing."""
    by_numpy = False
    if hasattr(values, "isna"):
        by_numpy = all(isinstance(dtype, np.dtype) for dtype in np.ravel(_dtypes(values)))
        missing = 0 if by_numpy else int(np.sum(np.asarray(values.isna())))
    else:
        missing = getattr(values, "null_count", 0)
        missing = np.sum(np.asarray(missing() if callable(missing) else missing))
    if missing:
        raise ValueError(f"expected no missing values, got {missing}; drop or fill them")
    array = np.asarray(values)
    nested = getattr(values, "to_pylist", getattr(values, "to_list", None))
    if array.dtype == object and nested is not None and not by_numpy:
        return nested()  # a list keeps missing values in entries as None; an array contains NaN
    return array


def _dtypes(values: Any) -> Any:
    found = getattr(values, "dtypes", None)
    return [values.dtype] if found is None else np.array(found, dtype=object)


def _read(name: str, function: Any, value: Any) -> Any:
    """Return `function(value)`. If `function` fails, raise an error that contains `name`."""
    try:
        return function(value)
    except ValueError as error:
        if "inhomogeneous" in str(error) or "could not broadcast" in str(error):
            message = f"{name}: expected parts of one shape, got parts that differ in shape"
            raise ValueError(message) from None
        raise ValueError(f"{name}: {error}") from None
    except Exception as error:  # each library raises classes of its own
        why = str(error).partition("\n")[0]
        raise TypeError(f"{name}: expected numbers, got {_kind(value)}: {why}") from None


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array if its dtype is numeric, or raise an error."""
    kind = array.dtype.kind
    if kind in "biufc" or (kind == "V" and jnp.issubdtype(array.dtype, np.number)):
        return array
    hint = ""
    if kind in "Mm":
        values = "values" if kind == "m" else "(values - numpy.datetime64('1970-01-01'))"
        hint = f"; convert times to numbers, such as days: {values} / numpy.timedelta64(1, 'D')"
    elif array.dtype.names:
        hint = "; name one of its fields: " + ", ".join(array.dtype.names)
    elif kind == "V":
        hint = "; give the bytes a dtype, such as values.view(jax.numpy.bfloat16)"
    elif array.size:
        first = array.ravel()[0]
        for entry in array.ravel() if array.dtype == object else ():
            if isinstance(entry, int) and not -(2**63) <= entry < 2**64:
                raise ValueError(
                    f"{name}: expected integers that 64 bits can hold, got {checks.brief(entry)}"
                )
        raise TypeError(f"{name}: expected numbers, got {_kind(first)}{_hint(first)}")
    raise TypeError(f"{name}: expected numbers, got {array.dtype}{hint}")


def _narrow(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array, or raise if JAX would truncate its integers (by default to 32 bits)."""
    found = _cut(array)
    if found is None:
        return array
    raise ValueError(
        f"{name}: expected integers that {jax.dtypes.canonicalize_dtype(array.dtype)} can hold, "
        f"since JAX truncates integers to this dtype, got {found}; number ids from 0, or call "
        'jax.config.update("jax_enable_x64", True)'
    )


def _cut(array: np.ndarray) -> Any:
    """Return the first integer that JAX would truncate, or None."""
    whole = array.dtype.kind in "iu"
    return checks.unfit(array, jax.dtypes.canonicalize_dtype(array.dtype)) if whole else None


def _was_whole(array: np.ndarray, values: Any) -> bool:
    """Return whether the values are integers too large for any integer dtype of NumPy.

    NumPy converts such integers to floats, which may change them.
    """
    if array.dtype != np.float64 or not array.size or np.abs(array).max() < 2.0**63:
        return False
    return all(isinstance(leaf, int) for leaf in jax.tree.leaves(values))


def _is_plain(values: Any) -> bool:
    """Return whether a container has only numbers of Python or NumPy, possibly in nested lists."""
    kinds = set(map(type, values))
    return kinds <= _SCALARS or (kinds <= {list, tuple} and all(map(_is_plain, values)))


def _is_indexed(value: Any) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _kind(value: Any) -> str:
    """Return a short description of a value, for messages."""
    if _holds_dicts(value):
        return f"a {type(value).__name__} of dicts"
    if isinstance(value, str | bytes | bytearray | np.generic | int | float) or value is None:
        return checks.brief(value)
    return f"{type(value).__name__}"


def _hint(value: Any) -> str:
    if isinstance(value, str):
        return "; encode text first, with a Vocabulary or Subwords"
    if isinstance(value, bytes | bytearray):
        return '; decode text first, with value.decode("utf-8")'
    if isinstance(value, Set):
        return ", which has no order; convert it to a list, such as sorted(values)"
    if isinstance(value, Iterator):
        return ", which can be read only once; convert it to a list"
    if _holds_dicts(value):
        return "; convert it: {name: [row[name] for row in rows] for name in rows[0]}"
    return ""


def _holds_dicts(value: Any) -> bool:
    """Return whether a value is a sequence of dicts, such as tensorflow-datasets returns."""
    if isinstance(value, str | Mapping) or not hasattr(value, "__getitem__"):
        return False
    try:
        return isinstance(value[0], Mapping)
    except Exception:  # empty, or not indexed by numbers
        return False
