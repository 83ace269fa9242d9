"""Run the library's tests of the kernels `cudnn` and `associative` on the device."""

import importlib.util
from pathlib import Path
from typing import Any

from benchmarks.device.rows import described, measured
from benchmarks.device.worker import Reporter

__all__ = ["run"]

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/kernels/test_cudnn.py", "tests/kernels/test_associative.py")


def run(reporter: Reporter, *, quick: bool = False) -> None:
    """Run the tests by pytest, and report one row with the names of those that failed.

    If pytest, hypothesis or the tests are missing, the row says so.

    Args:
      reporter: sends progress and rows to the parent process.
      quick: whether to leave out the tests that are marked slow, as in a short trial run.
    """
    import jax

    row = described("tests", "pytest", "float32", variant="kernels/cudnn, kernels/associative")
    if not reporter.wanted(row):
        return
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    missing += [name for name in TESTS if not (ROOT / name).exists()]
    if missing:
        reporter.row(measured(row, reason=f"not run: missing {', '.join(missing)}"))
        return
    import pytest

    class Count:
        """A pytest plugin that counts outcomes and reports each test as progress."""

        def __init__(self) -> None:
            self.outcomes: dict[str, int] = {"passed": 0, "failed": 0, "skipped": 0}
            self.failed: list[str] = []

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                self.outcomes[report.outcome] += 1
                if report.outcome == "failed":
                    self.failed.append(report.nodeid.rpartition("/")[2])
            reporter.doing(row, slow=True)

    reporter.doing(row, slow=True)
    count = Count()
    jax.config.update("jax_default_matmul_precision", "highest")
    arguments = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    arguments += ["-m", "not slow"] if quick else []
    pytest.main([*arguments, *(str(ROOT / name) for name in TESTS)], plugins=[count])
    some = f"failed: {len(count.failed)} tests: {', '.join(count.failed)}"
    nothing = "failed: no test ran" if not count.outcomes["passed"] else None
    reporter.row(
        measured(
            row,
            extra={name: float(number) for name, number in count.outcomes.items()},
            reason=some[:600] if count.failed else nothing,
        )
    )
