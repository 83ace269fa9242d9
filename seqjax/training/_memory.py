"""A setting of the C library that makes the process keep freed memory for the next step."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_OPTIONS = {
    -8: 1,  # M_ARENA_MAX: one arena, because the other arenas are limited to 64 MB
    -4: 0,  # M_MMAP_MAX: no separate mappings, which are returned to the system when freed
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: up to 2 GB stay free at the end of the heap
}
"""Parameters of `mallopt`, from glibc's <malloc.h>."""


def keep_freed_memory() -> bool:
    """Configure the C library of this process to keep freed memory for later allocations.

    On CPUs, XLA allocates the temporary arrays of a program at each call and frees them after the
    call. The C library glibc returns large arrays to the system, so each call requests their memory
    again, page by page. If a training step needs more than 32 MB of temporary arrays, the requests
    can take a sixth of the time of the step. After a call of `keep_freed_memory`, the process keeps
    up to 2 GB of freed memory, and all threads share one heap.

    Call this function at the start of a program, before anything is computed. The setting has no
    effect on memory that threads have already allocated, or on GPUs and TPUs, and cannot be undone.

    Returns:
      True if the setting took effect; False if the C library is not glibc.

    Example:
      >>> from seqjax import training
      >>> training.keep_freed_memory()  # doctest: +SKIP
      True
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all([mallopt(*option) == 1 for option in _OPTIONS.items()])
