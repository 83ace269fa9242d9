"""A process that runs one case: it reads the case from standard input and reports its progress.

Each line that it writes to standard output is a JSON object with one key:

    {"ready": pid}        the libraries are imported; no device is initialised yet
    {"doing": row}        the row, without samples, that is measured next, or null if the next work
                          serves several rows. If the process ends during this work, the parent
                          records the failure in the row. With "slow": true, the parent waits
                          longer for the next message, since a program is being compiled
    {"row": row}          a finished row
    {"header": {...}}     facts about the machine
    {"failed": reason}    the case raised an error
    {"end": true}         the case is done
"""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Container
from typing import Any

from benchmarks.device.rows import identity, reason
from benchmarks.results import Row

__all__ = ["KINDS", "Reporter", "main"]

KINDS = ("facts", "correctness", "conformance", "speed", "training", "fault")
"""The kinds of case: each is a module of this package with `run(reporter, **options)`."""


class Reporter:
    """Sends progress and rows to the parent process.

    Attributes:
      skip: the identities of rows not to measure: finished rows, and rows whose measurement ended
        an earlier process.
      threads: how many programs may be compiled at once.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], None],
        skip: Container[tuple[str, ...]] = (),
        threads: int = 1,
        seconds: float = math.inf,
    ) -> None:
        self._send = send
        self._end = time.monotonic() + seconds
        self.skip = skip
        self.threads = threads

    def seconds_left(self) -> float:
        """Return the seconds until the parent ends this process."""
        return self._end - time.monotonic()

    def header(self, facts: dict[str, Any]) -> None:
        """Report facts for the header of the results."""
        self._send({"header": facts})

    def doing(self, row: Row | None, *, slow: bool = False) -> None:
        """Report the row that is measured next, or None if the next work serves several rows.

        Args:
          row: the row, without samples. If the process ends, the parent records the failure in it.
          slow: whether the work may take long, as compiling does.
        """
        self._send({"doing": None if row is None else dataclasses.asdict(row), "slow": slow})

    def row(self, row: Row) -> None:
        """Report a finished row."""
        self._send({"row": dataclasses.asdict(row)})

    def wanted(self, row: Row) -> bool:
        """Return whether a row is still to be measured."""
        return identity(row) not in self.skip


def import_libraries() -> None:
    """Import slow libraries before a case arrives; no device is initialised."""
    import seqjax  # noqa: F401

    with contextlib.suppress(Exception):  # `pytorch.obstacle` reports what is wrong
        import torch  # noqa: F401


def end_with_parent() -> None:
    """End this process when standard input is closed, which happens when the parent has ended."""
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    """Run the case that standard input gives, and return the exit code."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # redirect the libraries' output to stderr

    turn = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with turn:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    import_libraries()
    send({"ready": os.getpid()})
    line = sys.stdin.readline()
    if not line:
        return 0  # the budget is spent, so this worker is not needed
    asked = json.loads(line)
    threading.Thread(target=end_with_parent, daemon=True).start()
    skip = {tuple(each) for each in asked["skip"]}
    reporter = Reporter(send, skip, asked["threads"], asked["seconds"])
    try:
        module = importlib.import_module(f"benchmarks.device.{asked['kind']}")
        module.run(reporter, **asked["options"])
    except Exception as error:
        send({"failed": reason(error)})
        return 1
    send({"end": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
