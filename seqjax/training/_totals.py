"""Running means of metrics over batches, fetched from the device in groups."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from seqjax.metrics import Mean
from seqjax.training._filler import real_rows

__all__ = ["Totals"]

# Fetching waits for the device, so metrics are fetched for many batches at once. These bounds limit
# the number of small arrays on the device, and the memory of the batches.
_GROUP = 64
_GROUP_BYTES = 2**26

# The number of batches to keep for a diagnosis if their metrics are not finite.
_UNUSUAL = 4


class Totals:
    """Running means of metrics. Adding a batch usually does not wait for the device.

    The totals and counts of `seqjax.metrics.Mean` are added. If a batch has the field "weights",
    which `seqjax.data.batches` adds, a scalar metric is weighted by the number of rows that are not
    filler. Otherwise the weight of a scalar metric is 1. Metrics are summed in float64 and in the
    order of the batches, so the sums do not depend on when values are fetched from the device. If
    the metric `skipped` of a batch is true, the batch is counted as skipped, and its other metrics
    are ignored.

    Attributes:
      batches: the number of batches that were added.

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
        """Add the metrics of one batch: scalars and means on any device.

        Args:
          metrics: the metrics by name.
          batch: the batch, whose weights are used for the means, and which `take_unusual` may
            return. Pass None if neither use is needed.
        """
        self.batches += 1
        self._pending.append((metrics, batch))
        self._bytes += sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(batch))
        if len(self._pending) >= _GROUP or self._bytes >= _GROUP_BYTES:
            self._fetch()

    def take_unusual(self) -> list[tuple[str, Any]]:
        """Return batches whose metrics were not finite, each batch only once.

        Returns:
          Pairs of the name of the metric and the batch. All calls together return at most 4 pairs.
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
        """Return the totals as values that JSON can represent without loss, for `from_record`."""
        self._fetch()
        sums = {name: [mean.total, mean.count] for name, mean in self._sums.items()}
        return {"batches": self.batches, "skipped": self._skipped, "sums": sums}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Totals":
        """Return the totals from a value that `record` returned.

        The record does not contain the metrics of the last batch, which `latest` returns.
        """
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
        """Keep the batch for `take_unusual` if its metrics are not finite."""
        names = [name for name, mean in self._last.items() if not math.isfinite(mean.total)]
        if (names or skipped) and batch is not None and self._seen_unusual < _UNUSUAL:
            self._seen_unusual += 1
            self._unusual.append(
                (repr(names[0]) if names else "a gradient, update or optimiser state", batch)
            )


def _on_host(value: Any, count: int) -> Mean:
    """Return a mean of Python numbers. Sums of Python floats are in float64 and do not overflow."""
    if isinstance(value, Mean):
        return Mean(float(value.total), np.asarray(value.count).item())
    return Mean(float(value) * count, count)
