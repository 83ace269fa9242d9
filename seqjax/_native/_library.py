"""Load the native engine and register its custom calls with XLA, once a process."""

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
    """The engine as this process has it.

    Attributes:
      lanes: floats in a vector of the processor, which arrays kept for gradients are laid out by.
      forward: the name of the custom call that runs a cell over time.
      backward: the name of the custom call that computes its gradient.
      library: the compiled library.
    """

    lanes: int
    forward: str
    backward: str
    library: ctypes.CDLL


def engine() -> Engine:
    """Return the engine, which the first call compiles if need be, loads and registers.

    Raises:
      RuntimeError: there is none here, see `why_absent`.
    """
    found = _found()
    if isinstance(found, str):
        raise RuntimeError(f"the native engine is absent: {found}")
    return found


def why_absent() -> str | None:
    """Return why there is no engine here, or None if there is one.

    Example:
      >>> why_absent() is None or isinstance(why_absent(), str)
      True
    """
    found = _found()
    return found if isinstance(found, str) else None


def limit_threads(most: int) -> None:
    """Let later calls use so many threads at most. The results are the same to the bit.

    Args:
      most: 1 or more. XLA's pool of threads is a limit, too.

    Raises:
      RuntimeError: there is no engine.
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
    forward, backward = (_registered(library, name) for name in ("forward", "backward"))
    return Engine(lanes, forward, backward, library)


def _registered(library: ctypes.CDLL, direction: str) -> str:
    """Register a custom call; its name tells versions of the engine apart."""
    name = f"seqjax_{direction}_{_build.sources_hash()}"
    capsule = jax.ffi.pycapsule(getattr(library, f"seqjax_{direction}"))
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return name
