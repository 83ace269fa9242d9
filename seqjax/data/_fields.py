"""Fields of examples: access by position, common shape and dtype, and stacking."""

import contextlib
import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax.data._containers import column, numbers, table_columns

__all__ = ["Field", "Spec", "stack"]


class Spec(NamedTuple):
    """The common shape and dtype of a field's entries.

    Attributes:
      shape: the shape of an entry, or of one time step of an entry if `over_time` is True.
      dtype: the dtype.
      over_time: whether the first axis of the entries is time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    over_time: bool


class Field:
    """The entries of one field. Indexing returns an entry as a NumPy array.

    Attributes:
      name: the name of the field in error messages, such as "examples['tokens']".
      rows: an array [N, ...] if the entries have one shape, or a sequence of N entries.
    """

    _names: list[Any] | None = None  # the columns of entries that are tables

    def __init__(self, name: str, given: Any) -> None:
        self.name, self.rows = name, column(name, given)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, n: int) -> np.ndarray:
        entry = self.rows[n]
        if isinstance(entry, np.ndarray):
            return entry
        self._names = table_columns(f"{self.name}[{n}]", entry, self._names)
        return numbers(f"{self.name}[{n}]", entry)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "rows": self.rows}  # the cached shapes are not needed later

    def take(
        self, numbers_of: Sequence[int], spec: Spec, lengths: np.ndarray | None
    ) -> Sequence[np.ndarray]:
        """Return entries by index, or raise if an entry has changed its shape since it was read."""
        if isinstance(self.rows, np.ndarray):
            return self.rows[numbers_of]  # type: ignore[return-value]
        arrays = [self[n] for n in numbers_of]
        for n, array in zip(numbers_of, arrays, strict=True):
            shape = spec.shape if lengths is None else (int(lengths[n]), *spec.shape)
            if array.shape != shape and array.shape != (0,):
                raise ValueError(
                    f"{self.name}[{n}]: expected shape {shape} as when it was first read, got "
                    f"{array.shape}"
                )
        return arrays

    @functools.cached_property
    def _seen(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """The shape and dtype of each entry; a single pair if all entries are in one array."""
        if isinstance(self.rows, np.ndarray):
            return [(self.rows.shape[1:], self.rows.dtype)]
        return [(entry.shape, entry.dtype) for entry in map(self.__getitem__, range(len(self)))]

    @property
    def differs(self) -> bool:
        """True if the entries differ in length."""
        return len({shape[:1] for shape, _ in self._seen}) > 1

    def lengths(self) -> np.ndarray:
        """Return the number of steps of each entry, int32 [N]; raise if there is no time axis."""
        for n, (shape, _) in enumerate(self._seen):
            if not shape:
                raise ValueError(
                    f"{self.name}[{n}]: expected a sequence [t, ...], got a single number"
                )
        found = np.array([shape[0] for shape, _ in self._seen], np.int32)
        return np.repeat(found, len(self)) if isinstance(self.rows, np.ndarray) else found

    def spec(self, *, over_time: bool) -> Spec:
        """Return the common shape and dtype, or raise an error that names a differing entry."""
        shape: tuple[int, ...] | None = None
        for n, (whole, _) in enumerate(self._seen):
            # An empty list has no steps, so the shape of a step is unknown.
            if over_time and whole == (0,):
                continue
            found = whole[1:] if over_time else whole
            shape = found if shape is None else shape
            if found != shape:
                what = "steps" if over_time else "entries"
                raise ValueError(f"{self.name}[{n}]: expected {what} of shape {shape}, got {found}")
        # The dtype of an empty list is unknown, too. NumPy's float64 would make tokens floats.
        dtypes = {dtype for whole, dtype in self._seen if 0 not in whole}
        dtypes = dtypes or {dtype for _, dtype in self._seen}
        return Spec(shape or (), self._common(dtypes), over_time)

    def _common(self, dtypes: set[np.dtype]) -> np.dtype:
        """Return the dtype that can hold all entries, or raise an error if there is none."""
        if len(dtypes) > 1:
            # NumPy would make float8 of int8 and float8. float32 holds all values of such floats.
            dtypes = {np.dtype(np.float32) if _is_narrow(dtype) else dtype for dtype in dtypes}
        common = None
        with contextlib.suppress(TypeError):
            common = np.result_type(*dtypes)
        whole = all(dtype.kind in "biu" for dtype in dtypes)
        if common is None or (whole and common.kind == "f"):  # int64 and uint64 give float64
            found = ", ".join(sorted(map(str, dtypes)))
            raise TypeError(f"{self.name}: expected entries of one dtype, got {found}")
        return common


def _is_narrow(dtype: np.dtype) -> bool:
    """Return True for the floats that JAX adds to those of NumPy, such as bfloat16 and float8."""
    return jnp.issubdtype(dtype, jnp.floating) and not np.issubdtype(dtype, np.floating)


def stack(
    arrays: Sequence[np.ndarray], lead: tuple[int, ...], spec: Spec, value: float = 0
) -> np.ndarray:
    """Return the arrays as the rows of one array [*lead, ...] that is padded with `value`."""
    stacked = np.full(lead + spec.shape, _fill(value, spec.dtype))
    if isinstance(arrays, np.ndarray):
        rows = np.index_exp[: len(arrays)]
        stacked[rows + np.index_exp[: arrays.shape[1]] if spec.over_time else rows] = arrays
        return stacked
    for row, array in enumerate(arrays):
        if not spec.over_time:
            stacked[row] = array
        elif len(array):  # an empty list may lack the axes of a step
            stacked[row, : len(array)] = array
    return stacked


def _fill(value: Any, dtype: np.dtype) -> np.ndarray:
    """Return a number as an array of the given dtype, or raise if the dtype cannot hold it."""
    given = numbers("value", value)
    if given.ndim:
        raise TypeError(f"value: expected one number, got shape {given.shape}")
    with np.errstate(invalid="ignore", over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        fill = given.astype(dtype)
    lost = np.isfinite(given) & ~np.isfinite(fill) | (given.imag != 0) & (dtype.kind != "c")
    if lost or (dtype.kind in "biu" and fill != given):
        raise ValueError(f"value: expected a number that {dtype} can hold, got {value}")
    return fill
