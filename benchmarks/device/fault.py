"""Cases that fail on purpose, to check that a run survives such failures."""

import os
import signal
import time

from benchmarks.device.rows import described, measured
from benchmarks.device.worker import Reporter

__all__ = ["run"]


def run(reporter: Reporter, fault: str) -> None:
    """Report a row, then crash, hang or raise an error.

    The parent process then starts the case again without this row and without the faulty row. The
    second run reports one more row.

    Args:
      reporter: sends progress and rows to the parent process.
      fault: "crash", "hang" or "raise".
    """
    for name in ("before", fault, "after"):
        row = described("fault", name, variant="on purpose")
        if not reporter.wanted(row):
            continue
        reporter.doing(row)
        if name == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == "hang":
            time.sleep(3600)
        if name == "raise":
            raise RuntimeError("on purpose")
        reporter.row(measured(row, [1e-3]))
