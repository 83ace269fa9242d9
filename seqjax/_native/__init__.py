"""The native engine for CPUs: C++ that runs recurrent cells over time as custom calls of XLA.

The sources are in `src/`; `src/cells.h` is the seam between cells and loops. A wheel may hold the
compiled library; otherwise it is compiled once, where there is a C++ compiler, into a cache of the
user. `seqjax.kernels` has the kernel that calls it.
"""

from seqjax._native._build import build
from seqjax._native._library import Engine, engine, limit_threads, why_absent

__all__ = ["Engine", "build", "engine", "limit_threads", "why_absent"]
