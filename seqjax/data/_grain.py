"""Grain datasets of batches.

`EpochsMapDataset` has the batches of all epochs. `BucketIterDataset` makes batches while it reads
the examples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from seqjax import checks
from seqjax.data._batches import Batches, batches
from seqjax.data._buckets import assigned
from seqjax.data._containers import numbers, table_columns

__all__ = ["Batch", "BucketIterDataset", "EpochsMapDataset", "examples"]

Batch = dict[str, np.ndarray]


def examples(dataset: Any) -> grain.IterDataset:
    """Return the dataset as a `grain.IterDataset`, or raise an error."""
    if isinstance(dataset, grain.MapDataset):
        return dataset.to_iter_dataset()
    if not isinstance(dataset, grain.IterDataset):
        raise TypeError(
            "dataset: expected a grain.MapDataset or a grain.IterDataset, got "
            f"{type(dataset).__name__}; make one with grain.MapDataset.source(rows)"
        )
    return dataset


class EpochsMapDataset(grain.MapDataset[Batch]):
    """A dataset of the batches of all epochs. Epoch e begins at index e · (batches per epoch)."""

    def __init__(self, first: Batches) -> None:
        super().__init__()
        self._length = len(first)
        self._epochs = {0: first}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, index = divmod(index, self._length)
        first = self._epochs[0]
        if epoch <= 0 or first.seed is None:
            return first[index]
        made = self._epochs.get(epoch)
        if made is None:
            made = first.at_epoch(first.epoch + epoch)
            # The batches of two epochs are stored, since threads that read ahead need both.
            self._epochs = {0: first, **dict(list(self._epochs.items())[1:][-1:]), epoch: made}
        return made[index]

    def __str__(self) -> str:
        return f"EpochsMapDataset({self._epochs[0]!r})"


class BucketIterDataset(grain.IterDataset[Batch]):
    """A dataset of batches of examples of similar length; see `seqjax.data.grain_batches`."""

    def __init__(
        self,
        parent: grain.IterDataset,
        groups: Sequence[tuple[str, ...]],
        boundaries: list[tuple[int, ...]],
        options: dict[str, Any],
    ) -> None:
        super().__init__(parent)
        self._groups, self._boundaries, self._options = groups, boundaries, options

    def __iter__(self) -> grain.DatasetIterator[Batch]:
        parent = self._parent.__iter__()
        return _BucketIterator(parent, self._groups, self._boundaries, self._options)

    def __str__(self) -> str:
        return f"BucketIterDataset(boundaries={self._boundaries}, {self._options})"


class _Waiting(NamedTuple):
    """An example in a bucket, its number, and the parent iterator's state before reading it."""

    number: int
    state: Any
    example: Batch


class _BucketIterator(grain.DatasetIterator[Batch]):
    def __init__(
        self,
        parent: grain.DatasetIterator,
        groups: Sequence[tuple[str, ...]],
        boundaries: list[tuple[int, ...]],
        options: dict[str, Any],
    ) -> None:
        super().__init__(parent)
        self._groups, self._boundaries, self._options = groups, boundaries, options
        self._fields: set[str] = set()
        self._columns: dict[str, Any] = {}
        self._clear()

    def _clear(self) -> None:
        self._waiting: list[list[_Waiting]] = [[] for _ in self._boundaries]
        self._number, self._ended = 0, False

    def __next__(self) -> Batch:
        while not self._ended:
            state = self._parent.get_state()
            try:
                example = next(self._parent)
            except StopIteration:
                self._ended = True
                break
            waiting = self._put(example, state)
            if len(self._waiting[waiting]) == self._options["batch_size"]:
                return self._batch(waiting)
        for bucket, found in enumerate(self._waiting):
            if found and not self._options["drop_remainder"]:
                return self._batch(bucket)
        raise StopIteration

    def get_state(self) -> dict[str, Any]:
        """Return the state of the iterator, with the numbers of the examples that wait in buckets.

        "parent" is the state of the parent iterator before the oldest waiting example. "read" is
        the number of examples that were read after the state "parent". "waiting" contains the
        numbers of the waiting examples, where the first example after "parent" has the number 0.
        """
        found = sorted((w for bucket in self._waiting for w in bucket), key=lambda w: w.number)
        if not found:
            return {"parent": self._parent.get_state(), "read": 0, "waiting": []}
        first = found[0].number
        return {
            "parent": found[0].state,
            "read": self._number - first,
            "waiting": [w.number - first for w in found],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._clear()
        self._parent.set_state(state["parent"])
        waiting = set(state["waiting"])
        for number in range(state["read"]):
            before = self._parent.get_state()
            example = next(self._parent)
            if number in waiting:
                self._put(example, before)
            else:
                self._number += 1

    def _put(self, example: Any, state: Any) -> int:
        """Put an example into its bucket, and return the number of the bucket."""
        arrays, lengths = self._read(example)
        [bucket] = assigned(np.array([lengths], int), self._boundaries, self._number).tolist()
        self._waiting[bucket].append(_Waiting(self._number, state, arrays))
        self._number += 1
        return int(bucket)

    def _read(self, example: Any) -> tuple[Batch, list[int]]:
        """Return an example's fields as arrays, and the length of each group of fields."""
        name = f"examples[{self._number}]"
        if not isinstance(example, dict):
            raise TypeError(f"{name}: expected a dict of fields, got {checks.brief(example)}")
        arrays = {key: numbers(f"{name}[{key!r}]", value) for key, value in example.items()}
        for key, value in example.items():
            before = self._columns.get(key)
            self._columns[key] = table_columns(f"{name}[{key!r}]", value, before)
        self._fields = self._fields or set(arrays)
        if set(arrays) != self._fields:
            raise ValueError(
                f"{name}: expected the fields {sorted(self._fields)}, as in the first example, got "
                f"{sorted(arrays)}"
            )
        lengths = []
        for fields in self._groups:
            for field in fields:
                if field not in arrays:
                    raise ValueError(f"{name}: expected a field {field!r}, got {list(arrays)}")
                if not arrays[field].ndim:
                    raise ValueError(
                        f"{name}[{field!r}]: expected a sequence [t, ...], got a single number"
                    )
            lengths.append(max(len(arrays[field]) for field in fields))
        return arrays, lengths

    def _batch(self, bucket: int) -> Batch:
        """Return the batch of the examples that wait in a bucket, and empty the bucket."""
        found, self._waiting[bucket] = [w.example for w in self._waiting[bucket]], []
        fields = {name: [example[name] for example in found] for name in found[0]}
        options = self._options | {"drop_remainder": False}
        boundaries = [self._boundaries[bucket]] if self._groups else None
        return batches(fields, boundaries=boundaries, **options)[0]
