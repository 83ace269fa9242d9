"""Sums of metrics over batches, fetched from the device in groups."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from seqjax.metrics import Mean
from seqjax.training._filler import real_rows

__all__ = ["Totals"]

# Fetching waits for the device, so it is done for many batches at once. The bounds keep few small
# arrays alive on the device, and little of the batches in memory.
_GROUP = 64
_GROUP_BYTES = 2**26

# If nothing in an epoch is finite, a few of its batches are enough.
_UNUSUAL = 4


class Totals:
    """Running means of metrics, without waiting for the device at every batch.

    A `seqjax.metrics.Mean` is merged, total by total and count by count. A scalar counts once for
    each real row if its batch has a field "weights", as batches of `seqjax.data.batches` have;
    otherwise it counts once. Sums are in float64, in the order of the batches, so they
    do not depend on when values are fetched. A batch whose metric `skipped` is true is counted as
    skipped; its other metrics are ignored.

    Attributes:
      batches: how many were added.

    Example:
      >>> import jax.numpy as jnp
      >>> totals = Totals()
      >>> totals.add({"loss": jnp.float32(1.0), "accuracy": Mean(jnp.float32(3), jnp.int32(3))})
      >>> totals.add({"loss": jnp.float32(2.0), "accuracy": Mean(jnp.float32(0), jnp.int32(1))})
      >>> totals.latest()
      {'accuracy': 0.0, 'loss': 2.0}
      >>> totals.values()
      {'accuracy': 0.75, 'loss': 1.5}
      >>> totals.add({"loss": jnp.float32(3.0)}, {"weights": np.array([True, True, False])})
      >>> totals.values()["loss"]  # (1 + 2 + 2 · 3) / 4
      2.25
    """

    def __init__(self) -> None:
        self.batches = 0
        self._skipped = 0
        self._sums: dict[str, Mean] = {}
        self._last: dict[str, Mean] = {}
        self._pending: list[tuple[Mapping[str, Any], Any]] = []
        self._bytes = 0
        self._seen_unusual = 0
        self._unusual: list[tuple[str, Any]] = []

    def add(self, metrics: Mapping[str, Any], batch: Any = None) -> None:
        """Take the metrics of one batch, scalars and means on any device.

        Args:
          metrics: by name.
          batch: the batch, for its weights and for `take_unusual`; None if that is not needed.
        """
        self.batches += 1
        self._pending.append((metrics, batch))
        self._bytes += sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(batch))
        if len(self._pending) >= _GROUP or self._bytes >= _GROUP_BYTES:
            self._fetch()

    def take_unusual(self) -> list[tuple[str, Any]]:
        """Return the first batches, each once, whose fetched metrics were not finite.

        Returns:
          Pairs of the name of the metric and the batch.
        """
        taken, self._unusual = self._unusual, []
        return taken

    def latest(self) -> dict[str, float]:
        """Return each metric of the last batch added."""
        self._fetch()
        return {name: float(mean.value()) for name, mean in self._last.items()}

    @property
    def skipped(self) -> int:
        """The number of batches whose step was skipped."""
        self._fetch()
        return self._skipped

    def values(self) -> dict[str, float]:
        """Return the mean of each metric over all batches added."""
        self._fetch()
        return {name: float(mean.value()) for name, mean in self._sums.items()}

    def record(self) -> dict[str, Any]:
        """Return the totals in a form that JSON can hold without loss, for `from_record`."""
        self._fetch()
        sums = {name: [mean.total, mean.count] for name, mean in self._sums.items()}
        return {"batches": self.batches, "skipped": self._skipped, "sums": sums}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Totals":
        """Return the totals that `record` described; the latest metrics are those added next."""
        totals = cls()
        totals.batches, totals._skipped = record["batches"], record["skipped"]
        totals._sums = {name: Mean(*pair) for name, pair in record["sums"].items()}
        return totals

    def _fetch(self) -> None:
        if not self._pending:
            return
        pending, self._pending, self._bytes = self._pending, [], 0
        rows = [None if batch is None else real_rows(batch) for _, batch in pending]
        fetched = jax.device_get(
            [(metrics, marks) for (metrics, _), marks in zip(pending, rows, strict=True)]
        )
        for (values, marks), (_, batch) in zip(fetched, pending, strict=True):
            metrics = dict(values)
            skipped = bool(metrics.pop("skipped", False))
            count = 1 if marks is None else int(marks.sum())
            self._last = {name: _on_host(value, count) for name, value in metrics.items()}
            self._skipped += skipped
            self._note(batch, skipped)
            if not skipped:
                for name, mean in self._last.items():
                    self._sums[name] = self._sums.get(name, Mean()).merge(mean)

    def _note(self, batch: Any, skipped: bool) -> None:
        """Keeps a batch whose metrics are not finite."""
        names = [name for name, mean in self._last.items() if not math.isfinite(mean.total)]
        if (names or skipped) and batch is not None and self._seen_unusual < _UNUSUAL:
            self._seen_unusual += 1
            self._unusual.append((repr(names[0]) if names else "a gradient or update", batch))


def _on_host(value: Any, count: int) -> Mean:
    """Return a mean of Python numbers, whose sums neither round to float32 nor overflow int32."""
    if isinstance(value, Mean):
        return Mean(float(value.total), np.asarray(value.count).item())
    return Mean(float(value) * count, count)
