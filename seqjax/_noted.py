"""Ranges in which traced values must lie, recorded for a caller that has the values on the host."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Noted", "note_range", "noting_ranges"]


class Noted(NamedTuple):
    """The range [0, high] in which traced values must lie.

    Attributes:
      name: the name of the argument.
      identity: the `id` of the traced array, which is unique among the arrays that are alive. The
        array itself is not stored, since it would be a leaked tracer after a transformation.
      high: the greatest value.
    """

    name: str
    identity: int
    high: int


_noted: contextvars.ContextVar[list[Noted] | None] = contextvars.ContextVar("noted", default=None)


@contextlib.contextmanager
def noting_ranges() -> Iterator[list[Noted]]:
    """Collect the ranges of values that are traced in the block and therefore cannot be checked.

    A caller that has the values can check them before the compiled function runs. If blocks are
    nested, the outer block collects the ranges of the inner block, too.

    Example:
      >>> import jax
      >>> with noting_ranges() as noted:
      ...     _ = jax.make_jaxpr(lambda lengths: note_range("lengths", lengths, 7))(2)
      >>> noted[0].name, noted[0].high
      ('lengths', 7)
    """
    noted: list[Noted] = []
    outer = _noted.get()
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)
        if outer is not None:
            outer.extend(noted)


def note_range(name: str, values: Any, high: int) -> None:
    """Record that traced values must lie in [0, high], if a `noting_ranges` block is active.

    Args:
      name: the name of the argument.
      values: the traced array.
      high: the greatest value.

    Example:
      >>> note_range("lengths", [3], 7)  # nothing listens
    """
    noted = _noted.get()
    if noted is not None:
        noted.append(Noted(name, id(values), high))
