"""The native engine for CPUs: C++ code that runs recurrent cells over time as custom calls of XLA.

The sources are in `src/`; `src/cells.h` is the interface between cells and loops. A wheel may
contain the compiled library. If the wheel does not contain the library, and there is a C++
compiler, the library is compiled once, into the user's cache folder. The kernel that calls the
library is in `seqjax.kernels`.
"""

from seqjax._native._build import build
from seqjax._native._library import Engine, engine, limit_threads, why_absent

__all__ = ["Engine", "build", "engine", "limit_threads", "why_absent"]
