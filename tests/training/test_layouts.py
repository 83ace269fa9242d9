"""The same run on 1, 2, 4 and 8 devices and in two processes, and checkpoints across them."""

import ast
import collections
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import grain
import jax
import numpy as np
import pytest

from seqjax import data, sharding, training
from tests.data.test_batches import Recorded
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
    from tests.training import test_layouts
    for one in runs:
        name, *arguments = one.split(":")
        print(getattr(test_layouts, name)(*arguments))
"""


def go(devices, epochs, folder):
    devices, epochs = int(devices), int(epochs)
    with training.Checkpoints(folder, every=3) as checkpoints:
        result = run(
            RAGGED, eval_batches=RAGGED, metric_fn=metric_fn, devices=devices, epochs=epochs,
            checkpoints=checkpoints, resume=True, monitor=training.Monitor("eval_error"),
        )  # fmt: skip
    return without_time(result.history)


def examples(seed=0):
    xs = np.random.default_rng(seed).normal(size=(21, 2)).astype(np.float32)
    return {"x": xs, "y": xs[:, 0] - xs[:, 1]}


def read(devices):
    """A history, and the numbers of the examples that this process has read in two epochs.

    The loss does not depend on "weights", so the three filler rows of the last batch are left out.
    """
    found = examples()
    rows = Recorded(list(found["x"]))
    source = data.batches(found | {"x": rows}, batch_size=8, seed=0, sequence_keys=())
    rows.read.clear()
    history = run(source, devices=int(devices), prefetch=1).history
    return [*without_time(history), {"read": rows.read}]


def differ(devices):
    """Errors of processes that differ in one row, in the number of examples, or in the seed."""
    index, errors = jax.process_index(), []
    changed = examples()
    changed["y"][-1] += index
    fewer = {name: field[: 21 - 8 * index] for name, field in examples().items()}
    parts = grain.MapDataset.source([{"x": x, "y": x[0]} for x in examples()["x"]])[index::2]
    streamed = data.grain_batches(parts, batch_size=8, sequence_keys=())
    for found, seed in ((changed, 0), (fewer, 0), (examples(), index), (streamed, 0)):
        source = found
        if isinstance(found, dict):
            source = data.batches(found, batch_size=21 if found is changed else 8, sequence_keys=())
        with pytest.raises(ValueError, match="same in all 2 processes") as error:
            run(source, devices=int(devices), seed=seed)
        errors.append(str(error.value).split(" to be")[0])
    return [{"errors": errors}]


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
    runs = [f"go:{n}:3:{tmp_path}/{n}" for n in (2, 4, 8)]
    process = start("alone", 8, *runs, f"go:2:1:{tmp_path}/x", f"go:8:3:{tmp_path}/x")
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
    runs = [f"go:4:2:{tmp_path}", "read:4", "differ:4"]
    pair = [start(f"{index}/2@localhost:{port}", 2, *runs) for index in (0, 1)]
    first, second = map(histories, pair)
    assert first[0] == second[0]
    assert_close(first[0], expected[:2])
    assert_close(go(1, 3, tmp_path), expected)

    *history, alone = read(1)
    numbers = []
    for *found, own in (first[1], second[1]):
        assert_close(found, history)
        # The last of three batches has 4 and 1 rows. In both epochs, each process also reads the
        # first row of the first batch, which the processes compare.
        assert len(own["read"]) in (2 * 12 + 2, 2 * 9 + 2)
        numbers += own["read"]
    assert sorted(alone["read"]) == sorted([*range(21)] * 2)
    twice = collections.Counter(numbers)
    twice.subtract(alone["read"])
    assert twice.total() == 4 and set(twice.values()) <= {0, 2, 4}
    assert first[2] == second[2] == [{"errors": [
        "train_batches: expected the rows of a batch",
        "train_batches: expected the number and the shapes of the batches",
        "settings: expected the seed, monitor and settings",
        "train_batches: expected the rows of a batch",
    ]}]  # fmt: skip


@pytest.mark.parametrize("where", ["2/2@localhost:1", "0/2", "localhost:1", "0/2@localhost", 3])
def test_addresses_that_are_none(where):
    with pytest.raises(ValueError, match="where: expected INDEX/COUNT@HOST:PORT"):
        sharding.use_processes(where)
