"""Batches made in the background."""

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from seqjax.data import batches, prefetch

EXAMPLES = {"x": [np.full(t, 10 * t, np.float32) for t in (3, 1, 4, 2, 5)]}


def source(epoch: int) -> Any:
    return batches(EXAMPLES, batch_size=2, seed=0, epoch=epoch)


def threads() -> int:
    """How many threads prefetch has at work."""
    return sum(thread.name == "seqjax.data.prefetch" for thread in threading.enumerate())


def test_prefetch_keeps_order_and_values():
    found = list(prefetch(source(0), size=3))
    for batch, expected in zip(found, source(0), strict=True):
        assert batch.keys() == expected.keys()
        assert all(isinstance(array, jax.Array) for array in batch.values())
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])
    assert list(prefetch([])) == []
    assert not threads()


def test_prefetch_works_ahead_and_no_further():
    made: list[int] = []

    def slow() -> Iterator[np.ndarray]:
        for n in range(9):
            made.append(n)
            yield np.array(n)

    def wait(count: int) -> int:
        deadline = time.monotonic() + 5
        while len(made) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)  # time to make one too many
        return len(made)

    ready = prefetch(slow(), size=2)
    assert not made, "nothing is made before the first batch is asked for"
    assert next(ready) == 0 and wait(3) == 3
    assert next(ready) == 1 and wait(4) == 4
    ready.close()  # type: ignore[attr-defined]
    assert not threads() and len(made) <= 4


def test_the_thread_ends_when_the_iterator_is_dropped():
    for _ in prefetch(np.array(n) for n in range(100)):
        break
    gc.collect()
    assert not threads()


def test_errors_of_the_source_come_where_the_batch_would():
    def failing() -> Iterator[np.ndarray]:
        yield np.array(1)
        raise RuntimeError("the disk is gone")

    ready = prefetch(failing(), size=3)
    assert next(ready) == 1
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(ready)
    assert not threads()
    with pytest.raises(TypeError):
        list(prefetch([{"x": "words"}]))  # which no device holds


def test_prefetch_mistakes():
    with pytest.raises(ValueError, match="size: expected a positive integer, got 0"):
        prefetch([1], size=0)
    with pytest.raises(TypeError, match="batches: expected an iterable, got 3"):
        prefetch(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="devices: expected at most"):
        prefetch([1], devices=1000)


def test_several_devices_and_an_end_in_the_middle():
    """In a process of its own, which has two devices and ends while the thread waits."""
    code = """
import jax, numpy as np
from seqjax import data, sharding
sharding.use_cpu_devices(2)
ready = data.prefetch(({"x": np.full((4, 3), n)} for n in range(9)), devices=2)
batch = next(ready)
print(len(batch["x"].addressable_shards), batch["x"].addressable_shards[1].data.shape)
with jax.default_device(jax.devices()[1]):
    [batch] = data.prefetch([np.zeros(2)])
print(batch.devices() == {jax.devices()[1]})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "2 (2, 3)\nTrue\n", "")
