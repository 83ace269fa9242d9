"""Loading of the native engine and registration of its custom calls with XLA, once per process."""

import ctypes
import functools
import os
import threading
from pathlib import Path
from typing import NamedTuple

import jax

from seqjax._native import _build

__all__ = ["Engine", "engine", "limit_threads", "why_absent"]

_LOCK = threading.Lock()


class Engine(NamedTuple):
    """The engine that this process has loaded.

    Attributes:
      lanes: the number of floats in a SIMD vector of the processor, which determines the layout of
        the arrays that are stored for gradients.
      forward: the name of the custom call that runs a cell over time.
      backward: the name of the custom call that computes the gradient of `forward`.
      readout: the name of the custom call that computes the cross entropy of a linear read-out.
      library: the compiled library.
    """

    lanes: int
    forward: str
    backward: str
    readout: str
    library: ctypes.CDLL


def engine() -> Engine:
    """Return the engine, which the first call compiles if necessary, loads and registers.

    Raises:
      RuntimeError: the engine is absent. `why_absent` returns the reason.
    """
    found = _found()
    if isinstance(found, str):
        raise RuntimeError(f"the native engine is absent: {found}")
    return found


def why_absent() -> str | None:
    """Return why the engine is absent on this machine, or None if it is present.

    Example:
      >>> why_absent() is None or isinstance(why_absent(), str)
      True
    """
    found = _found()
    return found if isinstance(found, str) else None


def limit_threads(most: int) -> None:
    """Limit the number of threads of the engine's later calls. The results stay bitwise equal.

    Args:
      most: the greatest number of threads, at least 1. The engine never uses more threads than
        XLA's thread pool has.

    Raises:
      RuntimeError: the engine is absent.
    """
    engine().library.seqjax_limit_threads(most)


def _found() -> Engine | str:
    with _LOCK:
        return _loaded()


@functools.cache
def _loaded() -> Engine | str:
    if os.environ.get("SEQJAX_NATIVE", "1") == "0":
        return "SEQJAX_NATIVE=0 turns it off"
    shipped = Path(__file__).parent / _build.LIBRARY
    try:
        library = ctypes.CDLL(str(shipped if shipped.exists() else _build.cached()))
        lanes = library.seqjax_lanes()
    except (RuntimeError, OSError) as error:
        return str(error)
    if not lanes:
        return "the compiled library has no build for this processor"
    forward, backward, readout = (
        _registered(library, name) for name in ("forward", "backward", "readout")
    )
    return Engine(lanes, forward, backward, readout, library)


def _registered(library: ctypes.CDLL, call: str) -> str:
    """Register a custom call and return its name, which identifies the version of the engine."""
    name = f"seqjax_{call}_{_build.sources_hash()}"
    capsule = jax.ffi.pycapsule(getattr(library, f"seqjax_{call}"))
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return name
