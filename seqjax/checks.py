"""Checks of the arguments of public functions, with error messages of one form.

A failed check raises `TypeError`, `ValueError` or, for an index, `IndexError`. The message names
the argument, the expected value and the given one: `hidden_size: expected a positive integer, got
0`.
"""

import difflib
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

__all__ = [
    "is_traced",
    "nearest",
    "require_array",
    "require_bool",
    "require_cast",
    "require_divisor",
    "require_fit",
    "require_floating_dtype",
    "require_hashable",
    "require_ids",
    "require_index",
    "require_integer",
    "require_interval",
    "require_key",
    "require_name",
    "require_number",
    "require_options",
    "require_range",
    "require_rate",
    "require_shape",
    "require_unmasked",
    "unfit",
]


def require_integer(name: str, value: Any, *, least: int = 1) -> int:
    """Return `value` as an int, or raise if it is not an integer of at least `least`.

    Raises:
      TypeError: `value` is not an integer.
      ValueError: `value` is below `least`.

    Example:
      >>> require_integer("hidden_size", np.int64(4))
      4
    """
    expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    try:
        integer = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        integer = None
    if integer is None:
        raise TypeError(f"{name}: expected {expected}, got {brief(value)}")
    if integer < least:
        raise ValueError(f"{name}: expected {expected}, got {integer}")
    return integer


def require_divisor(name: str, value: Any, whole_name: str, whole: int) -> int:
    """Return `value` as an int, or raise if it is not a positive divisor of `whole`.

    Raises:
      TypeError: `value` is not an integer.
      ValueError: `value` is not positive, or it does not divide `whole`.

    Example:
      >>> require_divisor("num_heads", 4, "hidden_size", 6)
      Traceback (most recent call last):
      ValueError: num_heads: expected a divisor of hidden_size=6, got 4
    """
    parts = require_integer(name, value)
    if whole % parts:
        raise ValueError(f"{name}: expected a divisor of {whole_name}={whole}, got {parts}")
    return parts


def require_index(index: Any, size: int) -> int:
    """Return the non-negative form of an index of a sequence with `size` entries.

    Raises:
      TypeError: `index` is not an integer; for example, it is a slice.
      IndexError: `index` is outside of the sequence.

    Example:
      >>> require_index(-1, 3)
      2
    """
    try:
        return range(size)[operator.index(index)]
    except TypeError:
        raise TypeError(
            f"index: expected an integer, got {brief(index)}; use itertools.islice for a slice"
        ) from None
    except IndexError:
        raise IndexError(f"index: expected -{size} to {size - 1}, got {index}") from None


def require_shape(name: str, value: Any, *, least: int = 0) -> tuple[int, ...]:
    """Return the sizes of axes as a tuple. If `value` is an integer, there is a single axis.

    Symbolic sizes of `jax.export` are not changed.

    Raises:
      TypeError: `value` is neither an integer nor a sequence of integers.
      ValueError: a size is below `least`.

    Example:
      >>> require_shape("batch_shape", 2), require_shape("batch_shape", [4, 2])
      ((2,), (4, 2))
    """
    # An array without axes is an instance of `Iterable`, too.
    single = isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) == 0
    axes: list[Any] = [value] if single or not isinstance(value, Iterable) else list(value)
    sizes: list[Any] = [
        size if jax.export.is_symbolic_dim(size) else require_integer(name, size, least=least)
        for size in axes
    ]
    return tuple(sizes)


def require_hashable(name: str, value: Any) -> Any:
    """Return `value` if it can be a key of a dict, or raise.

    Raises:
      TypeError: `value` has no hash; for example, it is a list or an array.

    Example:
      >>> require_hashable("stream", ("ann", 1))
      ('ann', 1)
    """
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{name}: expected a hashable value such as a string, got {brief(value)}"
        ) from None
    return value


def require_rate(name: str, value: Any) -> float:
    """Return a rate, such as that of dropout, as a float, or raise if it is not in [0, 1).

    Raises:
      TypeError: `value` is not a real number.
      ValueError: `value` is outside [0, 1).

    Example:
      >>> require_rate("dropout", 0.5)
      0.5
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name}: expected a number in [0, 1), got {brief(value)}")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name}: expected a number in [0, 1), got {value}")
    return float(value)


def require_name(name: str, value: Any, known: Iterable[str]) -> str:
    """Return `value` if it is one of the known names, or raise an error that lists them.

    Raises:
      ValueError: `value` is not a known name.

    Example:
      >>> require_name("merge_mode", "sum", ["concat", "sum"])
      'sum'
    """
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"{name}: expected one of {', '.join(known)}; got {brief(value)}{nearest(value, known)}"
        )
    return value


def nearest(value: Any, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the known name X that is most like `value`, or "".

    Example:
      >>> nearest("num_layer", ["dropout", "num_layers"])
      "; did you mean 'num_layers'?"
      >>> nearest("colour", ["dropout", "num_layers"])
      ''
    """
    if not isinstance(value, str):
        return ""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(value.lower(), list(names), n=1)
    return f"; did you mean {names[found[0]]!r}?" if found else ""


def require_options(owner: str, options: Iterable[str], taker: Callable[..., Any]) -> None:
    """Raise an error if `taker` lacks one of the options.

    The error message names the most similar option that `taker` has.

    Args:
      owner: the name of the function or class that was called, for the message.
      options: the names of the options.
      taker: the function or class that takes the options as keyword-only arguments.

    Raises:
      TypeError: `taker` lacks one of the options.

    Example:
      >>> require_options("resize", ["widht"], lambda image, *, width, height: None)
      Traceback (most recent call last):
      TypeError: resize: got an option it does not have, 'widht'; did you mean 'width'?
    """
    if not options:
        return
    known = [
        name
        for name, parameter in inspect.signature(taker).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in sorted(set(options) - set(known)):
        raise TypeError(
            f"{owner}: got an option it does not have, {name!r}{nearest(name, sorted(known))}"
        )


def require_key(name: str, key: Any) -> jax.Array:
    """Return `key` if it is a JAX random key, typed or raw, or raise.

    Raises:
      TypeError: `key` is not a random key; the message shows how to make one.

    Example:
      >>> require_key("key", jax.random.key(0)).shape
      ()
    """
    if isinstance(key, (nnx.Rngs, nnx.RngStream)):
        call = "rngs.params()" if isinstance(key, nnx.Rngs) else "stream()"
        raise TypeError(
            f"{name}: expected a random key such as jax.random.key(0), got {type(key).__name__}; "
            f"pass {call}"
        )
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == np.uint32 and getattr(key, "shape", ())[-1:] in ((2,), (4,))
    if not (typed and key.shape == ()) and not (raw and len(key.shape) == 1):
        got = brief(key) if dtype is None else f"an array of shape {key.shape} and dtype {dtype}"
        raise TypeError(f"{name}: expected a random key such as jax.random.key(0), got {got}")
    found: jax.Array = key
    return found


def require_number(name: str, value: Any) -> float:
    """Return `value` as a float, or raise if it is not a real number.

    Raises:
      TypeError: `value` is not a real number.

    Example:
      >>> require_number("forget_bias", 1)
      1.0
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name}: expected a number, got {brief(value)}")
    return float(value)


def require_interval(
    low_name: str, high_name: str, low: Any, high: Any, *, most: float = 1, is_open: bool = False
) -> None:
    """Raise unless 0 ≤ low ≤ high ≤ most or, if `is_open` is True, 0 < low ≤ high < most.

    Raises:
      TypeError: `low` or `high` is not a real number.
      ValueError: the numbers are not in this order.

    Example:
      >>> require_interval("r_min", "r_max", 0.9, 0.5)
      Traceback (most recent call last):
      ValueError: r_min, r_max: expected 0 <= r_min <= r_max <= 1, got 0.9 and 0.5
    """
    low, high = require_number(low_name, low), require_number(high_name, high)
    if not 0 <= low <= high <= most or (is_open and (low == 0 or high == most)):
        end = "<" if is_open else "<="
        raise ValueError(
            f"{low_name}, {high_name}: expected 0 {end} {low_name} <= {high_name} {end} {most}, "
            f"got {low} and {high}"
        )


def require_bool(name: str, value: Any) -> bool:
    """Return `value` as a bool, or raise if it is not True or False.

    Raises:
      TypeError: `value` is not a bool; for example, it is an array.

    Example:
      >>> require_bool("reverse", True)
      True
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {brief(value)}")
    return bool(value)


def require_floating_dtype(name: str, dtype: Any) -> jnp.dtype:
    """Return `dtype` as a dtype, or raise if it is not a floating-point dtype.

    Raises:
      TypeError: `dtype` is not a floating-point dtype.

    Example:
      >>> require_floating_dtype("param_dtype", "bfloat16").name
      'bfloat16'
    """
    try:
        found = jnp.dtype("none" if dtype is None else dtype)  # NumPy takes None for float64
    except TypeError:
        raise TypeError(f"{name}: expected a floating-point dtype, got {brief(dtype)}") from None
    if not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"{name}: expected a floating-point dtype, got {found}")
    return found


def as_array(value: Any) -> jax.Array:
    """Return `jnp.asarray(value)`, without compiling a program for a NumPy array.

    Outside of tracing, `jnp.asarray` compiles a program that copies the array, one for each shape,
    unless the dtype is given.

    Example:
      >>> as_array(np.ones(2, np.float32)).dtype
      dtype('float32')
    """
    plain = type(value) is np.ndarray and value.dtype.kind in "biufc"
    if plain and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    dtype = value.dtype if plain else None
    return jnp.asarray(value, dtype if _stays(dtype) else None)


def _stays(dtype: Any) -> bool:
    """Return True if JAX does not narrow the dtype."""
    return dtype is not None and jax.dtypes.canonicalize_dtype(dtype) == dtype


def require_array(name: str, value: Any, kind: Any, expected: str) -> jax.Array:
    """Return `value` as a JAX array, or raise if it is not an array or has a wrong dtype.

    Args:
      name: the name of the argument.
      value: an array, or a value that `jnp.asarray` converts to an array.
      kind: a scalar type such as `jnp.floating`.
      expected: a description of the kind for the error message.

    Raises:
      TypeError: `value` is not an array, or its dtype is of another kind.
      ValueError: an integer does not fit into the dtype that JAX uses for it.

    Example:
      >>> require_array("mask", [True, False], jnp.bool_, "bool").shape
      (2,)
    """
    try:
        array = value if isinstance(value, jax.Array) else as_array(value)
    except OverflowError:
        raise ValueError(
            f"{name}: expected {expected} that fit into 32 bits, got {brief(value)}"
        ) from None
    except (TypeError, ValueError):
        got = f"dtype {value.dtype}" if _is_unmasked(value) else brief(value)
        raise TypeError(f"{name}: expected {expected}, got {got}") from None
    given = getattr(value, "dtype", array.dtype)  # before JAX narrowed it
    if not jnp.issubdtype(array.dtype, kind):
        raise TypeError(f"{name}: expected {expected}, got dtype {given}")
    if isinstance(value, (np.ndarray, np.generic)) or _has_numpy(value):
        values = np.asarray(value)
        if values.dtype.kind in "iu":
            require_fit(name, values, array.dtype, expected)
    return array


def require_ids(name: str, value: Any, expected: str) -> jax.Array:
    """Return ids, such as tokens or labels, as an array of int32 or wider.

    A narrower dtype might not be able to hold the number of classes: in uint8, 256 becomes 0.

    Args:
      name: the name of the argument.
      value: as for `require_array`.
      expected: a description of the integers for the error message.

    Raises:
      TypeError, ValueError: as `require_array`.

    Example:
      >>> require_ids("tokens", np.array([255], np.uint8), "integers [T]").dtype.name
      'int32'
    """
    array = require_array(name, value, jnp.integer, expected)
    return array.astype(jnp.int32) if array.dtype.itemsize < 4 else array


def require_unmasked(name: str, value: Any) -> None:
    """Raise an error if an array, or an array in a list, has masked entries (`numpy.ma`).

    Raises:
      ValueError: an array has masked entries.

    Example:
      >>> require_unmasked("lengths", np.ma.array([1, 2], mask=[False, True]))
      Traceback (most recent call last):
      ValueError: lengths: expected no masked entries; fill them with .filled(value)
    """
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(np.ma.is_masked(part) for part in jax.tree.leaves(parts)):
        raise ValueError(f"{name}: expected no masked entries; fill them with .filled(value)")


def _has_numpy(value: Any) -> bool:
    """Return whether a list contains NumPy arrays, whose integers JAX narrows without an error."""
    if not isinstance(value, (list, tuple)):
        return False
    return any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(value))


def unfit(values: np.ndarray, dtype: Any) -> Any:
    """Return the first number that another dtype cannot hold, or None if there is none.

    An integer does not fit if it would wrap around, and a finite number does not fit if it would
    become infinite. A number that is only rounded fits.

    Example:
      >>> unfit(np.array([1, 2**40]), np.int32), unfit(np.array([1e39, np.inf]), np.float32)
      (np.int64(1099511627776), np.float64(1e+39))
    """
    dtype = np.dtype(dtype)
    if values.dtype == dtype or not values.size or values.dtype.kind == "b":
        return None
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = limits.min, limits.max
        if low <= values.min() and values.max() <= high:
            return None
        wrong = (values < low) | (values > high)
    elif values.dtype.kind in "iu" and float(jnp.finfo(dtype).max) > np.iinfo(values.dtype).max:
        return None
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            wrong = ~np.isfinite(values.astype(dtype))  # NaN in dtypes without infinity
        if wrong.any():
            wrong &= np.isfinite(values)
    return values[wrong][0] if wrong.any() else None


def require_fit(name: str, values: np.ndarray, dtype: Any, expected: str) -> None:
    """Raise an error if another dtype cannot hold one of the numbers, as defined by `unfit`.

    Args:
      name: the name of the argument.
      values: an array of numbers of any shape.
      dtype: the dtype that must hold the values, of the same kind as their own dtype.
      expected: a description of the values for the error message.

    Raises:
      ValueError: a number does not fit into the dtype.

    Example:
      >>> require_fit("lengths", np.array([2**32 + 1]), np.int32, "integers")
      Traceback (most recent call last):
      ValueError: lengths: expected integers, got 4294967297, which does not fit into int32
    """
    wrong = unfit(values, dtype)
    if wrong is not None:
        raise ValueError(
            f"{name}: expected {expected}, got {wrong}, which does not fit into {np.dtype(dtype)}"
        )


def require_cast(name: str, values: np.ndarray, dtype: Any, expected: str) -> np.ndarray:
    """Return numbers in another dtype, or raise if its kind is wrong or it cannot hold a number.

    Integers may be converted to floats. Floats are not converted to integers, and numbers are not
    converted to bools.

    Args:
      name: the name of the argument.
      values: an array of any shape.
      dtype: the dtype of the result.
      expected: a description of the values for the error message.

    Raises:
      TypeError: the values are of a kind that is not converted.
      ValueError: a number does not fit into the dtype.

    Example:
      >>> require_cast("x_t", np.array([1, 2]), np.float32, "features")
      array([1., 2.], dtype=float32)
    """
    if values.dtype == dtype:
        return values
    if values.dtype.kind in "OSU":
        if np.dtype(dtype).kind in "iu" and all(type(value) is int for value in values.flat):
            require_fit(name, values, dtype, expected)  # integers beyond 64 bits
        raise TypeError(f"{name}: expected {expected}, got {brief(values.tolist())}")
    whole = values.dtype.kind in "biu" and np.dtype(dtype).kind in "iu"
    if not whole and not np.can_cast(values.dtype, dtype, "same_kind"):
        raise TypeError(f"{name}: expected {expected}, got {values.dtype}")
    require_fit(name, values, dtype, expected)
    return values.astype(dtype)


def require_range(name: str, values: Any, high: int, *, mask: Any = None) -> None:
    """Raise an error if a value at a real position is outside [0, high]. Skip traced values.

    Args:
      name: the name of the argument.
      values: numbers of any shape.
      high: the greatest allowed value.
      mask: True at real positions; None if all positions are real.

    Raises:
      ValueError: a value is out of range.

    Example:
      >>> require_range("tokens", np.array([0, 3]), 3)
      >>> require_range("tokens", np.array([0, 4]), 3)
      Traceback (most recent call last):
      ValueError: tokens: expected values in [0, 3] at real positions, got 4
    """
    for array in (values, mask):
        if is_traced(array) or not getattr(array, "is_fully_addressable", True):
            return
    real = np.asarray(values) if mask is None else np.asarray(values)[np.asarray(mask)]
    wrong = ~((real >= 0) & (real <= high))  # also True for NaN
    if wrong.any():
        raise ValueError(
            f"{name}: expected values in [0, {high}] at real positions, got {real[wrong][0]}"
        )


def _is_numeric(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) or (_is_unmasked(leaf) and leaf.dtype != object)


def _is_unmasked(value: Any) -> bool:
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)


def brief(value: Any) -> str:
    """Return a short text that describes a value in messages, such as the shape of an array."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, nnx.Module):
        return type(value).__name__  # a module has too many arrays to list them
    leaves = [] if isinstance(value, Iterator) else jax.tree.leaves(value, is_leaf=_is_module)
    if leaves and all(_is_numeric(leaf) for leaf in leaves):
        if leaves[0] is value and value.shape == ():
            return f"an array of shape () and dtype {value.dtype}"
        text = repr(jax.tree.map(np.shape, value))
        return text if len(text) <= 400 else text[:397] + "..."
    if isinstance(value, np.ma.MaskedArray):
        return f"a masked array of shape {value.shape}; fill its gaps: values.filled(0)"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = " ".join(repr(value).split())
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} ({type(value).__name__})"


def _is_module(value: Any) -> bool:
    return isinstance(value, nnx.Module)


def is_traced(*arrays: Any) -> bool:
    """Return whether any of the arrays is traced by a JAX transformation and has no value yet.

    Example:
      >>> is_traced(np.ones(3)), bool(jax.jit(lambda x: is_traced(x))(1.0))
      (False, True)
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays))
