"""The same run on 1, 2, 4 and 8 devices and in two processes, and checkpoints across them."""

import ast
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from seqjax import sharding, training
from tests.training.test_fit import make_batches, metric_fn, run, without_time

# Eight examples a batch, but seven in the last, which no number of devices divides.
RAGGED = [*make_batches(), *make_batches(1, 7)]
SCRIPT = """
    import sys
    from seqjax import sharding
    where, cpu_devices, runs = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if where == "alone":
        sharding.use_cpu_devices(cpu_devices)
    else:
        assert sharding.use_processes(where, cpu_devices=cpu_devices) == 2
    from tests.training.test_layouts import go
    for one in runs:
        devices, epochs, folder = one.split(":", 2)
        print(go(int(devices), int(epochs), folder))
"""


def go(devices, epochs, folder):
    with training.Checkpoints(folder, every=3) as checkpoints:
        result = run(
            RAGGED, eval_batches=RAGGED, metric_fn=metric_fn, devices=devices, epochs=epochs,
            checkpoints=checkpoints, resume=True, monitor=training.Monitor("eval_error"),
        )  # fmt: skip
    return without_time(result.history)


def start(where, cpu_devices, *runs):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("XLA_FLAGS", None)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), where, str(cpu_devices), *runs],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def histories(process):
    try:
        output, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, errors
    return [ast.literal_eval(line) for line in output.splitlines() if line.startswith("[{")]


def assert_close(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return go(1, 3, tmp_path_factory.mktemp("one"))


@pytest.mark.slow
def test_two_four_and_eight_devices(tmp_path, expected):
    # The last run goes on with eight devices from what two have written.
    runs = [f"{n}:3:{tmp_path}/{n}" for n in (2, 4, 8)]
    process = start("alone", 8, *runs, f"2:1:{tmp_path}/x", f"8:3:{tmp_path}/x")
    found = histories(process)
    assert len(found) == 5
    for history in (*found[:3], found[4]):
        assert_close(history, expected)


@pytest.mark.slow
def test_two_processes(tmp_path, expected):
    """Each has two devices; what they have written one process goes on from, and the reverse."""
    assert go(1, 1, tmp_path) == expected[:1]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pair = [start(f"{index}/2@localhost:{port}", 2, f"4:2:{tmp_path}") for index in (0, 1)]
    first, second = map(histories, pair)
    assert first == second
    assert_close(first[0], expected[:2])
    assert_close(go(1, 3, tmp_path), expected)


@pytest.mark.parametrize("where", ["2/2@localhost:1", "0/2", "localhost:1", "0/2@localhost", 3])
def test_addresses_that_are_none(where):
    with pytest.raises(ValueError, match="where: expected INDEX/COUNT@HOST:PORT"):
        sharding.use_processes(where)
