"""What the entries of a field share, and stacking them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike


class Spec(NamedTuple):
    """What the entries of a field share; for one that runs over time, the shape is a step's."""

    shape: tuple[int, ...]
    dtype: np.dtype
    over_time: bool


class Entry(NamedTuple):
    """An entry's shape and dtype: what there is to know of it before its batch is made."""

    shape: tuple[int, ...]
    dtype: np.dtype


def spec_of(name: str, arrays: Sequence[np.ndarray | Entry], *, over_time: bool) -> Spec:
    """What some entries share, or an error that names the first one that differs."""
    shape: tuple[int, ...] | None = None
    for n, array in enumerate(arrays):
        if over_time and not array.shape:
            raise ValueError(f"{name}[{n}]: expected a sequence [t, ...], got a single number")
        # An empty list says nothing of what a step would have been.
        if over_time and array.shape == (0,):
            continue
        found = array.shape[1:] if over_time else array.shape
        shape = found if shape is None else shape
        if found != shape:
            what = "steps" if over_time else "entries"
            raise ValueError(f"{name}[{n}]: expected {what} of shape {shape}, got {found}")
    # Nor does it of the dtype: NumPy makes it float64, which would turn tokens into floats.
    dtypes = {array.dtype for array in arrays if 0 not in array.shape}
    dtypes = dtypes or {array.dtype for array in arrays}
    return Spec(shape or (), np.result_type(*dtypes), over_time)


def stack(
    arrays: Sequence[np.ndarray], lead: tuple[int, ...], spec: Spec, value: float = 0
) -> np.ndarray:
    """The arrays as rows of one [*lead, ...], with `value` around them."""
    with np.errstate(invalid="ignore"):
        fill = np.array(value).astype(spec.dtype)
    if spec.dtype.kind in "biu" and fill != value:
        raise ValueError(f"value: expected one that {spec.dtype} can hold, got {value}")
    stacked = np.full(lead + spec.shape, fill)
    for row, array in enumerate(arrays):
        if not spec.over_time:
            stacked[row] = array
        elif len(array):  # an empty list need not have a step's axes
            stacked[row, : len(array)] = array
    return stacked


def numbers(name: str, entry: ArrayLike) -> np.ndarray:
    """An entry as an array, or an error that names it."""
    try:
        array = np.asarray(entry)
    except ValueError:
        raise ValueError(f"{name}: expected an array, got parts that differ in shape") from None
    if array.dtype.kind in "OUSMm":
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    return array


def by_position(field: Any) -> Any:
    """The field as something on the host whose rows count by their place.

    A pandas Series would give the row with a *label*, which is another one after shuffling or
    filtering; an array on a device would be read row by row.
    """
    if hasattr(field, "iloc"):
        return field.to_numpy()
    if isinstance(field, jax.Array):
        return np.asarray(field)
    if hasattr(field, "detach"):  # a tensor of PyTorch
        return field.detach().cpu().numpy()
    return field
