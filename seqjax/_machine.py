"""The machine that a program runs on: its processor, cores and versions."""

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

__all__ = ["cores", "description", "installed", "processor", "versions"]


def cores() -> int:
    """Return the number of cores that this process may use.

    Example:
      >>> cores() >= 1
      True
    """
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name, with the numbers of family and model if Linux has them.

    Example:
      >>> processor() != ""
      True
    """
    info = Path("/proc/cpuinfo")
    if info.exists():
        first = info.read_text(encoding="utf-8").split("\n\n")[0]
        pairs = (line.partition(":")[::2] for line in first.splitlines())
        facts = {name.strip(): value.strip() for name, value in pairs}
        if name := facts.get("model name"):
            numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
            return f"{name} ({', '.join(numbers)})" if numbers else name
    return platform.processor() or platform.machine() or "unknown"


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed.

    Args:
      distributions: names of distributions, such as "jax".

    Example:
      >>> list(installed(["jax", "no-such-distribution"]))
      ['jax']
    """
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def versions() -> dict[str, str]:
    """Return the versions of Python, seqjax and the packages that compute for it.

    Example:
      >>> list(versions())
      ['python', 'seqjax', 'jax', 'jaxlib', 'numpy', 'flax', 'optax']
    """
    import seqjax

    found = {"python": platform.python_version(), "seqjax": seqjax.__version__}
    return found | installed(("jax", "jaxlib", "numpy", "flax", "optax"))


def description(distributions: Iterable[str] = ()) -> str:
    """Return one line about the processor, the cores and the versions of a run.

    Args:
      distributions: more distributions whose versions matter.

    Example:
      >>> description(["chex"]).rpartition(" ")[0].endswith(", chex")
      True
    """
    found = versions() | installed(distributions)
    used = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"{processor()}, cores: {cores()}; {used}"
