"""An example in two processes with one folder: one process is killed, and the run is resumed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seqjax import training

pytest.importorskip("tyro")
ROOT = Path(__file__).parents[2]
EPOCHS = 25
OPTIONS = (
    "--questions=500", "--digits=2", "--hidden-size=8", f"--epochs={EPOCHS}", "--batch-size=64",
    "--accumulate=2",
)  # fmt: skip


def start(out, *options):
    """Start the script; its output and its errors go to a file beside the folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    with out.with_suffix(f".{len(list(out.parent.glob('*.log')))}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "examples.addition", *OPTIONS, f"--out={out}", *options],
            stdout=log, stderr=subprocess.STDOUT, cwd=out.parent, env=environment,
        )  # fmt: skip
    process.log = Path(log.name)  # type: ignore[attr-defined]
    return process


def start_two(out, *options):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"2@localhost:{free.getsockname()[1]}"
    return [start(out, f"--distributed={index}/{where}", *options) for index in (0, 1)]


def finish(*processes):
    try:
        for process in processes:
            process.wait(timeout=300)
            assert process.returncode == 0, process.log.read_text()
    finally:
        for process in processes:
            process.kill()


def history(out):
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def without_time(out):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history(out)]


def parameters(out):
    """The arrays of the last checkpoint, by name."""
    [*_, last] = sorted((out / "checkpoints").iterdir(), key=lambda path: int(path.name))
    with training.Checkpoints(out / "checkpoints", read_only=True) as checkpoints:
        flat, _ = checkpoints._read(int(last.name))
    return flat


def assert_like(out, other, rtol):
    records, others = without_time(out), without_time(other)
    assert len(records) == len(others) == EPOCHS
    for record, wanted in zip(records, others, strict=True):
        assert record == pytest.approx(wanted, rel=rtol, abs=rtol)
    arrays, wanted = parameters(out), parameters(other)
    assert arrays.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(arrays[name], values, rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.slow
def test_a_killed_process_and_the_resumed_run(tmp_path):
    one, two, killed = tmp_path / "one", tmp_path / "two", tmp_path / "killed"
    finish(start(one))
    finish(*start_two(two))
    assert_like(two, one, 1e-3)
    figures = [json.loads((out / "result.json").read_text())["figures"] for out in (one, two)]
    assert figures[0] == figures[1]

    survivor, victim = start_two(killed)
    try:
        until = time.monotonic() + 200
        while not (killed / "history.jsonl").exists() or len(history(killed)) < 3:
            assert time.monotonic() < until, survivor.log.read_text()
            assert survivor.poll() is None, survivor.log.read_text()
            time.sleep(0.02)
        victim.send_signal(signal.SIGKILL)
        survivor.wait(timeout=100)  # heartbeats are missed for 30 seconds
    finally:
        survivor.kill()
        victim.kill()
    assert survivor.returncode not in (0, -signal.SIGKILL)
    assert "If another process has ended, start all processes again" in survivor.log.read_text()
    done = len(history(killed))
    assert 3 <= done < EPOCHS
    shutil.copytree(killed, tmp_path / "alone")

    finish(*start_two(killed, "--resume"))
    assert_like(killed, two, 0)  # bitwise
    finish(start(tmp_path / "alone", "--resume"))  # one process continues the run of two
    assert_like(tmp_path / "alone", one, 1e-3)
