"""Kernels: ways to run a cell over time. `scan` defines what the others must equal.

- `scan`: `jax.lax.scan` as it stands.
- `fused`: a loop with a derivative of its own, whose weight gradients are one product each.
- `associative`: time in parallel, for linear cells.
- `cudnn`: NVIDIA's LSTM; on request only.
- `native`: compiled C++ for CPUs; where it is present.

A `Kernel` is a function `(cell, problem, *, reverse, inline, unroll) -> Unrolled` on time-major
arrays, together with what it refuses and when "auto" takes it. `KERNELS` is the table of them,
`make_plan` chooses one, and `run` carries a plan out, by checkpointed segments of time if the plan
says so.
"""

from seqjax.kernels import target
from seqjax.kernels._associative import associative
from seqjax.kernels._cudnn import cudnn
from seqjax.kernels._execution import REMAT, Execution
from seqjax.kernels._fused import fused
from seqjax.kernels._kernel import Kernel, Spec
from seqjax.kernels._native import native, stands_for
from seqjax.kernels._plan import WANTED, Plan, Reasons, make_plan
from seqjax.kernels._problem import Problem
from seqjax.kernels._registry import KERNELS
from seqjax.kernels._run import run
from seqjax.kernels._scan import scan
from seqjax.kernels._segments import in_segments

__all__ = [
    "KERNELS",
    "REMAT",
    "WANTED",
    "Execution",
    "Kernel",
    "Plan",
    "Problem",
    "Reasons",
    "Spec",
    "associative",
    "cudnn",
    "fused",
    "in_segments",
    "make_plan",
    "native",
    "run",
    "scan",
    "stands_for",
    "target",
]
