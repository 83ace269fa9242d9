"""Bucketing: examples of different lengths become batches of few shapes."""

import dataclasses
import itertools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks
from seqjax.data._fields import Entry, Spec, by_position, numbers, spec_of, stack

__all__ = ["Batches", "batches", "bucket_boundaries"]

Field: TypeAlias = Sequence[Any] | np.ndarray | jax.Array


def bucket_boundaries(lengths: ArrayLike, num_buckets: int) -> tuple[Any, ...]:
    """Upper lengths of buckets that hold about equally many sequences each, for `batches`.

        boundary_k = the smallest length that at least k / num_buckets of the lengths do not exceed

    Args:
      lengths: int [N], or [N, G] for examples with sequences of G lengths.
      num_buckets: how many to aim at. Repeated lengths may lead to fewer, never to more.

    Returns:
      Increasing boundaries, each at least 1; for [N, G] tuples of G, one column at a time. The last
      is the greatest length.

    Raises:
      TypeError: lengths are not integers.
      ValueError: there are no lengths, one is negative, or num_buckets is not positive.

    Example:
      >>> bucket_boundaries([3, 4, 4, 5, 9, 30], num_buckets=3)
      (4, 5, 30)
      >>> bucket_boundaries([[3, 1], [4, 1], [9, 2], [9, 5]], num_buckets=2)
      ((4, 1), (9, 5))
    """
    num_buckets = checks.require_integer("num_buckets", num_buckets, least=1)
    lengths = np.asarray(lengths)
    if lengths.ndim not in (1, 2) or not lengths.size:
        raise ValueError(f"lengths: expected shape [N] or [N, G] with N > 0, got {lengths.shape}")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if lengths.min() < 0:
        raise ValueError(f"lengths: expected at least 0, got {lengths.min()}")
    # In whole numbers, ceil(k N / num_buckets): a rank computed in floats can be one too high.
    size = len(lengths)
    ranks = np.array([-(-k * size // num_buckets) for k in range(1, num_buckets + 1)])
    found = np.maximum(1, np.sort(lengths, axis=0)[ranks - 1]).tolist()
    return tuple(sorted({n if lengths.ndim == 1 else tuple(n) for n in found}))


def batches(
    examples: Mapping[str, Field],
    *,
    batch_size: int,
    sequence_keys: Collection[str] | Mapping[str, Collection[str]] | None = None,
    boundaries: Sequence[int | Sequence[int]] | int | None = None,
    seed: int | None = None,
    epoch: int = 0,
    drop_remainder: bool = False,
    pad_batch: bool = True,
) -> "Batches":
    """The batches of one epoch, each padded to the boundary of its bucket.

    An example goes to the bucket with the smallest boundary not below its length, and a batch comes
    from one bucket, so that a compiled function sees one shape a bucket. Every example appears
    exactly once, unless `drop_remainder` leaves some out.

    Args:
      examples: for each field one entry an example: a list of arrays, or an array [N, ...] of
        NumPy, JAX, PyTorch or pandas. Rows of pandas count by their place, whatever their index.
      batch_size: B.
      sequence_keys: the fields that run over time, with entries [t_n, ...] of one length t_n an
        example; () for none. By default, the fields whose entries differ in length. For sequences
        of several lengths a dict name -> fields that share one, such as {"source": ["letters"],
        "target": ["tokens", "labels"]}.
      boundaries: increasing bucket lengths, such as `bucket_boundaries` gives, or to how many
        buckets it is to divide these examples; by default one bucket, as long as the longest
        example. With several lengths an entry has one for each, in the order of the dict. No
        example may be longer than the last boundary: nothing is cut, and no further shape is made
        up, without being asked for.
      seed: shuffles examples and batches, in an order that is a function of seed and epoch. None
        keeps the order of the examples (with several buckets: within each, a batch coming as soon
        as it is full).
      epoch: whose order to take.
      drop_remainder: leave out the examples that do not fill a batch of their bucket.
      pad_batch: fill up a short batch to B rows with filler, zeros of length 0; False leaves it
        short.

    Returns:
      The batches, to be iterated over as often as wanted.

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
    num_examples = _num_examples(examples)
    examples = {name: by_position(field) for name, field in examples.items()}
    specs, groups = _scan(examples, num_examples, sequence_keys)
    bucket_lengths, buckets = _assign(
        np.stack([group.lengths for group in groups], axis=-1) if groups else None,
        boundaries,
        num_examples,
    )
    rng = None
    if seed is not None:
        rng = np.random.default_rng((checks.require_integer("seed", seed, least=0), epoch))

    plan: list[tuple[tuple[int, ...], list[int]]] = []
    waiting: list[list[int]] = [[] for _ in bucket_lengths]
    for n in range(num_examples) if rng is None else rng.permutation(num_examples).tolist():
        bucket = buckets[n]
        waiting[bucket].append(n)
        if len(waiting[bucket]) == batch_size:
            plan.append((bucket_lengths[bucket], waiting[bucket]))
            waiting[bucket] = []
    if not drop_remainder:
        plan += [(bucket_lengths[bucket], rows) for bucket, rows in enumerate(waiting) if rows]
    if rng is not None:
        plan = [plan[index] for index in rng.permutation(len(plan))]
    return Batches(examples, specs, groups, plan, batch_size if pad_batch else None)


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of one epoch, made when asked for: iterable again and again, and indexable.

    `batches` makes it. Batch i is the same each time, so iteration can go on from any i. A batch is
    a dict of the examples' fields, sequences [B, T, ...] and others [B, ...], zero where there is
    nothing, with

    - "lengths": int32 [B], if there are sequences; 0 in filler rows. With sequences of several
      lengths, "NAME_lengths" for each.
    - "weights": bool [B]; False in filler rows. It is the `mask` of a loss on whole sequences.

    Attributes:
      examples: the fields, as given.
      specs: shape and dtype of each field's entries.
      groups: the fields that run over time, by the lengths that they share.
      plan: of each batch, the T of each group and the numbers of its examples.
      batch_size: how many rows to fill each batch up to; None for no filling.

    Example:
      >>> three = batches({"x": [[1.0], [2.0, 3.0], [4.0]]}, batch_size=2)
      >>> len(three), three[1]["x"].shape, three[-1]["weights"].tolist()
      (2, (2, 2), [True, False])
    """

    examples: Mapping[str, Field]
    specs: Mapping[str, Spec]
    groups: Sequence["Group"]
    plan: Sequence[tuple[tuple[int, ...], list[int]]]
    batch_size: int | None

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        steps, rows = self.plan[operator.index(index)]
        size = self.batch_size or len(rows)
        time = {f: t for group, t in zip(self.groups, steps, strict=True) for f in group.fields}
        batch = {}
        for name, spec in self.specs.items():
            entries = [np.asarray(self.examples[name][n]) for n in rows]
            batch[name] = stack(entries, (size, time[name]) if name in time else (size,), spec)
        for group in self.groups:
            batch[group.name] = np.zeros(size, np.int32)
            batch[group.name][: len(rows)] = group.lengths[rows]
        batch["weights"] = np.arange(size) < len(rows)
        return batch


class Group(NamedTuple):
    """Fields whose sequences have one length an example.

    Attributes:
      name: of the field of lengths in a batch.
      fields: the fields.
      lengths: int32 [N].
    """

    name: str
    fields: tuple[str, ...]
    lengths: np.ndarray


def _scan(
    examples: Mapping[str, Field],
    num_examples: int,
    keys: Collection[str] | Mapping[str, Collection[str]] | None,
) -> tuple[dict[str, Spec], list[Group]]:
    """The fields' specs, and the groups of those that run over time."""
    entries: dict[str, list[Entry]] = {}
    for name, field in examples.items():
        arrays = (numbers(f"examples[{name!r}][{n}]", field[n]) for n in range(num_examples))
        entries[name] = [Entry(array.shape, array.dtype) for array in arrays]
    if keys is None:
        keys = [name for name, found in entries.items() if len({e.shape[:1] for e in found}) > 1]
        if not keys:
            raise ValueError(
                "sequence_keys: no field has entries of different lengths; name the fields that "
                f"run over time, () for none, out of {', '.join(examples)}"
            )
    named = _named_groups(keys, examples)
    over_time = {field for fields in named.values() for field in fields}
    specs = {
        name: spec_of(f"examples[{name!r}]", found, over_time=name in over_time)
        for name, found in entries.items()
    }
    return specs, [_group(name, fields, entries) for name, fields in named.items()]


def _named_groups(
    keys: Collection[str] | Mapping[str, Collection[str]], examples: Mapping[str, Field]
) -> dict[str, tuple[str, ...]]:
    """Fields that run over time, by the name of their lengths in a batch."""
    groups: dict[str, Collection[str]] = {"lengths": keys}
    if isinstance(keys, Mapping):
        groups = {f"{name}_lengths": fields for name, fields in keys.items()}
    several = "lengths" not in groups
    flat: list[str] = []
    for fields in groups.values():
        if isinstance(fields, str) or not set(fields) <= set(examples) or (several and not fields):
            raise ValueError(f"sequence_keys: expected some of {tuple(examples)}, got {fields!r}")
        flat.extend(fields)
    if len(set(flat)) < len(flat):
        raise ValueError(f"sequence_keys: expected each field in one group, got {keys!r}")
    for name in groups:
        if name in examples:
            raise ValueError(f"examples: the name {name!r} is that of a field batches add")
    return {name: tuple(fields) for name, fields in groups.items() if fields}


def _group(name: str, fields: tuple[str, ...], entries: Mapping[str, Sequence[Entry]]) -> Group:
    """The lengths that some fields share, or an error that names an example where they differ."""
    lengths = np.array([[entry.shape[0] for entry in entries[field]] for field in fields])
    uneven = (lengths != lengths[0]).any(axis=0)
    if uneven.any():
        n = int(uneven.argmax())
        found = ", ".join(f"{f!r} {t}" for f, t in zip(fields, lengths[:, n], strict=True))
        raise ValueError(
            f"examples: expected sequences of one length an example, got {found} in example {n}; "
            'say which share one: sequence_keys={"source": [...], "target": [...]}'
        )
    return Group(name, fields, lengths[0].astype(np.int32))


def _assign(
    lengths: np.ndarray | None,
    boundaries: Sequence[int | Sequence[int]] | int | None,
    num_examples: int,
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The lengths of each bucket, and the bucket of each example, from lengths [N, G]."""
    if lengths is None:
        if boundaries is not None:
            raise ValueError("boundaries: expected None when no field runs over time")
        return [()], [0] * num_examples
    if boundaries is None or isinstance(boundaries, int | np.integer):
        number = 1 if boundaries is None else checks.require_integer("boundaries", boundaries)
        boundaries = bucket_boundaries(lengths, number)
    checked = [_boundary(boundary, lengths.shape[1]) for boundary in boundaries]
    shown = [boundary if len(boundary) > 1 else boundary[0] for boundary in checked]
    increasing = all(
        a != b and all(x <= y for x, y in zip(a, b, strict=True))
        for a, b in itertools.pairwise(checked)
    )
    if not checked or not increasing:
        raise ValueError(f"boundaries: expected increasing lengths, got {tuple(shown)}")
    fits: np.ndarray = np.all(lengths[:, None] <= np.array(checked), axis=-1)
    if not fits[:, -1].all():
        n = int((lengths - checked[-1]).max(axis=-1).argmax())
        found = tuple(lengths[n].tolist()) if lengths.shape[1] > 1 else lengths[n, 0]
        raise ValueError(
            f"boundaries: expected the last to be at least {found}, the length of example {n}, "
            f"got {shown[-1]}"
        )
    return checked, fits.argmax(axis=1).tolist()


def _boundary(boundary: Any, groups: int) -> tuple[int, ...]:
    """A bucket's length for each group."""
    given = tuple(boundary) if isinstance(boundary, list | tuple | np.ndarray) else (boundary,)
    if len(given) != groups:
        raise ValueError(
            f"boundaries: expected {groups} length{'s' * (groups > 1)} an entry, got {boundary!r}"
        )
    return tuple(checks.require_integer("boundaries", length, least=1) for length in given)


def _num_examples(examples: Mapping[str, Field]) -> int:
    if not isinstance(examples, Mapping):
        raise TypeError(f"examples: expected a dict of fields, got {type(examples).__name__}")
    taken = {"lengths", "weights"} & set(examples)
    if taken:
        raise ValueError(f"examples: the name {min(taken)!r} is that of a field batches add")
    sizes = {name: len(field) for name, field in examples.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"examples: expected as many entries in every field, got {sizes}")
    if not any(sizes.values()):
        raise ValueError(f"examples: expected at least one example, got {sizes or 'no field'}")
    return next(iter(sizes.values()))
