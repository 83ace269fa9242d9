"""Prefetching: batches are made in a background thread and placed on the devices."""

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
    """Return an iterator that makes batches in a background thread and places them on devices.

    The order and the values of the batches do not change. If making a batch fails, the error is
    raised when that batch is requested. The thread ends after the last batch, when `close()` is
    called, or when the iterator is deleted.

    Args:
      batches: an iterable of pytrees of arrays.
      size: the number of batches that are made before they are requested.
      devices: the number of devices over which each batch is divided; see
        `seqjax.sharding.shard_batch`. 1 means the default device.

    Returns:
      A generator of the batches, with their arrays on the devices.

    Raises:
      TypeError: `batches` is not an iterable, or another argument is not an integer.
      ValueError: `size` is below 1, or JAX has fewer than `devices` devices.

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
    """Yield `function(item)` for each item, computed by a thread up to `size` items ahead."""
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    free = threading.Semaphore(size)
    stopped = threading.Event()
    default_device = jax.default_device.value  # `jax.default_device` is set per thread

    def work() -> None:
        try:
            iterator = iter(items)
            while free.acquire() and not stopped.is_set():
                item = next(iterator)
                with jax.default_device(default_device):
                    made.put((function(item), None))
        except BaseException as error:  # including StopIteration, the end of the items
            made.put((None, error))

    thread = threading.Thread(target=work, name="seqjax.data.prefetch", daemon=True)

    def finish() -> None:
        stopped.set()
        free.release()
        thread.join()

    # A daemon thread that still runs when the interpreter shuts down can crash it.
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
        if not stopped.is_set():  # else `finish` has already run at interpreter shutdown
            atexit.unregister(finish)
            finish()
