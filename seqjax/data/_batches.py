"""Bucketing: examples of different lengths become batches of few shapes."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqjax import checks
from seqjax.data._buckets import assigned, bucket_boundaries, checked_boundaries
from seqjax.data._containers import columns
from seqjax.data._fields import Field, Spec, stack
from seqjax.data._groups import Group, scan

if TYPE_CHECKING:
    import grain

__all__ = ["Batches", "batches"]


def batches(
    examples: Any,
    *,
    batch_size: int,
    sequence_keys: Collection[str] | Mapping[str, Collection[str]] | None = None,
    boundaries: Sequence[int | Sequence[int]] | int | None = None,
    seed: int | None = None,
    epoch: int = 0,
    drop_remainder: bool = False,
    pad_batch: bool = True,
) -> "Batches":
    """Return the batches of one epoch, each padded to the boundary of its bucket.

    An example goes to the bucket with the smallest boundary not below its length, and a batch comes
    from one bucket, so that a compiled function sees one shape a bucket. Every example appears
    exactly once, unless `drop_remainder` leaves some out.

    Args:
      examples: a dict of fields, each with one entry an example: a list of numbers, lists or
        arrays, or an array [N, ...] of NumPy, JAX, PyTorch or TensorFlow, or a column of pandas,
        polars or pyarrow; or a data frame of such columns. Entries are matched by their position:
        the index of a pandas object is ignored. If a field is another sequence, its entries are
        read when their batch is made.
      batch_size: B.
      sequence_keys: the fields that run over time, with entries [t_n, ...] of one length t_n an
        example; () for none. By default, the fields whose entries differ in length. For sequences
        of several lengths a dict name -> fields that share one, such as {"source": ["letters"],
        "target": ["tokens", "labels"]}.
      boundaries: increasing bucket lengths, such as `bucket_boundaries` returns, or the number of
        buckets, from which `bucket_boundaries` computes them; by default one bucket, as long as the
        longest example. With several lengths an entry has one for each, in the order of the dict.
        No example may be longer than the last boundary: examples are not cut, and no further bucket
        is added.
      seed: shuffles examples and batches, in an order that is a function of seed and epoch. None
        keeps the order of the examples (with several buckets, the order within each bucket; a batch
        is made as soon as its bucket is full).
      epoch: the epoch whose order is used, counted from 0.
      drop_remainder: leave out the examples that do not fill a batch of their bucket.
      pad_batch: fill up a short batch to B rows with filler, zeros of length 0; False leaves it
        short.

    Returns:
      The batches, which can be iterated over any number of times.

    Raises:
      TypeError: an entry is not of numbers, or an argument is of the wrong type.
      ValueError: there are no examples; fields differ in their number of examples, or the entries
        of one in shape; the sequences of an example differ in length or are longer than the last
        boundary; no field is seen to run over time; or an argument is out of range.

    Example:
      >>> examples = {"tokens": [[1, 2], [3], [4, 5, 6]], "label": [0, 1, 1]}
      >>> for batch in batches(examples, batch_size=2):
      ...     print(batch["tokens"].tolist(), batch["lengths"], batch["label"], batch["weights"])
      [[1, 2, 0], [3, 0, 0]] [2 1] [0 1] [ True  True]
      [[4, 5, 6], [0, 0, 0]] [3 0] [1 0] [ True False]

      >>> pairs = {"read": [[1, 2], [3]], "write": [[5], [6, 7, 8]]}
      >>> keys = {"source": ["read"], "target": ["write"]}
      >>> [batch] = batches(pairs, batch_size=2, sequence_keys=keys)
      >>> batch["source_lengths"], batch["target_lengths"], batch["write"].shape
      (array([2, 1], dtype=int32), array([1, 3], dtype=int32), (2, 3))
    """
    batch_size = checks.require_integer("batch_size", batch_size, least=1)
    epoch = checks.require_integer("epoch", epoch, least=0)
    if seed is not None:
        seed = checks.require_integer("seed", seed, least=0)
    fields = _fields(examples)
    specs, groups = scan(fields, sequence_keys)
    if groups:
        lengths = np.stack([group.lengths for group in groups], axis=-1)
        if boundaries is None or isinstance(boundaries, int | np.integer):
            number = 1 if boundaries is None else checks.require_integer("boundaries", boundaries)
            boundaries = bucket_boundaries(lengths, number)
    else:
        lengths = np.zeros((len(next(iter(fields.values()))), 0), int)
    steps = checked_boundaries(boundaries, len(groups))
    return Batches(
        fields,
        specs,
        groups,
        batch_size,
        steps,
        assigned(lengths, steps),
        seed,
        epoch,
        checks.require_bool("drop_remainder", drop_remainder),
        checks.require_bool("pad_batch", pad_batch),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of one epoch, made on demand: indexable, and iterable any number of times.

    `batches` makes it. Batch i is the same each time, so iteration can go on from any i. A batch is
    a dict of the examples' fields, sequences [B, T, ...] and others [B, ...], with zeros as
    padding, and with

    - "lengths": int32 [B], if there are sequences; 0 in filler rows. With sequences of several
      lengths, "NAME_lengths" for each.
    - "weights": bool [B]; False in filler rows. It is the `mask` of a loss on whole sequences.

    Attributes:
      fields: the entries of each field.
      specs: shape and dtype of each field's entries.
      groups: the fields that run over time, by the lengths that they share.
      batch_size: B.
      boundaries: of each bucket, the T of each group.
      buckets: int [N], the bucket of each example.
      seed: of the shuffling; None for none.
      epoch: the epoch of this order.
      drop_remainder: whether examples that do not fill a batch are left out.
      pad_batch: whether a short batch is filled up to B rows.

    Example:
      >>> three = batches({"x": [[1.0], [2.0, 3.0], [4.0]]}, batch_size=2)
      >>> len(three), three[1]["x"].shape, three[-1]["weights"].tolist()
      (2, (2, 2), [True, False])
    """

    fields: Mapping[str, Field]
    specs: Mapping[str, Spec]
    groups: Sequence[Group]
    batch_size: int
    boundaries: Sequence[tuple[int, ...]]
    buckets: np.ndarray
    seed: int | None
    epoch: int
    drop_remainder: bool
    pad_batch: bool

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        """Return one line, the same in each process, since Grain's checkpoints compare it."""
        shown = [f"{len(self)} batches of {self.batch_size}", f"{len(self.buckets)} examples"]
        shown += [f"{f}: {spec.dtype}{list(spec.shape)}" for f, spec in self.specs.items()]
        shown += [f"boundaries={self.boundaries}", f"seed={self.seed}", f"epoch={self.epoch}"]
        return f"Batches({', '.join(shown)})"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        steps, rows = self.plan[checks.require_index(index, len(self))]
        size = self.batch_size if self.pad_batch else len(rows)
        groups = {f: (g, t) for g, t in zip(self.groups, steps, strict=True) for f in g.fields}
        batch = {}
        for name, spec in self.specs.items():
            group, time = groups.get(name, (None, None))
            entries = self.fields[name].take(rows, spec, None if group is None else group.lengths)
            batch[name] = stack(entries, (size,) if time is None else (size, time), spec)
        for group in self.groups:
            batch[group.name] = np.zeros(size, np.int32)
            batch[group.name][: len(rows)] = group.lengths[rows]
        batch["weights"] = np.arange(size) < len(rows)
        return batch

    @functools.cached_property
    def plan(self) -> list[tuple[tuple[int, ...], list[int]]]:
        """For each batch, the T of each group and the indices of its examples."""
        rng = None if self.seed is None else np.random.default_rng((self.seed, self.epoch))
        plan: list[tuple[tuple[int, ...], list[int]]] = []
        waiting: list[list[int]] = [[] for _ in self.boundaries]
        buckets = self.buckets.tolist()
        order = range(len(buckets)) if rng is None else rng.permutation(len(buckets)).tolist()
        for n in order:
            bucket = buckets[n]
            waiting[bucket].append(n)
            if len(waiting[bucket]) == self.batch_size:
                plan.append((self.boundaries[bucket], waiting[bucket]))
                waiting[bucket] = []
        if not self.drop_remainder:
            plan += [(self.boundaries[k], rows) for k, rows in enumerate(waiting) if rows]
        if rng is not None:
            plan = [plan[index] for index in rng.permutation(len(plan))]
        return plan

    def at_epoch(self, epoch: int) -> "Batches":
        """Return the batches of another epoch of the same examples, in its order.

        The examples are not checked again. Each epoch has the same number of batches.

        Args:
          epoch: counted from 0.

        Raises:
          TypeError, ValueError: not an integer of at least 0.

        Example:
          >>> made = batches({"x": [[1], [2, 3], [4]]}, batch_size=1, seed=0)
          >>> [[batch["x"][0, 0].item() for batch in made.at_epoch(e)] for e in range(3)]
          [[2, 1, 4], [1, 2, 4], [2, 1, 4]]
        """
        return dataclasses.replace(self, epoch=checks.require_integer("epoch", epoch, least=0))

    def to_grain(self) -> "grain.MapDataset[dict[str, np.ndarray]]":
        """Return the batches of all epochs as a dataset of Grain, of one epoch's length.

        Its transformations apply: `repeat` takes the order of another epoch in each repetition,
        `dataset[index::count]` takes the batches of one process out of several, `to_iter_dataset`
        and `mp_prefetch` read in threads and processes, and the state of an iterator can be saved.

        Raises:
          ImportError: grain is missing.
          ValueError: there are no batches.

        Example:
          >>> made = batches({"x": [[1], [2, 3], [4]]}, batch_size=1, seed=0)
          >>> dataset = made.to_grain().repeat(2)
          >>> [batch["x"][0, 0].item() for batch in dataset]
          [2, 1, 4, 1, 2, 4]
        """
        if not len(self):
            raise ValueError("batches: expected at least one for a dataset of Grain, got none")
        from seqjax.data import _pipelines as pipelines

        return pipelines.grain_datasets("Batches.to_grain").EpochsMapDataset(self)


def _fields(examples: Any) -> dict[str, Field]:
    """Return the fields of the examples, or raise if they differ in their number of entries."""
    given = columns("examples", examples)
    taken = {"lengths", "weights"} & set(given)
    if taken:
        raise ValueError(f"examples: the name {min(taken)!r} is that of a field batches add")
    fields = {name: Field(f"examples[{name!r}]", field) for name, field in given.items()}
    sizes = {name: len(field) for name, field in fields.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"examples: expected as many entries in every field, got {sizes}")
    if not any(sizes.values()):
        raise ValueError(f"examples: expected at least one example, got {sizes or 'no field'}")
    return fields
