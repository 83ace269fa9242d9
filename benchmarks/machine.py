"""The machine of a run: processor, load, versions, threads, and the rate of a large product."""

import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seqjax._machine import cores, processor, versions

__all__ = ["GemmRate", "describe", "load_average"]

GEMM_SIZE = 2048

INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")
"""Instruction sets that affect the speed of matrix products, by their Linux names."""


def instructions() -> list[str]:
    """Return the members of `INSTRUCTIONS` that the processor has, according to /proc/cpuinfo.

    On a system without this file, the list is empty.
    """
    info = Path("/proc/cpuinfo")
    found: set[str] = set()
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith(("flags", "Features")):
            found.update(line.partition(":")[2].split())
    return [name for name in INSTRUCTIONS if name in found]


def load_average() -> float | None:
    """Return the mean number of running processes in the last minute, if it is known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def commit() -> str | None:
    """Return the commit of this checkout, with a "+" if files differ from it."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.check_output(
            ["git", *arguments], cwd=root, text=True, stderr=subprocess.DEVNULL
        ).strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class GemmRate:
    """The rate of a large float32 product in JAX: `best` is the highest of all measured rates."""

    def __init__(self, size: int = GEMM_SIZE) -> None:
        self.size = size
        self.best = 0.0
        self._product = jax.jit(jnp.matmul)
        self._a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)

    def measure(self, repeats: int = 5) -> float:
        """Measure once more.

        Returns:
          The median of this measurement, in 10⁹ operations per second.
        """
        self._product(self._a, self._a).block_until_ready()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._product(self._a, self._a).block_until_ready()
            seconds.append(time.perf_counter() - start)
        rate = 2 * self.size**3 / statistics.median(seconds) / 1e9
        self.best = max(self.best, rate)
        return rate


def one_core_rate() -> float | None:
    """Return the rate of a large product in a process with one core; None if not measurable."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    # The restriction must be in force before JAX makes its threads.
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from benchmarks import machine; print(machine.GemmRate().measure())"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    return float(done.stdout) if done.returncode == 0 else None


def describe(command: str, found: dict[str, str]) -> dict[str, Any]:
    """Return the header of a results file, without the values that are known only after the run.

    Args:
      command: the command that reproduces the run.
      found: the versions of all contestants' libraries.
    """
    device = jax.devices()[0]
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "jax_devices": jax.device_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "instructions": instructions(),
        "cores": cores(),
        "threads": {"xla": cores()},
        "versions": versions() | found,
        "load_before": load_average(),
    }
