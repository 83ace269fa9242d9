"""`Execution`, the options for running a cell."""

import dataclasses
from typing import Any, Literal, Self

from seqjax import checks
from seqjax.kernels._kernel import Kernel
from seqjax.kernels._registry import find
from seqjax.kernels._scan import SCAN, scan

__all__ = ["REMAT", "Execution", "by_scan"]

REMAT = ("auto", "none", "chunk", "sqrt", "log")
"""The rematerialisation strategies, which save memory in reverse mode and need more time.

"none" stores the values of every step. "chunk" divides the steps into segments of a few megabytes,
stores the states between segments and the values of one segment, and runs each step twice. "sqrt"
is like "chunk" with segments of √T steps, which need the least memory if each step runs twice.
"log" nests segments and needs memory O(log T). Each level of nesting runs the steps once more."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """Options for running a cell over time. By default the planner chooses all options.

    Pass an `Execution` to `seqjax.unroll`, to `seqjax.explain`, to a layer of `seqjax.nn`, or to
    the encoder, the decoder or the model of `seqjax.seq2seq`.

    Attributes:
      implementation: the name of a kernel, a `seqjax.kernels.Kernel`, or "auto". With "auto" the
        planner chooses the kernel. If the requested kernel cannot run the problem, an error says
        why.
      remat: the rematerialisation strategy, a name in `seqjax.kernels.REMAT`.
      memory_budget: the approximate number of bytes that reverse mode may keep in addition to
        inputs and outputs. If `memory_budget` is None, there is no limit.
      unroll: the number of steps in one iteration of the compiled loop. If `unroll` is None, the
        planner chooses the number.

    Raises:
      TypeError, ValueError: a name is unknown, or a number is not a positive integer.

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
        """Return a copy of an execution with new values for some of its fields.

        Args:
          execution: the execution. None stands for `Execution()`.
          **given: new values of the fields. If a value is None, the field keeps its old value.

        Raises:
          TypeError, ValueError: `execution` is not an `Execution`, or a value is not allowed.

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


def by_scan(execution: Execution, argument: str, **options: Any) -> Execution:
    """Return an `Execution` with the kernel "scan", for a call that no other kernel can run.

    Args:
      execution: the execution of the call.
      argument: the name of the argument that only "scan" supports, for the error message.
      **options: further options of `scan`.

    Raises:
      ValueError: `execution` requests another kernel.

    Example:
      >>> by_scan(Execution(), "return_all_states", with_states=True).implementation.options
      (('with_states', True),)
    """
    kernel = find(execution.implementation) or SCAN
    if kernel.run is not scan:
        raise ValueError(f"implementation: expected auto or scan with {argument}, got {kernel}")
    kernel = dataclasses.replace(kernel, options=(*kernel.options, *options.items()))
    return dataclasses.replace(execution, implementation=kernel)
