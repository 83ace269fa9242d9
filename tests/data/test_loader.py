"""Loaders that go on where they stood, and batches made in the background."""

import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from seqjax.data import Loader, batches, prefetch

EXAMPLES = {"x": [np.full(t, 10 * t, np.float32) for t in (3, 1, 4, 2, 5)]}


def source(epoch: int) -> Any:
    return batches(EXAMPLES, batch_size=2, seed=0, epoch=epoch)


def threads() -> int:
    """How many threads prefetch has at work."""
    return sum(thread.name == "seqjax.data.prefetch" for thread in threading.enumerate())


def read(loader: Loader, epochs: int) -> Iterator[tuple[str, Any]]:
    """The state after each batch, as JSON, and the batch."""
    while loader.state["epoch"] < epochs:
        for batch in loader:
            yield json.dumps(loader.state), batch


@pytest.mark.parametrize("ahead", [0, 2])
def test_goes_on_from_every_place(ahead):
    whole = list(read(Loader(source, prefetch=ahead), 3))
    assert len(whole) == 9
    assert json.loads(whole[4][0]) == {"epoch": 1, "index": 2}
    for done, (state, _) in enumerate(whole, start=1):
        loader = Loader(source, prefetch=ahead)
        loader.restore(json.loads(state))
        rest = list(read(loader, 3))
        assert len(rest) == 9 - done
        for (state, batch), (expected_state, expected) in zip(rest, whole[done:], strict=True):
            assert state == expected_state
            np.testing.assert_array_equal(batch["x"], expected["x"])
    assert not threads()


def test_a_broken_loop_is_gone_on_with():
    loader = Loader([1, 2, 3])
    for batch in loader:
        if batch == 2:
            break
    assert list(loader) == [3] and list(loader) == [1, 2, 3]
    assert loader.state == {"epoch": 2, "index": 0}


def test_loader_mistakes():
    for wrong in (3, iter([1])):
        with pytest.raises(TypeError, match="source: expected batches with a length and an index"):
            Loader(wrong)  # type: ignore[arg-type]
    loader = Loader(lambda epoch: [0] * (2 - epoch))
    with pytest.raises(TypeError, match=r"state\['epoch'\]: expected an integer"):
        loader.restore({"epoch": "1", "index": 0})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"state\['index'\]: expected an integer of at least 0"):
        loader.restore({"epoch": 1, "index": -1})
    with pytest.raises(ValueError, match="at most 1, the number of batches in epoch 1, got 2"):
        loader.restore({"epoch": 1, "index": 2})
    with pytest.raises(ValueError, match="state: expected 'epoch' and 'index', got"):
        loader.restore({"epoch": 1})
    with pytest.raises(TypeError, match="state: expected a dict"):
        loader.restore([1, 2])  # type: ignore[arg-type]
    assert loader.state == {"epoch": 0, "index": 0}
    with pytest.raises(ValueError, match="source: expected batches, got none in epoch 2"):
        loader.restore({"epoch": 2, "index": 0})
    with pytest.raises(TypeError, match=r"source\(0\): expected batches with a length"):
        list(Loader(lambda epoch: iter([1])))  # type: ignore[arg-type, return-value]


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
