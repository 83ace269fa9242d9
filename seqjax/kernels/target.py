"""The platforms for which a program is compiled: this machine's platform, or those of an export."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax

__all__ = ["made_for", "platforms", "this_machine"]

_EXPORTED_FOR: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
    "_EXPORTED_FOR", default=()
)


def platforms() -> tuple[str, ...]:
    """Return the platforms for which the current program is traced.

    In a `with made_for(names)` block, the platforms are `names`. Otherwise there is one platform,
    that of this machine.

    Example:
      >>> with made_for(["cpu", "tpu"]):
      ...     platforms()
      ('cpu', 'tpu')
    """
    return _EXPORTED_FOR.get() or (this_machine(),)


def this_machine() -> str:
    """Return JAX's default backend: "cpu", "tpu", "cuda" (NVIDIA) or "rocm" (AMD).

    Example:
      >>> this_machine() in ("cpu", "cuda", "rocm", "tpu")
      True
    """
    backend = jax.default_backend()
    if backend != "gpu":
        return backend
    try:
        jax.devices("cuda")
    except RuntimeError:
        return "rocm"
    return "cuda"


@contextlib.contextmanager
def made_for(names: Sequence[str]) -> Iterator[None]:
    """In a `with` block, plan kernels for the given platforms instead of for this machine.

    Args:
      names: names of platforms, "cpu", "cuda", "rocm" or "tpu".

    Example:
      >>> with made_for(["tpu"]):
      ...     platforms()
      ('tpu',)
    """
    token = _EXPORTED_FOR.set(tuple(names))
    try:
        yield
    finally:
        _EXPORTED_FOR.reset(token)
