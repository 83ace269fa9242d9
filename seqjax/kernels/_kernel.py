"""`Kernel`, the type of all kernels, and `Spec`, the description of a problem."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from seqjax.cells._base import Cell
from seqjax.kernels._choices import Choice, Choices, choices_for
from seqjax.types import Shape, Unrolled

__all__ = ["INSTEAD", "Kernel", "Spec", "by_choice", "require"]

INSTEAD = "use 'scan', 'fused' or 'auto'"
"""The hint at the end of the message with which a special kernel refuses a problem."""


class Spec(NamedTuple):
    """Properties of a problem that are known before it runs.

    Attributes:
      batch_shape: the sizes of the batch axes, except axes that `jax.vmap` adds.
      steps: the number of time steps, T.
      dtype: the compute dtype.
      platform: "cpu", "cuda" (or "gpu"), "rocm" or "tpu".
    """

    batch_shape: Shape
    steps: int
    dtype: Any
    platform: str

    @property
    def choices(self) -> Choices:
        """The planner's settings for the platform."""
        return choices_for(self.platform)


def _never(*_: Any) -> None:
    """Return None, as the default of `refuses`, `takes` and `absent`."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A way to run a cell over time, with the information that the planner needs.

    Two kernels are equal only if all their fields are equal. So a program that was compiled for one
    kernel is never used for another kernel with the same name.

    Attributes:
      name: the name in `unroll(implementation=…)`, in plans and in errors.
      run: `run(cell, problem, *, reverse, **options) -> Unrolled` on a time-major `Problem`. A
        kernel with a loop also gets `inline` and `unroll`.
      refuses: `refuses(cell, spec)` returns why the kernel cannot run the problem, or None if it
        can. The reason becomes part of an error message, such as "'cudnn' runs float32, got xs of
        bfloat16".
      takes: `takes(cell, spec)` returns why "auto" should choose the kernel, or None if it should
        not. `takes` is called only for problems that the kernel does not refuse.
      absent: `absent(cell, spec)` returns why the kernel is missing on this machine, or None if the
        kernel is present or "auto" would not choose it anyway. If "auto" chooses another kernel,
        the plan's reasons say why this kernel is missing.
      loops: whether the kernel has a loop that can project each step's input (`inline`) and be
        unrolled (`unroll`).
      remat: whether the kernel can run in checkpointed segments of time. If `remat` is False, the
        kernel itself decides which values it stores for the gradient.
      transforms: whether the kernel supports all transformations of JAX. If `transforms` is False,
        the kernel supports reverse mode only.
      tolerance: the largest allowed relative and absolute difference from `scan` in float32.
      options: further arguments of `run`, as pairs of name and value.

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
          ValueError: the kernel refuses the cell. The error message gives the reason.
        """
        require(self.refuses(cell, spec))


def by_choice(name: str) -> Callable[[Cell[Any, Any], Spec], str | None]:
    """Return the function `takes` of a kernel that "auto" chooses by a setting of `Choices`.

    Args:
      name: the name of the setting, such as "native".
    """

    def takes(cell: Cell[Any, Any], spec: Spec) -> str | None:
        del cell
        choice: Choice[bool] = getattr(spec.choices, name)
        return choice.because if choice.value else None

    return takes


def require(refusal: str | None) -> None:
    """Raise an error with the reason `refusal`, unless `refusal` is None."""
    if refusal is not None:
        raise ValueError(f"implementation: {refusal}")
