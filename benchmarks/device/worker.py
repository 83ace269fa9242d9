"""A process that runs one case: it reads the case from standard input and reports as it goes.

Each line that it writes to standard output is a JSON object with one key:

    {"ready": pid}        the libraries are imported; no device was touched yet
    {"doing": row}        what the next work is for: a row without samples, blamed if all ends here;
                          null for progress that no row can be blamed for
    {"row": row}          a finished row
    {"header": {...}}     facts about the machine
    {"failed": reason}    the case raised an error
    {"end": true}         the case is done
"""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Container
from typing import Any

from benchmarks.device.rows import identity, reason
from benchmarks.results import Row

__all__ = ["KINDS", "Reporter", "main"]

KINDS = {
    "facts": "facts",
    "correctness": "correctness",
    "conformance": "conformance",
    "speed": "speed",
    "training": "training",
    "fault": "fault",
}
"""The module below this package that runs a kind of case, by `run(reporter, **options)`."""


class Reporter:
    """The worker's side of the conversation.

    Attributes:
      skip: what is not to be done again, because it ended an earlier process: identities of
        rows.
      threads: how many programs may be compiled at once.
    """

    def __init__(
        self, send: Callable[[dict[str, Any]], None], skip: Container[tuple[str, ...]] = (),
        threads: int = 1,
    ) -> None:  # fmt: skip
        self._send = send
        self.skip = skip
        self.threads = threads

    def header(self, facts: dict[str, Any]) -> None:
        """Report facts for the header of the results."""
        self._send({"header": facts})

    def doing(self, row: Row | None) -> None:
        """Say what the next work is for; None if it is for several rows."""
        self._send({"doing": None if row is None else dataclasses.asdict(row)})

    def row(self, row: Row) -> None:
        """Report a finished row."""
        self._send({"row": dataclasses.asdict(row)})

    def wanted(self, row: Row) -> bool:
        """Return whether a row is still to be measured."""
        return identity(row) not in self.skip


def import_libraries() -> None:
    """Import what takes long, so that a waiting worker has it; no device is touched."""
    import seqjax  # noqa: F401

    with contextlib.suppress(ImportError):
        import torch  # noqa: F401


def main() -> int:
    """Run the case that standard input gives, and return the exit code."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes where errors go

    turn = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with turn:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    import_libraries()
    send({"ready": os.getpid()})
    line = sys.stdin.readline()
    if not line:
        return 0  # the budget is spent: nobody needs this worker
    asked = json.loads(line)
    reporter = Reporter(send, {tuple(each) for each in asked["skip"]}, asked["threads"])
    module = importlib.import_module(f"benchmarks.device.{KINDS[asked['kind']]}")
    try:
        module.run(reporter, **asked["options"])
    except Exception as error:
        send({"failed": reason(error)})
        return 1
    send({"end": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
