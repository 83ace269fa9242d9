"""The platforms a program is made for: this machine's, or others while it is exported."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax

__all__ = ["made_for", "platforms", "this_machine"]

_EXPORTED_FOR: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
    "_EXPORTED_FOR", default=()
)


def platforms() -> tuple[str, ...]:
    """Return what the program that is being traced is for: this machine, or see `made_for`.

    Example:
      >>> with made_for(["cpu", "tpu"]):
      ...     platforms()
      ('cpu', 'tpu')
    """
    return _EXPORTED_FOR.get() or (this_machine(),)


def this_machine() -> str:
    """Return JAX's default backend: "cpu" or "tpu", or a GPU by its maker, "cuda" or "rocm".

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
    """While it lasts, kernels are planned for these platforms, whatever machine this is.

    Args:
      names: of platforms, "cpu", "cuda", "rocm" or "tpu".

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
