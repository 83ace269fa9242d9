"""Batches epoch after epoch from a place that can be saved, and batches made in the background."""

import atexit
import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import jax

from seqjax import checks, sharding

__all__ = ["Loader", "prefetch"]


class Loader:
    """The batches of one epoch after the other, and the place where reading stands.

    A loop over the loader reads what is left of the present epoch; the next loop reads the next
    epoch. `seqjax.training.fit` keeps such a place itself; this is for loops of one's own.

    Args:
      source: a function epoch -> batches that have a length and an index, such as
        `seqjax.data.Batches`, with epochs counted from 0; or such batches, the same in each epoch.
      prefetch: how many batches to make in the background, see `prefetch`; 0 for none. The place
        counts batches that were handed out, not those that were made.
      devices: where to place batches that are made in the background.

    Raises:
      TypeError: a source that is neither.
      ValueError: an epoch without batches, when it is read.

    Example:
      >>> loader = Loader(lambda epoch: [10 * epoch, 10 * epoch + 1, 10 * epoch + 2])
      >>> first = list(loader)
      >>> for batch in loader:
      ...     state = loader.state
      ...     break
      >>> batch, state
      (10, {'epoch': 1, 'index': 1})
      >>> again = Loader(lambda epoch: [10 * epoch, 10 * epoch + 1, 10 * epoch + 2])
      >>> again.restore(state)
      >>> list(again), list(again)
      ([11, 12], [20, 21, 22])
    """

    def __init__(
        self,
        source: Sequence[Any] | Callable[[int], Sequence[Any]],
        *,
        prefetch: int = 0,
        devices: int = 1,
    ) -> None:
        if not callable(source):
            _require_indexable("source", source)
        self._source = source
        self._ahead = checks.require_integer("prefetch", prefetch, least=0)
        self._devices = checks.require_integer("devices", devices)
        self._epoch = self._index = 0

    @property
    def state(self) -> dict[str, int]:
        """The place of the next batch, which JSON can hold: its epoch, and its index in it.

        After the last batch the index is the number of batches, until the loop over the epoch ends.
        """
        return {"epoch": self._epoch, "index": self._index}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes to a place.

        Args:
          state: as `state` gave it, of a loader with the same source.

        Raises:
          TypeError: not a dict of integers.
          ValueError: other names, or an index beyond the end of its epoch.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a dict, got {checks.brief(state)}")
        if set(state) != {"epoch", "index"}:
            raise ValueError(f"state: expected 'epoch' and 'index', got {sorted(state)}")
        epoch = checks.require_integer("state['epoch']", state["epoch"], least=0)
        index = checks.require_integer("state['index']", state["index"], least=0)
        size = len(self._read(epoch))
        if index > size:
            raise ValueError(
                f"state: expected an index of at most {size}, the number of batches in epoch "
                f"{epoch}, got {index}"
            )
        self._epoch, self._index = epoch, index

    def __iter__(self) -> Iterator[Any]:
        epoch, first = self._epoch, self._index
        batches = self._read(epoch)
        rest: Iterator[Any] = (batches[index] for index in range(first, len(batches)))
        if self._ahead:
            rest = prefetch(rest, size=self._ahead, devices=self._devices)
        for index, batch in enumerate(rest, start=first):
            self._index = index + 1
            yield batch
        self._epoch, self._index = epoch + 1, 0

    def _read(self, epoch: int) -> Sequence[Any]:
        batches = self._source(epoch) if callable(self._source) else self._source
        _require_indexable(f"source({epoch})", batches)
        if not len(batches):
            raise ValueError(f"source: expected batches, got none in epoch {epoch}")
        return batches


def prefetch(batches: Iterable[Any], *, size: int = 2, devices: int = 1) -> Iterator[Any]:
    """Makes batches in a background thread, and places them, while the present one is used.

    Order and values stay. An error in making a batch is raised where that batch is asked for. The
    thread ends with the iterator: at the last batch, at `close()`, or when it is dropped.

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
    """`map(function, items)`, computed by a thread up to `size` items ahead; see `prefetch`."""
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


def _require_indexable(name: str, batches: Any) -> None:
    if not isinstance(batches, Sized) or not hasattr(batches, "__getitem__"):
        raise TypeError(
            f"{name}: expected batches with a length and an index, got {type(batches).__name__}"
        )
