"""The platforms a program is made for: this machine's, or others while it is exported."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax

__all__ = ["made_for", "platforms"]

_EXPORTED_FOR: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
    "_EXPORTED_FOR", default=()
)


def platforms() -> tuple[str, ...]:
    """What is to run the program that is being traced: JAX's default backend, or see `made_for`.

    Example:
      >>> with made_for(["cpu", "tpu"]):
      ...     platforms()
      ('cpu', 'tpu')
    """
    return _EXPORTED_FOR.get() or (jax.default_backend(),)


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
