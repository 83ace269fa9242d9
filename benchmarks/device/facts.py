"""Describe the machine, and measure the rates of a copy and of matrix products."""

import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import machine
from benchmarks.device import pytorch
from benchmarks.device.cases import TINY, sizes_of
from benchmarks.device.precisions import PRECISIONS, of_platform
from benchmarks.device.rows import described, measured
from benchmarks.device.worker import Reporter
from benchmarks.results import Row
from seqjax._machine import installed
from seqjax.kernels import target

__all__ = ["run"]

IN_A_ROW = 10

LIBRARIES = (
    "flax", "chex", "torch", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12", "libtpu",
)  # fmt: skip


def run(reporter: Reporter, tiny: bool | None) -> None:
    """Report facts for the header of the results, then the measured rates as rows.

    Args:
      reporter: sends progress and rows to the parent process.
      tiny: whether to use the small sizes of a rehearsal. If `tiny` is None, the small sizes are
        used only on a CPU.
    """
    facts = machine.describe("", installed(LIBRARIES))
    device = jax.devices()[0]
    facts |= {
        "platform": target.this_machine(),
        "compute_capability": getattr(device, "compute_capability", None),
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
    }
    facts["threads"] = None  # CPU threads do not matter here
    reporter.header({name: value for name, value in facts.items() if value is not None})
    reporter.header({"pytorch_device": pytorch.where()})
    if driver := nvidia_driver():
        reporter.header({"driver": driver})

    sizes = sizes_of(device.platform, tiny)
    reporter.header({"tiny": sizes is TINY})
    matrix, numbers = sizes["matrix"], sizes["copy"]
    measure(
        reporter, described("copy", "jax", variant="machine"), "gb_per_s", 8e-9 * numbers,
        lambda a: a + 1, jnp.ones(numbers, jnp.float32),
    )  # fmt: skip
    for name in of_platform(target.this_machine()):
        precision = PRECISIONS[name]
        a = jax.random.normal(jax.random.key(0), (matrix, matrix), precision.dtype)
        row = described("product", "jax", name, variant="machine", shape=(1, 1, matrix, matrix))
        with jax.default_matmul_precision(precision.matmul or "default"):
            measure(reporter, row, "tflops", 2e-12 * matrix**3, jnp.matmul, a, a)


def measure(
    reporter: Reporter, row: Row, unit: str, amount: float, function: Callable[..., Any],
    *arguments: Any,
) -> None:  # fmt: skip
    """Report a row with a rate: the amount of work divided by the median time."""
    if not reporter.wanted(row):
        return
    reporter.doing(row)
    seconds = timed(jax.jit(function), *arguments)
    rate = amount / statistics.median(seconds)
    reporter.row(measured(row, seconds, extra={unit: rate}))


def timed(call: Callable[..., Any], *arguments: Any, repeats: int = 10) -> list[float]:
    """Return several times of a call, in seconds. The first call is not counted.

    Each time is the mean over several successive calls, so that the costs of starting a call and of
    waiting for its result do not count.
    """
    seconds = []
    for turn in range(1 + repeats):
        start = time.perf_counter()
        for _ in range(IN_A_ROW):
            result = call(*arguments)
        jax.block_until_ready(result)
        if turn:
            seconds.append((time.perf_counter() - start) / IN_A_ROW)
    return seconds


def nvidia_driver() -> str | None:
    """Return the version of the NVIDIA driver, or None if there is no such driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.check_output(command, text=True, timeout=20).split()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0] if lines else None
