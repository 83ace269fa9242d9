"""Batches that are made in the background, and placed on the devices."""

import atexit
import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from seqjax import checks, sharding

__all__ = ["prefetch"]


def prefetch(batches: Iterable[Any], *, size: int = 2, devices: int = 1) -> Iterator[Any]:
    """Make batches in a background thread, and place them, while the current one is used.

    The order and the values do not change. If making a batch fails, the error is raised when that
    batch is requested. The thread ends with the iterator: at the last batch, at `close()`, or when
    the iterator is deleted.

    Args:
      batches: an iterable of pytrees of arrays.
      size: how many to make ahead of the one in use.
      devices: over how many devices to divide each, see `seqjax.sharding.shard_batch`; 1 for the
        default device.

    Returns:
      A generator of the batches, their arrays on the devices.

    Raises:
      TypeError: not an iterable, or sizes that are not integers.
      ValueError: a size below 1, or more devices than there are.

    Example:
      >>> import numpy as np
      >>> batches = ({"x": np.full(2, n)} for n in range(3))
      >>> [int(batch["x"].sum()) for batch in prefetch(batches)]
      [0, 2, 4]
    """
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches: expected an iterable, got {checks.brief(batches)}")
    size = checks.require_integer("size", size)
    sharding.batch_mesh(devices)
    place = functools.partial(sharding.shard_batch, devices=devices)
    return in_background(place if devices > 1 else jax.device_put, batches, size)


def in_background(function: Callable[[Any], Any], items: Iterable[Any], size: int) -> Iterator[Any]:
    """Return `map(function, items)`, computed by a thread up to `size` items ahead."""
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    free = threading.Semaphore(size)
    stopped = threading.Event()
    default_device = jax.default_device.value  # a `with jax.default_device` is a thread's own

    def work() -> None:
        try:
            iterator = iter(items)
            while free.acquire() and not stopped.is_set():
                item = next(iterator)
                with jax.default_device(default_device):
                    made.put((function(item), None))
        except BaseException as error:  # StopIteration among them
            made.put((None, error))

    thread = threading.Thread(target=work, name="seqjax.data.prefetch", daemon=True)

    def finish() -> None:
        stopped.set()
        free.release()
        thread.join()

    # A daemon thread that is still at work when the interpreter shuts down can crash it.
    atexit.register(finish)
    thread.start()
    try:
        while True:
            value, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            free.release()
            yield value
    finally:
        if not stopped.is_set():  # else the interpreter has shut down, and its modules are gone
            atexit.unregister(finish)
            finish()
