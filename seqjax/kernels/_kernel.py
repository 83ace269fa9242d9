"""The type of all kernels: a way to run a cell over time, which says itself what it can run."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from seqjax.cells._base import Cell
from seqjax.kernels._choices import Choices, choices_for
from seqjax.types import Shape, Unrolled

__all__ = ["INSTEAD", "Kernel", "Spec", "require"]

INSTEAD = "expected 'scan', 'fused' or 'auto'"
"""The end of the message with which a special kernel refuses a problem."""


class Spec(NamedTuple):
    """The facts of a problem that are known before it runs.

    Attributes:
      batch_shape: the batch axes; not those that `vmap` adds.
      steps: T.
      dtype: the compute dtype.
      platform: "cpu", "cuda" (or "gpu"), "rocm" or "tpu".
    """

    batch_shape: Shape
    steps: int
    dtype: Any
    platform: str

    @property
    def choices(self) -> Choices:
        """The planner's numbers for the platform."""
        return choices_for(self.platform)


def _never(*_: Any) -> None:
    """Return None: nothing is refused, or nothing speaks for the kernel."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A way to run a cell over time, with all that the planner has to know of it.

    Kernels are compared by their fields, so that a program that was compiled for one is never used
    for another one of the same name.

    Attributes:
      name: for `unroll(implementation=…)`, plans and errors.
      run: `run(cell, problem, *, reverse, inline, unroll, **options) -> Unrolled` on a time-major
        `Problem`.
      refuses: `refuses(cell, spec)` returns why the kernel cannot run that, or None. The text is
        that of an error, such as "'cudnn' runs float32, got xs of bfloat16".
      takes: `takes(cell, spec)` returns why "auto" should take the kernel, or None. It is asked
        only for what the kernel does not refuse.
      absent: `absent(cell, spec)` returns what this machine lacks to run the kernel where "auto"
        would take it, or None. A plan for another kernel says so.
      loops: whether it has a loop, which can project the inputs step by step and be unrolled.
      remat: whether it runs by checkpointed segments of time; else it keeps what it needs.
      transforms: whether all transformations of JAX work; else reverse mode alone.
      tolerance: the largest difference from `scan` in float32, relative and absolute.
      options: further arguments of `run`, as pairs, for a kernel with parameters of its own.

    Example:
      >>> import dataclasses
      >>> from seqjax.kernels import KERNELS, scan
      >>> KERNELS["scan"] == Kernel("scan", scan, takes=KERNELS["scan"].takes)
      True
      >>> KERNELS["cudnn"].loops
      False
    """

    name: str
    run: Callable[..., Unrolled]
    refuses: Callable[[Cell[Any, Any], Spec], str | None] = _never
    takes: Callable[[Cell[Any, Any], Spec], str | None] = _never
    absent: Callable[[Cell[Any, Any], Spec], str | None] = _never
    loops: bool = True
    remat: bool = True
    transforms: bool = True
    tolerance: float = 2e-6
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.name

    def require(self, cell: Cell[Any, Any], spec: Spec) -> None:
        """Raise if the kernel cannot run a cell.

        Raises:
          ValueError: with the reason.
        """
        require(self.refuses(cell, spec))


def require(refusal: str | None) -> None:
    """Raise why a kernel cannot run a problem, if it cannot."""
    if refusal is not None:
        raise ValueError(f"implementation: {refusal}")
