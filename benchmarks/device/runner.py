"""The parent process, which starts a worker process for each case and saves the reported rows.

If a case makes no progress for `limit` seconds, the parent ends the worker. The row that the worker
was measuring gets this reason instead of times. Then the parent runs the case again without that
row, so the other rows of the case are still measured. The results are saved after each case and
after each fault.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.device.cases import Case, all_cases, first_case
from benchmarks.device.rows import described, identity, measured
from benchmarks.results import Results, Row
from seqjax._machine import cores

__all__ = ["Options", "Runner", "Worker"]

ROOT = Path(__file__).resolve().parents[2]
TRIES = 4
"""The maximum number of worker processes for one case."""
READY = 90.0
"""The time limit of a worker for importing its libraries, in seconds."""
COMPILING = 3.0
"""While a worker compiles, its time limit without progress is multiplied by this factor."""
LEAST = 5.0
"""If fewer seconds of the budget are left, no further case is started."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a run.

    Attributes:
      budget: seconds for all cases together.
      limit: seconds without progress after which a process is ended.
      tiny: whether to use the small sizes of a rehearsal. If `tiny` is None, the small sizes are
        used only on a CPU.
      faults: whether to run the cases that fail on purpose, too.
      only: parts of names, in upper or lower case; a case runs if its name contains one of these
        parts. If `only` is empty, all cases run.
      header: entries to add to the header of the results.
      output: the results file.
    """

    budget: float
    limit: float
    tiny: bool | None
    faults: bool
    only: tuple[str, ...]
    header: dict[str, Any]
    output: Path


class Worker:
    """One worker process and the messages that it sends."""

    def __init__(self, flags: str = "") -> None:
        environment = {
            **os.environ,
            # PyTorch and JAX share the device's memory, and so do two processes for a moment.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        }
        platforms = environment.get("JAX_PLATFORMS", "")
        if platforms and "cpu" not in platforms.split(","):
            environment["JAX_PLATFORMS"] = f"{platforms},cpu"  # the reference of correctness
        self.flags = flags
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.device.worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # its child processes are ended with it
        )
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._messages.put(json.loads(line))
            except ValueError:
                break  # it was ended in the middle of a line
        self._messages.put(None)

    def ask(
        self, case: Case, skip: Sequence[tuple[str, ...]], threads: int, seconds: float
    ) -> None:
        """Send a case to the process, which has `seconds` to run it."""
        asked = {
            "kind": case.kind, "options": case.options, "skip": skip, "threads": threads,
            "seconds": seconds,
        }  # fmt: skip
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which its messages will show
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()  # left open: the worker ends when it is closed

    def message(self, timeout: float) -> dict[str, Any] | None:
        """Return the next message, or None if the process has ended.

        Raises:
          queue.Empty: no message came in time.
        """
        return self._messages.get(timeout=max(timeout, 0.0))

    def stop(self) -> None:
        """End the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the device's driver may hold it
            self._process.wait(timeout=10)

    def ending(self) -> str:
        """Return the signal or exit code of the process, and the last line of its error output."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "it closed its output and did not exit"
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return how + (f": {lines[-1][:300]}" if lines else "")


class Runner:
    """A run of all cases, with its time budget and its results so far.

    While a case runs, a second worker may already start for the next case.
    """

    def __init__(
        self,
        options: Options,
        say: Callable[[str], None],
        *,
        start: Callable[[str], Worker] = Worker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.rows: list[Row] = []
        self.header: dict[str, Any] = dict(options.header)
        self._say = say
        self._start = start
        self._clock = clock
        self._begin = clock()
        self._spare: Worker | None = None
        # Imports of the next process take seconds, which cores without work can do meanwhile.
        self._ahead = cores() >= 8

    def left(self) -> float:
        """Return the seconds of the budget that are left."""
        return self._begin + self.options.budget - self._clock()

    def results(self) -> Results:
        """Return the results so far, which are already saved in the file."""
        return Results(self._header(), self.rows)

    def run(self) -> Results:
        """Run all cases, and return the results."""
        try:
            for case, following in self._in_order():
                self._say(f"{self._clock() - self._begin:4.0f} s  {case.name}")
                if self.left() < LEAST:
                    self._keep(self._unfinished(case, self._spent("not run")))
                    continue
                self._case(case, following)
        finally:
            if self._spare is not None:
                self._spare.stop()
        return self.results()

    def _header(self) -> dict[str, Any]:
        """Return the header, with the rates of matrix products and of copying that were measured.

        These rates are in the rows of the case `facts`.
        """
        facts = [row for row in self.rows if row.variant == "machine"]
        rates = {row.precision: row.extra["tflops"] for row in facts if "tflops" in row.extra}
        copies = [row.extra["gb_per_s"] for row in facts if "gb_per_s" in row.extra]
        found = {"copy_gb_per_s": copies[0]} if copies else {}
        return self.header | found | ({"matrix_tflops": rates} if rates else {})

    def _in_order(self) -> Iterator[tuple[Case, Case | None]]:
        """Yield each case together with the next case.

        The first case determines the platform, on which the list of the other cases depends.
        """
        yield first_case(self.options.tiny), None
        if "platform" not in self.header:
            raise ValueError(
                "device: expected one that JAX can use, got "
                + "; ".join(dict.fromkeys(row.reason for row in self.rows if row.reason))
            )
        platform = self.header["platform"]
        cases = all_cases(platform, tiny=self.options.tiny, faults=self.options.faults)
        parts = [part.lower() for part in self.options.only]
        chosen = [case for case in cases if any(part in case.name.lower() for part in parts)]
        if parts and not chosen:
            raise ValueError(
                f"--only: expected a part of a case's name, got {' '.join(self.options.only)}; "
                f"the names are: {'; '.join(case.name for case in cases)}"
            )
        cases = chosen or cases
        yield from zip(cases, [*cases[1:], None], strict=True)

    def _spent(self, what: str) -> str:
        return f"{what}: the budget of {self.options.budget:.0f} s was spent"

    @staticmethod
    def _unfinished(case: Case, reason: str) -> Row:
        """Return a row with the reason why a case was not finished."""
        fields = {
            name: case.options[name]
            for name in ("cell", "variant", "shape")
            if name in case.options
        }
        return measured(described(case.name, "all", **fields), reason=reason)

    def _keep(self, *rows: Row) -> None:
        self.rows += rows
        self.results().save(self.options.output)

    def _worker(self, flags: str) -> Worker:
        """Return the worker that was started in advance if it has these flags, else a new one."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.flags == flags:
            return spare
        if spare is not None:
            spare.stop()
        return self._start(flags)

    def _case(self, case: Case, following: Case | None) -> None:
        """Run one case, and save its rows.

        If the process ends during the measurement of a row, the case is run again without that row.
        """
        skip: list[tuple[str, ...]] = []
        threads = cores()
        for _ in range(TRIES):
            end = self._clock() + min(case.total, self.left())
            worker = self._worker(case.flags)
            try:
                worker.ask(case, skip, threads, end - self._clock())
                if following is not None and self._ahead and self._spare is None:
                    self._spare = self._start(following.flags)
                found = self._listen(worker, end)
            finally:
                worker.stop()
            self._keep(*found.rows)
            skip += [identity(row) for row in found.rows]
            if found.fault is None:
                return
            self._say(f"        {found.fault}")
            blamed = found.doing
            came_again = blamed is not None and identity(blamed) in skip
            if found.final or came_again or (blamed is None and threads == 1):
                self._keep(self._unfinished(case, found.fault))
                return
            if blamed is None:
                threads = 1  # compiled one by one, the program that fails is known
                continue
            self._keep(measured(blamed, reason=found.fault))
            skip.append(identity(blamed))
            if self.left() < LEAST:
                break
        self._keep(self._unfinished(case, "not finished: too many rows ended their process"))

    def _listen(self, worker: Worker, end: float) -> "Outcome":
        """Read the messages of a worker until it ends or its time is up, and return the outcome."""
        rows: list[Row] = []
        doing: Row | None = None
        patience = READY
        while True:
            try:
                message = worker.message(min(patience, end - self._clock()))
            except queue.Empty:
                if self.left() <= 0:
                    return Outcome(rows, doing, self._spent("stopped"), final=True)
                if end <= self._clock():
                    return Outcome(rows, doing, "stopped: the case took too long", final=True)
                return Outcome(rows, doing, f"timed out: no progress in {patience:.0f} s")
            if message is None:
                return Outcome(rows, doing, f"ended early: {worker.ending()}")
            patience = self.options.limit * (COMPILING if message.get("slow") else 1.0)
            if "doing" in message:
                doing = None if message["doing"] is None else row_of(message["doing"])
            elif "row" in message:
                rows.append(row_of(message["row"]))
            elif "header" in message:
                self.header |= message["header"] | self.options.header
            elif "failed" in message:
                return Outcome(rows, doing, message["failed"], final=doing is None)
            elif "end" in message:
                return Outcome(rows, doing, None)


class Outcome(NamedTuple):
    """The report of one process.

    Attributes:
      rows: the rows that the process finished.
      doing: the row that the process was working on last.
      fault: the reason why the process ended, if it did not end by itself.
      final: whether the case should not be run again.
    """

    rows: list[Row]
    doing: Row | None
    fault: str | None
    final: bool = False


def row_of(fields: dict[str, Any]) -> Row:
    """Return the row that a message contains as JSON."""
    return Row(**{**fields, **{name: tuple(fields[name]) for name in ("shape", "samples_ms")}})
