"""Sums of metrics over batches, fetched from the device in groups."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from seqjax.metrics import Mean

__all__ = ["Totals"]

# Fetching waits for the device, so it is done for many batches at once; the bound keeps few small
# arrays alive on the device.
_GROUP = 64


class Totals:
    """Running means of metrics, without waiting for the device at every batch.

    A `seqjax.metrics.Mean` is merged, total by total and count by count; a scalar counts as one
    observation a batch. Sums are in float64, in the order of the batches, so they do not depend on
    when values are fetched. A batch whose metric `skipped` is true is counted, and nothing else of
    it is: it changed nothing.

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
    """

    def __init__(self) -> None:
        self.batches = 0
        self._skipped = 0
        self._sums: dict[str, Mean] = {}
        self._last: dict[str, Mean] = {}
        self._pending: list[Mapping[str, Any]] = []

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of one batch, scalars and means on any device."""
        self.batches += 1
        self._pending.append(metrics)
        if len(self._pending) >= _GROUP:
            self._fetch()

    def latest(self) -> dict[str, float]:
        """Each metric of the last batch added."""
        self._fetch()
        return {name: float(mean.value()) for name, mean in self._last.items()}

    @property
    def skipped(self) -> int:
        """How many of the batches were skipped."""
        self._fetch()
        return self._skipped

    def values(self) -> dict[str, float]:
        """The mean of each metric over all batches added."""
        self._fetch()
        return {name: float(mean.value()) for name, mean in self._sums.items()}

    def record(self) -> dict[str, Any]:
        """All that `from_record` needs to go on adding, as JSON can hold it without loss."""
        self._fetch()
        sums = {name: [mean.total, mean.count] for name, mean in self._sums.items()}
        return {"batches": self.batches, "skipped": self._skipped, "sums": sums}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Totals":
        """The totals that `record` described; their latest metrics are those to come."""
        totals = cls()
        totals.batches, totals._skipped = record["batches"], record["skipped"]
        totals._sums = {name: Mean(*pair) for name, pair in record["sums"].items()}
        return totals

    def _fetch(self) -> None:
        if not self._pending:
            return
        for fetched in jax.device_get(self._pending):
            metrics = dict(fetched)
            skipped = bool(metrics.pop("skipped", False))
            self._last = {name: _on_host(value) for name, value in metrics.items()}
            self._skipped += skipped
            if not skipped:
                for name, mean in self._last.items():
                    self._sums[name] = self._sums.get(name, Mean()).merge(mean)
        self._pending.clear()


def _on_host(value: Any) -> Mean:
    """A mean of Python numbers, whose sums neither round to float32 nor overflow int32."""
    total, count = value if isinstance(value, Mean) else (value, 1)
    return Mean(float(total), np.asarray(count).item())
