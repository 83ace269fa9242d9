"""The command line of `python -m benchmarks device`; it needs only the library's packages."""

import argparse
import datetime
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.device import report
from benchmarks.device.runner import Options, Runner
from benchmarks.results import Results

__all__ = ["main"]

OUTPUT = Path("out/benchmarks/device.json")


def main(arguments: Sequence[str]) -> int:
    """Run the suite.

    Args:
      arguments: the command-line arguments after "device".

    Returns:
      The exit code: 0 for success, 1 if a contestant failed, disagreed, crashed or hung, 2 for a
      wrong argument.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks device",
        allow_abbrev=False,
        description="Check and measure seqjax on a GPU or TPU, beside PyTorch if installed.",
    )
    parser.add_argument(
        "--budget", type=_positive, default=600.0, metavar="SECONDS",
        help="maximum time of the whole run (600)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=_positive, default=45.0, metavar="SECONDS",
        help="time without progress after which a process is ended (45)",
    )  # fmt: skip
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT",
        help="run the cases whose names contain this text; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--tiny", action=argparse.BooleanOptionalAction, default=None,
        help="use small sizes, to try the suite; the default on a CPU",
    )  # fmt: skip
    parser.add_argument(
        "--faults", action="store_true",
        help="add cases that crash, hang and fail on purpose, to test that the run continues",
    )  # fmt: skip
    parser.add_argument(
        "--commit", help="the commit of the code, for the results, if there is no git checkout"
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="FILE", help=f"the results file ({OUTPUT})"
    )
    found = parser.parse_args(arguments)
    if found.output.is_dir():
        parser.error(f"--output: expected a file, got the folder {found.output}")
    try:
        found.output.parent.mkdir(parents=True, exist_ok=True)
        Results({}, []).save(found.output.with_name(f"{found.output.name}.try"))
        found.output.with_name(f"{found.output.name}.try").unlink()
    except OSError as error:
        parser.error(f"--output: expected a file that can be written, got {found.output} ({error})")
    header = {
        "command": shlex.join(["python", "-m", "benchmarks", "device", *_kept(arguments)]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "budget_s": found.budget,
    }
    if commit := found.commit or machine.commit():
        header["commit"] = commit
    options = Options(
        budget=found.budget,
        limit=found.limit,
        tiny=found.tiny,
        faults=found.faults,
        only=tuple(found.only),
        header=header,
        output=found.output,
    )
    runner = Runner(options, lambda text: print(text, flush=True))
    stopped = False
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the workers end, too
        runner.run()
    except KeyboardInterrupt:
        stopped = True
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = runner.results()
    print("\n" + report.text(results))
    print(f"\n{'Stopped. ' if stopped else ''}Results: {found.output.resolve()}")
    return 130 if stopped else exit_code(results)


def exit_code(results: Results) -> int:
    """Return 1 if a row reports a fault, else 0."""
    faults = (
        "failed",
        "disagrees",
        "ended early",
        "timed out",
        "stopped: the case",
        "not finished",
    )
    return int(any((row.reason or "").startswith(faults) for row in results.rows))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def _kept(arguments: Sequence[str]) -> list[str]:
    """Return the arguments except those for the output path and the commit."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in ("--output", "--commit"):
            next(words, None)
        elif not word.startswith(("--output=", "--commit=")):
            kept.append(word)
    return kept
