"""Execution, the options that say how a cell is run: one type for every public function."""

import dataclasses
from typing import Any, Literal, Self

from seqjax import checks
from seqjax.kernels._kernel import Kernel
from seqjax.kernels._registry import find

__all__ = ["REMAT", "Execution"]

REMAT = ("auto", "none", "chunk", "sqrt", "log")
"""The ways in which reverse mode trades memory for time. "none" stores the values of every step.
"chunk" stores the states between segments and the values of one segment of a few megabytes, and
runs each step twice. "sqrt" does the same with segments of √T steps, which needs the least memory
for that cost. "log" nests segments: memory is O(log T), and each level runs the steps once more."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """The options for running a cell over time. By default the planner chooses everything.

    It is accepted by `seqjax.unroll`, `seqjax.explain`, the layers of `seqjax.nn`, and the encoder,
    the decoder and the model of `seqjax.seq2seq`.

    Attributes:
      implementation: a kernel, by name or a `seqjax.kernels.Kernel` itself, which runs or raises
        with the reason; or "auto", which chooses one.
      remat: what reverse mode keeps, a name of `seqjax.kernels.REMAT`.
      memory_budget: approximate number of bytes reverse mode may keep, without inputs and outputs.
      unroll: steps in one iteration of the compiled loop; None to choose.

    Raises:
      TypeError, ValueError: an unknown name, or a number that is not a positive integer.

    Example:
      >>> Execution(remat="sqrt").remat
      'sqrt'
      >>> Execution("fast")
      Traceback (most recent call last):
      ValueError: implementation: expected one of auto, scan, fused, ...
    """

    implementation: (
        Literal["auto", "scan", "fused", "associative", "cudnn", "native"] | str | Kernel
    ) = "auto"
    remat: Literal["auto", "none", "chunk", "sqrt", "log"] = "auto"
    memory_budget: int | None = None
    unroll: int | None = None

    def __post_init__(self) -> None:
        find(self.implementation)
        checks.require_name("remat", self.remat, REMAT)
        for name in ("memory_budget", "unroll"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checks.require_integer(name, value))

    @classmethod
    def of(cls, execution: Self | None, **given: Any) -> Self:
        """Return an execution with some of its fields replaced, those that are not None.

        Args:
          execution: as a caller gave it; None for the default.
          **given: its fields as keywords of that caller.

        Raises:
          TypeError, ValueError: something else than an `Execution`; a field that is not allowed.

        Example:
          >>> Execution.of(None, remat="log", unroll=None).remat
          'log'
        """
        if execution is None:
            execution = cls()
        if not isinstance(execution, cls):
            raise TypeError(
                "execution: expected a seqjax.Execution, such as seqjax.Execution(remat='sqrt'), "
                f"got {checks.brief(execution)}"
            )
        changed = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(execution, **changed) if changed else execution
