"""Scripts in two processes with one folder: one process is killed, and the run is resumed."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from seqjax import data, losses, metrics, nn, sequences, training

pytest.importorskip("tyro")
import tyro

from examples import script

ROOT = Path(__file__).parents[2]
EPOCHS = 10
SMALL = ("-c", "from tests.examples import test_processes; test_processes.main()")
ADDITION = (
    "-m", "examples.addition", "--questions=25", "--digits=1", "--batch-size=8", "--hidden-size=8",
    "--ask=5+7",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    epochs: int = EPOCHS
    batch_size: int = 8
    learning_rate: float = 0.03
    average: float = 0.5
    accumulate: int = 2


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.gru = nn.GRU(2, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, batch, rngs=None):
        outputs, _ = self.gru(batch["xs"], lengths=batch["lengths"])
        pooled = sequences.mean_pool(outputs, lengths=batch["lengths"])
        return self.head(self.dropout(pooled, rngs=rngs))


def loss_fn(model, batch, rngs):
    found: dict[str, Any] = {"labels": batch["label"], "mask": batch["weights"]}
    logits = model(batch, rngs)
    return losses.cross_entropy(logits, **found), {"accuracy": metrics.accuracy(logits, **found)}


def metric_fn(model, batch):
    return {"loss": metrics.cross_entropy(model(batch), batch["label"], mask=batch["weights"])}


def examples(number, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=number)
    lengths = rng.integers(2, 9, size=number)
    pairs = zip(label, lengths, strict=True)
    xs = [rng.normal(k, size=(t, 2)).astype(np.float32) for k, t in pairs]
    return {"xs": xs, "label": label.astype(np.int32)}


def main():
    """A small script, with dropout, buckets and filler rows."""
    config = tyro.cli(Config)
    config.prepare()
    held_out = data.batches(examples(13, 1), batch_size=8)
    result = config.fit(
        Classifier(nnx.Rngs(config.seed)), loss_fn, config.batches(examples(45, 0), boundaries=2),
        eval_batches=held_out, metric_fn=metric_fn,
    )  # fmt: skip
    config.report(result, **script.measure(result.model, metric_fn, held_out))


def start(program, out, *options):
    """Start the script; its output and its errors go to a file beside the folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    with out.with_suffix(f".{len(list(out.parent.glob('*.log')))}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *program, f"--epochs={EPOCHS}", f"--out={out}", *options],
            stdout=log, stderr=subprocess.STDOUT, cwd=out.parent, env=environment,
        )  # fmt: skip
    process.log = Path(log.name)  # type: ignore[attr-defined]
    return process


def start_two(program, out, *options):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"2@localhost:{free.getsockname()[1]}"
    return [start(program, out, f"--distributed={index}/{where}", *options) for index in (0, 1)]


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


def figures(out):
    return json.loads((out / "result.json").read_text())["figures"]


@pytest.mark.slow
def test_an_example_in_two_processes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(ADDITION, one))
    finish(*start_two(ADDITION, two))
    assert_like(two, one, 1e-3)
    assert figures(two) == pytest.approx(figures(one), abs=1e-3)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}


@pytest.mark.slow
def test_a_killed_process_and_the_resumed_run(tmp_path):
    one, two, killed = tmp_path / "one", tmp_path / "two", tmp_path / "killed"
    finish(start(SMALL, one))
    finish(*start_two(SMALL, two))
    assert_like(two, one, 1e-3)
    assert figures(two) == pytest.approx(figures(one), rel=1e-3)

    survivor, victim = start_two(SMALL, killed)
    try:
        until = time.monotonic() + 200
        while not (killed / "history.jsonl").exists() or len(history(killed)) < 3:
            assert time.monotonic() < until, survivor.log.read_text()
            assert survivor.poll() is None, survivor.log.read_text()
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        survivor.wait(timeout=100)  # it waits for the heartbeats of the other one for 30 seconds
    finally:
        survivor.kill()
        victim.kill()
    assert survivor.returncode not in (0, -signal.SIGKILL)
    assert "If another process has ended, start all processes again" in survivor.log.read_text()
    assert 3 <= len(history(killed)) < EPOCHS
    shutil.copytree(killed, tmp_path / "alone")

    finish(*start_two(SMALL, killed, "--resume"))
    assert_like(killed, two, 0)  # bitwise
    finish(start(SMALL, tmp_path / "alone", "--resume"))  # one process continues the run of two
    assert_like(tmp_path / "alone", one, 1e-3)
