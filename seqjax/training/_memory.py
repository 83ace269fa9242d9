"""The C library's memory: whether it keeps what a step frees for the next step."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_OPTIONS = {
    -8: 1,  # M_ARENA_MAX: one arena, because others end at 64 MB
    -4: 0,  # M_MMAP_MAX: no mappings of their own, which end when they are freed
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: at most 2 GB stay free at the end of the heap
}
"""Parameters of `mallopt`, from glibc's <malloc.h>."""


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed memory for later, in the whole process.

    On CPUs, XLA allocates a program's temporary arrays at each call and frees them at its end.
    glibc returns large ones to the system, so every call asks for them again, page by page. If a
    training step needs more than 32 MB of them, that can take a sixth of its time. After this call
    the process keeps the memory, up to 2 GB, and shares one heap among all threads.

    Call it at the start of a program, before anything is computed: memory that threads have
    allocated before stays as it is. It cannot be undone. It changes nothing on a GPU or TPU.

    Returns:
      Whether it took effect: False where the C library is not glibc.

    Example:
      >>> from seqjax import training
      >>> training.keep_freed_memory()  # doctest: +SKIP
      True
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all([mallopt(*option) == 1 for option in _OPTIONS.items()])
