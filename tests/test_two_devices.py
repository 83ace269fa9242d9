"""The tests marked `two_devices`, in a process that has two CPU devices."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
MARKED = sorted(
    path
    for path in TESTS.rglob("test_*.py")
    if "mark.two_devices" in path.read_text()
    and path != Path(__file__).resolve()
    # A source distribution has no benchmark suite.
    and (path.parent.name != "benchmarks" or importlib.util.find_spec("benchmarks"))
)


@pytest.mark.slow
@pytest.mark.parametrize("path", MARKED, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_in_a_process_with_two_devices(path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-m",
        "two_devices and not slow",
    ]
    done = subprocess.run(
        [*command, str(path)],
        cwd=TESTS.parent,
        env={**os.environ, "SEQJAX_TEST_DEVICES": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if old := re.search(r"needs jax .*", done.stdout):
        pytest.skip(old[0])
    assert re.search(r"[1-9]\d* passed", done.stdout), done.stdout
