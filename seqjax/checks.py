"""Checks of the arguments of public functions, with error messages of one form.

A failed check raises `TypeError`, `ValueError` or, for an index, `IndexError`. The message names
the argument, the expected value and the given one: `hidden_size: expected a positive integer, got
0`.
"""

import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax._array_checks import as_array as as_array
from seqjax._array_checks import (
    is_key,
    is_readable,
    is_traced,
    require_array,
    require_cast,
    require_fit,
    require_ids,
    require_range,
    require_unmasked,
    unfit,
)
from seqjax._brief import brief as brief

__all__ = [
    "is_key",
    "is_readable",
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
    "require_positive",
    "require_options",
    "require_range",
    "require_rate",
    "require_scalar",
    "require_shape",
    "require_size",
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


def require_size(name: str, value: Any, *, least: int = 0) -> int:
    """Return the size of an axis as `require_integer` does.

    A symbolic size of `jax.export` is not changed.

    Example:
      >>> require_size("batch_size", 3)
      3
    """
    size: int = value  # an array can have a symbolic size in place of an int
    symbolic = jax.export.is_symbolic_dim(value)
    return size if symbolic else require_integer(name, value, least=least)


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
    return tuple(require_size(name, size, least=least) for size in axes)


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
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
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
    raw = dtype == np.uint32 and getattr(key, "shape", ())[-1:] in ((2,), (4,))
    if not (is_key(key) and key.shape == ()) and not (raw and len(key.shape) == 1):
        got = brief(key) if dtype is None else f"an array of shape {key.shape} and dtype {dtype}"
        raise TypeError(f"{name}: expected a random key such as jax.random.key(0), got {got}")
    found: jax.Array = key
    return found


def require_number(
    name: str, value: Any, *, least: float | None = None, finite: bool = True
) -> float:
    """Return `value` as a float, or raise if it is not a finite real number.

    Args:
      name: the name of the argument.
      value: the argument.
      least: the smallest number that is accepted; or None, if there is no such number.
      finite: if False, infinite numbers are accepted, but not NaN.

    Raises:
      TypeError: `value` is not a real number.
      ValueError: `value` is NaN, infinite or less than `least`.

    Example:
      >>> require_number("forget_bias", 1)
      1.0
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {brief(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer of Python beyond the range of float64
        number = math.inf
    if math.isnan(number) or (finite and math.isinf(number)):
        raise ValueError(f"{name}: expected a {'finite ' * finite}number, got {number}")
    if least is not None and number < least:
        raise ValueError(f"{name}: expected a number of at least {least}, got {value}")
    return number


def require_positive(name: str, value: Any) -> float:
    """Return `value` as a float, or raise if it is not a positive, finite real number.

    Raises:
      TypeError: `value` is not a real number.
      ValueError: `value` is NaN, infinite, zero or negative.

    Example:
      >>> require_positive("temperature", 1)
      1.0
    """
    number = require_number(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return number


def require_scalar(
    name: str, value: Any, check: Callable[[str, Any], float] = require_number
) -> Any:
    """Return a number or, if `value` is traced by JAX, `value` itself.

    Args:
      name: the name of the argument.
      value: a number, or an array without axes.
      check: the check of a number whose value is known.

    Raises:
      TypeError: `value` is not a real number; or what `check` raises.
      ValueError: what `check` raises.

    Example:
      >>> require_scalar("rate", jnp.float32(0.5))
      0.5
      >>> jax.jit(lambda rate: 2 * require_scalar("rate", rate))(0.5).item()
      1.0
    """
    if getattr(value, "shape", None) != ():
        if is_traced(value):
            raise TypeError(f"{name}: expected a number, got {brief(value)}")
        return check(name, value)
    if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"{name}: expected a number, got {brief(value)}")
    return value if is_traced(value) else check(name, value.item())


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
