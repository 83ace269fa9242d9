"""Batching of the rows of concurrent requests: a queue and one thread for each model."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

__all__ = ["Batcher", "Full"]


class Full(Exception):
    """The error that is raised if the queue has no room for the rows of a request."""


class _Request:
    """The results so far for the rows of a request."""

    def __init__(self, size: int) -> None:
        self.results: list[Any] = [None] * size
        self.left = size
        self.future: Future[list[Any]] = Future()

    def is_awaited(self) -> bool:
        """Return True if the request still needs results, and False if it is done or cancelled.

        If the result is True, the request can no longer be cancelled.
        """
        return not self.future.done() and self.future.set_running_or_notify_cancel()


class _Row(NamedTuple):
    shape: Hashable
    item: Any
    request: _Request
    place: int


class Batcher:
    """A thread that collects the rows of all requests and runs them in batches of a few sizes.

    The thread makes a batch of the row that has waited longest and other rows of the same shape. If
    the batch is not full, the thread waits up to `wait` seconds for more rows. Then it adds copies
    of the first row until the size of the batch is one of `sizes`, and calls `run`. Therefore `run`
    receives only these sizes, and programs that were compiled in advance can run every batch. If
    `run` fails, each row runs alone, so that only the row that causes the error is answered with
    the error.

    Args:
      run: `run(shape, items) -> results`, one result for each item, independent of other items.
      sizes: the possible numbers of rows of a batch, ascending.
      wait: maximum number of seconds for which a batch waits for more rows.
      capacity: maximum number of rows in the queue.

    Example:
      >>> batcher = Batcher(lambda shape, items: [item**shape for item in items], sizes=(2, 4))
      >>> batcher.submit(2, [3, 4, 5]).result()
      [9, 16, 25]
      >>> batcher.close()
    """

    def __init__(
        self,
        run: Callable[[Any, Sequence[Any]], Sequence[Any]],
        *,
        sizes: Sequence[int],
        wait: float = 0.003,
        capacity: int = 1024,
    ) -> None:
        self.run, self.sizes, self.wait, self.capacity = run, tuple(sizes), wait, capacity
        self._rows: deque[_Row] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, shape: Hashable, items: Sequence[Any]) -> "Future[list[Any]]":
        """Queue all rows of a request, or none.

        Args:
          shape: the shape of the rows. Rows of equal shape may share a batch.
          items: the inputs of `run`, one for each row; at least one.

        Returns:
          A future of the results of all rows. If the future is cancelled, rows that have not
          started are not run.

        Raises:
          Full: the queue has no room for the rows, or the batcher is closed.
        """
        with self._changed:
            if self._closed or len(self._rows) + len(items) > self.capacity:
                raise Full
            request = _Request(len(items))
            self._rows.extend(_Row(shape, item, request, index) for index, item in enumerate(items))
            self._changed.notify()
        return request.future

    def warm_up(self, shape: Hashable, item: Any) -> None:
        """Run a batch of each size, so that all programs are compiled.

        Args:
          shape: as for `submit`.
          item: a row of that shape.
        """
        for size in self.sizes:
            self.run(shape, [item] * size)

    def close(self) -> None:
        """Answer the queued rows, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while rows := self._next():
            try:
                self._answer(rows)
            except Exception:
                for row in rows:
                    try:
                        self._answer([row])
                    except Exception as error:
                        if row.request.is_awaited():
                            row.request.future.set_exception(error)

    def _next(self) -> list[_Row]:
        """Return the rows of the next batch; none if the batcher is closed and empty."""
        with self._changed:
            while True:
                self._rows = deque(row for row in self._rows if not row.request.future.done())
                if self._rows:
                    break
                if self._closed:
                    return []
                self._changed.wait()
            shape, deadline = self._rows[0].shape, time.monotonic() + self.wait
            while not self._closed:
                left = deadline - time.monotonic()
                if left <= 0 or sum(row.shape == shape for row in self._rows) >= self.sizes[-1]:
                    break
                self._changed.wait(left)
            taken: list[_Row] = []
            others: deque[_Row] = deque()
            for row in self._rows:
                fits = row.shape == shape and len(taken) < self.sizes[-1]
                (taken if fits else others).append(row)
            self._rows = others
            return taken

    def _answer(self, rows: Sequence[_Row]) -> None:
        items = [row.item for row in rows]
        size = next(size for size in self.sizes if size >= len(items))
        filled = items + items[:1] * (size - len(items))
        results = self.run(rows[0].shape, filled)
        if len(results) != size:
            raise ValueError(f"run: expected {size} results, got {len(results)}")
        for row, result in zip(rows, results[: len(rows)], strict=True):
            request = row.request
            request.results[row.place] = result
            request.left -= 1
            if not request.left and request.is_awaited():
                request.future.set_result(request.results)
