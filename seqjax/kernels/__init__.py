"""Kernels: ways to run a cell over time. `scan` defines what the others must equal.

`fused` has a backward loop of its own, in which weight gradients are not summed step by step.

A kernel is a function `(cell, problem, *, reverse, remat, unroll) -> Unrolled` on time-major
arrays; `KERNELS` names them for `unroll(implementation=…)`.
"""

from collections.abc import Callable

from seqjax.kernels.fused import fused
from seqjax.kernels.problem import Problem
from seqjax.kernels.scan import REMAT, scan
from seqjax.types import Unrolled

__all__ = ["KERNELS", "REMAT", "Problem", "fused", "scan"]

KERNELS: dict[str, Callable[..., Unrolled]] = {"scan": scan, "fused": fused}
"""Every kernel by name."""
