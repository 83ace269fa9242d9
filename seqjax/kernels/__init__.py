"""Kernels, the ways to run a cell over time.

The kernel `scan` defines the correct results. All other kernels must return the same results.

- `scan` is `jax.lax.scan`, differentiated by JAX.
- `fused` is a loop with its own derivative, which computes each weight gradient as one product.
- `associative` runs all steps of a linear cell in parallel.
- `cudnn` calls the LSTM of NVIDIA's library cuDNN, and runs only if it is requested by name.
- `native` is compiled C++ for CPUs, and needs the compiled library or a compiler to build it.
- `persistent` is one Pallas kernel for NVIDIA Hopper GPUs. It has not been run on hardware, and
  runs only if it is requested by name.

The function `Kernel.run`, `(cell, problem, *, reverse, inline, unroll) -> Unrolled`, runs a problem
whose arrays are time-major. Other functions of a `Kernel` say which problems the kernel cannot run,
and for which problems "auto" chooses the kernel. `KERNELS` is the table of all kernels. `make_plan`
chooses a kernel and its options, and `run` executes the plan.
"""

from seqjax.kernels import target
from seqjax.kernels._associative import associative
from seqjax.kernels._cudnn import cudnn
from seqjax.kernels._engines import stands_for
from seqjax.kernels._execution import REMAT, Execution, by_scan
from seqjax.kernels._fused import fused
from seqjax.kernels._kernel import Kernel, Spec
from seqjax.kernels._native import native
from seqjax.kernels._persistent import persistent
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
    "by_scan",
    "cudnn",
    "fused",
    "in_segments",
    "make_plan",
    "native",
    "persistent",
    "run",
    "scan",
    "stands_for",
    "target",
]
