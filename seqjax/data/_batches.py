"""Bucketing: batches of examples of similar length, padded to a small number of shapes."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqjax import checks
from seqjax._hints import hints
from seqjax.data._buckets import assigned, bucket_boundaries, checked_boundaries
from seqjax.data._containers import columns
from seqjax.data._fields import Field, Spec, stack
from seqjax.data._groups import Group, scan

if TYPE_CHECKING:
    import grain

__all__ = ["Batches", "batches"]


@hints(
    shuffle="pass seed=0 to shuffle; without a seed the order is that of the examples",
    drop_last="use drop_remainder",
    num_workers="fit(prefetch=2) prepares batches in the background",
    collate_fn="fields are padded and stacked; sequence_keys names the sequences",
)
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

    Each example goes to the bucket with the smallest boundary ≥ the example's length. All examples
    of a batch come from one bucket, so a compiled function sees one shape per bucket. Every example
    appears exactly once, unless `drop_remainder` is True.

    If the last batch of a bucket has fewer than B examples, filler rows of zeros complete the
    batch. The field "weights" of a batch is False in filler rows and True in the rows of examples.
    Pass "weights" as `mask=` to losses and metrics that have one value per sequence. For losses
    that have one value per time step, pass the mask
    `seqjax.sequences.lengths_to_mask(batch["lengths"], T)`, which is False in filler rows, since
    their length is 0. Without a mask, losses and metrics count filler rows as examples. The
    training and evaluation steps of `seqjax.training` detect a missing mask and leave out the
    filler rows.

    Args:
      examples: a dict of fields, or a data frame. Each field has one entry per example: a list of
        numbers, lists or arrays; an array [N, ...] of NumPy, JAX, PyTorch or TensorFlow; or a
        column of pandas, polars or pyarrow. Entries are matched by position: the index of a pandas
        object is ignored. If a field is a sequence that is neither a list, an array nor a column,
        its entries are read when the batch that contains them is made.
      batch_size: B.
      sequence_keys: the names of the fields with a time axis. In the fields with a time axis, the
        entry of example n has shape [t_n, ...], where t_n is the same in all of these fields. By
        default, the fields with a time axis are those whose entries differ in length. () means that
        no field has a time axis. If an example has sequences of several lengths, pass a dict from a
        name to the fields that share a length, such as {"source": ["letters"], "target": ["tokens",
        "labels"]}.
      boundaries: increasing bucket lengths, for example from `bucket_boundaries`; or the number of
        buckets, for which `bucket_boundaries` then computes the lengths. By default, there is one
        bucket with the length of the longest example. If `sequence_keys` is a dict, each boundary
        is a tuple with one length for each name, in the order of the dict. If an example is longer
        than the last boundary, an error is raised.
      seed: the seed for shuffling examples and batches. The seed and the epoch determine the order
        of the batches. If `seed` is None, the examples of each bucket keep their order, and a batch
        is made as soon as its bucket contains B examples.
      epoch: the number of the epoch, counted from 0. The seed and the epoch determine the order of
        the batches.
      drop_remainder: if True, batches with fewer than B examples are left out.
      pad_batch: if True, a batch with fewer than B examples is filled up to B rows with zeros; if
        False, such a batch has fewer than B rows.

    Returns:
      The batches, which can be iterated over any number of times.

    Raises:
      TypeError: an entry does not consist of numbers, or an argument is of the wrong type.
      ValueError: there are no examples; the fields differ in their number of entries; the entries
        of a field differ in shape; the sequences of an example differ in length or are longer than
        the last boundary; `sequence_keys` is None and no field has entries of different lengths;
        or an argument is out of range.

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
    """A sequence of the batches of one epoch, which are made on demand.

    Use `seqjax.data.batches` to create this object. Batch i is the same at each access, so
    iteration can resume at any i. A batch is a dict with the fields of its examples. Fields with a
    time axis have shape [B, T, ...], other fields [B, ...]. Padding is zero. Each batch also has
    fields that describe its rows:

    - "lengths": int32 [B], the lengths of the sequences, if there are any; 0 in filler rows. If
      `sequence_keys` is a dict, a batch has a field "NAME_lengths" for each name in this dict
      instead of "lengths".
    - "weights": bool [B], False in filler rows. Pass "weights" as `mask=` to losses and metrics
      that have one value per sequence.

    Attributes:
      fields: the entries of each field.
      specs: the shape and dtype of each field's entries.
      groups: the fields with a time axis, grouped by the lengths that they share.
      batch_size: B.
      boundaries: for each bucket, the padded length T of each group of fields.
      buckets: int [N], the index of the bucket of each example.
      seed: the seed of the shuffling; None if the examples are not shuffled.
      epoch: the number of the epoch, counted from 0.
      drop_remainder: whether batches with fewer than B examples are left out.
      pad_batch: whether a batch with fewer than B examples is filled up to B rows.
      rows: the rows of each batch that are read, see `only_rows`; None means all rows.

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
    rows: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        """Return the same description in each process, since Grain's checkpoints compare it."""
        shown = [f"{len(self)} batches of {self.batch_size}", f"{len(self.buckets)} examples"]
        shown += [f"{f}: {spec.dtype}{list(spec.shape)}" for f, spec in self.specs.items()]
        shown += [f"boundaries={self.boundaries}", f"seed={self.seed}", f"epoch={self.epoch}"]
        return f"Batches({', '.join(shown)})"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        steps, rows = self.plan[checks.require_index(index, len(self))]
        size = self.batch_size if self.pad_batch else len(rows)
        places = None if self.rows is None else [row for row in self.rows if row < len(rows)]
        read = rows if places is None else [rows[row] for row in places]
        groups = {f: (g, t) for g, t in zip(self.groups, steps, strict=True) for f in g.fields}
        batch = {}
        for name, spec in self.specs.items():
            group, time = groups.get(name, (None, None))
            entries = self.fields[name].take(read, spec, None if group is None else group.lengths)
            lead = () if time is None else (time,)
            if places is None:
                batch[name] = stack(entries, (size, *lead), spec)
                continue
            batch[name] = np.zeros((size, *lead, *spec.shape), spec.dtype)
            batch[name][places] = stack(entries, (len(places), *lead), spec)
        for group in self.groups:
            batch[group.name] = np.zeros(size, np.int32)
            batch[group.name][: len(rows)] = group.lengths[rows]
        batch["weights"] = np.arange(size) < len(rows)
        return batch

    @functools.cached_property
    def plan(self) -> list[tuple[tuple[int, ...], list[int]]]:
        """A pair for each batch: the padded length of each group, and the indices of the examples.

        A group consists of the fields whose entries have the same lengths.
        """
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
        """Return the batches of another epoch of the same examples.

        The examples are not checked again. Each epoch has the same number of batches.

        Args:
          epoch: the epoch, counted from 0.

        Raises:
          TypeError, ValueError: `epoch` is not an integer of at least 0.

        Example:
          >>> made = batches({"x": [[1], [2, 3], [4]]}, batch_size=1, seed=0)
          >>> [[batch["x"][0, 0].item() for batch in made.at_epoch(e)] for e in range(3)]
          [[2, 1, 4], [1, 2, 4], [2, 1, 4]]
        """
        return dataclasses.replace(self, epoch=checks.require_integer("epoch", epoch, least=0))

    def only_rows(self, rows: Sequence[int]) -> "Batches":
        """Return the same batches, of which only some rows are read.

        The other rows of the examples' fields are zeros. "lengths" and "weights" are complete. With
        the rows of `seqjax.sharding.process_rows`, each of several processes reads only the rows
        for its own devices. `seqjax.training.fit` does this itself.

        Args:
          rows: the rows to read, counted from 0.

        Raises:
          TypeError, IndexError: a row is not an integer from 0 to B - 1.

        Example:
          >>> made = batches({"x": [[1], [2, 3], [4]]}, batch_size=3)
          >>> [batch] = made.only_rows([1])
          >>> batch["x"].tolist(), batch["lengths"], batch["weights"]
          ([[0, 0], [2, 3], [0, 0]], array([1, 2, 1], dtype=int32), array([ True,  True,  True]))
        """
        found = {checks.require_index(row, self.batch_size) for row in rows}
        return dataclasses.replace(self, rows=tuple(sorted(found)))

    def to_grain(self) -> "grain.MapDataset[dict[str, np.ndarray]]":
        """Return the batches as a `grain.MapDataset`, whose length is the number of batches.

        The dataset has the methods of `grain.MapDataset`. In each repetition, `dataset.repeat`
        returns the batches of the next epoch. `to_iter_dataset` reads batches in threads, and
        `mp_prefetch` reads them in processes. The state of an iterator over the dataset can be
        saved. If several processes train together, call `only_rows` before `to_grain`, so that each
        process reads only its own rows.

        Raises:
          ImportError: grain is not installed.
          ValueError: there are no batches.

        Example:
          >>> made = batches({"x": [[1], [2, 3], [4]]}, batch_size=1, seed=0)
          >>> dataset = made.to_grain().repeat(2)
          >>> [batch["x"][0, 0].item() for batch in dataset]
          [2, 1, 4, 1, 2, 4]
        """
        if not len(self):
            raise ValueError("batches: expected at least one batch for Grain, got none")
        from seqjax.data import _pipelines as pipelines

        return pipelines.grain_datasets("Batches.to_grain").EpochsMapDataset(self)


def _fields(examples: Any) -> dict[str, Field]:
    """Return the fields of the examples, or raise if they differ in their number of entries."""
    given = columns("examples", examples)
    taken = {"lengths", "weights"} & set(given)
    if taken:
        raise ValueError(
            "examples: expected names of fields other than 'lengths' and 'weights', which batches "
            f"add, got {min(taken)!r}"
        )
    fields = {name: Field(f"examples[{name!r}]", field) for name, field in given.items()}
    sizes = {name: len(field) for name, field in fields.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"examples: expected the same number of entries in every field, got {sizes}"
        )
    if not any(sizes.values()):
        raise ValueError(f"examples: expected at least one example, got {sizes or 'no field'}")
    return fields
