"""Padding and bucketing: sequences of different lengths become batches of few shapes."""

import dataclasses
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks

__all__ = ["Batches", "batches", "bucket_boundaries", "pad"]

Field: TypeAlias = Sequence[Any] | np.ndarray
Truncate: TypeAlias = Literal["error", "right", "left"]


def pad(
    sequences: Iterable[ArrayLike],
    *,
    length: int | None = None,
    value: float = 0,
    truncate: Truncate = "error",
) -> tuple[np.ndarray, np.ndarray]:
    """Stacks sequences of different lengths, filled up on the right, and their lengths.

        array[b, t] = sequences[b][t] if t < lengths[b] else value

    Args:
      sequences: B arrays [t_b, ...] (frames) or [t_b] (tokens), t_b ≥ 0. An empty list stands for
        a sequence without steps, whatever a step of the others holds.
      length: T, the number of steps of the result; by default that of the longest sequence.
      value: what padding holds.
      truncate: what to do with a sequence longer than `length`: "error" raises, "right" cuts at
        its right end (keeping its start), "left" cuts at its left end (keeping its end).

    Returns:
      array: [B, T, ...], of the common dtype of the sequences.
      lengths: int32 [B], after truncation.

    Raises:
      TypeError: a sequence is not of numbers.
      ValueError: there are no sequences, their steps differ in shape, one is longer than `length`,
        or their dtype cannot hold `value`.

    Example:
      >>> array, lengths = pad([[1, 2, 3], [], [4]])
      >>> print(array)
      [[1 2 3]
       [0 0 0]
       [4 0 0]]
      >>> print(lengths)
      [3 0 1]
    """
    if truncate not in get_args(Truncate):
        raise ValueError(f"truncate: expected one of {get_args(Truncate)}, got {truncate!r}")
    arrays = [_numbers(f"sequences[{b}]", sequence) for b, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("sequences: expected at least one, got none")
    spec = _spec("sequences", arrays, over_time=True)
    longest = max(len(array) for array in arrays)
    length = longest if length is None else checks.require_integer("length", length, least=0)
    if longest > length and truncate == "error":
        b = next(b for b, array in enumerate(arrays) if len(array) > length)
        raise ValueError(
            f"sequences[{b}]: expected at most length={length} steps, got {len(arrays[b])}; "
            'truncate="right" or "left" cuts'
        )
    starts = [max(0, len(array) - length) if truncate == "left" else 0 for array in arrays]
    arrays = [array[start : start + length] for start, array in zip(starts, arrays, strict=True)]
    padded = _stack(arrays, (len(arrays), length), spec, value)
    return padded, np.array([len(array) for array in arrays], np.int32)


def bucket_boundaries(lengths: ArrayLike, num_buckets: int) -> tuple[int, ...]:
    """Upper lengths of buckets that hold about equally many sequences each, for `batches`.

        boundary_k = the smallest length that at least k / num_buckets of the lengths do not exceed

    Args:
      lengths: int [N].
      num_buckets: how many to aim at. Repeated lengths may lead to fewer, never to more.

    Returns:
      Increasing boundaries, each at least 1. The last is the greatest length.

    Raises:
      TypeError: lengths are not integers.
      ValueError: there are no lengths, one is negative, or num_buckets is not positive.

    Example:
      >>> bucket_boundaries([3, 4, 4, 5, 9, 30], num_buckets=3)
      (4, 5, 30)
    """
    lengths, num_buckets = (
        np.asarray(lengths),
        checks.require_integer("num_buckets", num_buckets, least=1),
    )
    if lengths.ndim != 1 or not lengths.size:
        raise ValueError(f"lengths: expected shape [N] with N > 0, got {lengths.shape}")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if lengths.min() < 0:
        raise ValueError(f"lengths: expected at least 0, got {lengths.min()}")
    # In whole numbers, ceil(k N / num_buckets): a rank computed in floats can be one too high.
    ranks = [-(-k * lengths.size // num_buckets) for k in range(1, num_buckets + 1)]
    return tuple(sorted({max(1, int(n)) for n in np.sort(lengths)[np.array(ranks) - 1]}))


def batches(
    examples: Mapping[str, Field],
    *,
    batch_size: int,
    sequence_keys: Collection[str] | None = None,
    boundaries: Sequence[int] | None = None,
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
      examples: for each field one entry an example: a list of arrays, or an array [N, ...].
      batch_size: B.
      sequence_keys: the fields that run over time, with entries [t_n, ...] of one length t_n an
        example; () for none. By default, the fields whose entries differ in length.
      boundaries: increasing bucket lengths, such as `bucket_boundaries` gives; by default one
        bucket, as long as the longest example. No example may be longer than the last boundary:
        nothing is cut, and no further shape is made up, without being asked for.
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
    """
    batch_size = checks.require_integer("batch_size", batch_size, least=1)
    epoch = checks.require_integer("epoch", epoch, least=0)
    num_examples = _num_examples(examples)
    specs, lengths = _scan(examples, num_examples, sequence_keys)
    bucket_lengths, buckets = _assign(lengths, boundaries, num_examples)
    rng = None
    if seed is not None:
        rng = np.random.default_rng((checks.require_integer("seed", seed, least=0), epoch))

    plan: list[tuple[int, list[int]]] = []
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
    return Batches(examples, specs, lengths, plan, batch_size if pad_batch else None)


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of one epoch, made when asked for: iterable again and again, and indexable.

    `batches` makes it. Batch i is the same each time, so iteration can go on from any i. A batch is
    a dict of the examples' fields, sequences [B, T, ...] and others [B, ...], zero where there is
    nothing, with

    - "lengths": int32 [B], if there are sequences; 0 in filler rows.
    - "weights": bool [B]; False in filler rows. It is the `mask` of a loss on whole sequences.

    Attributes:
      examples: the fields, as given.
      specs: shape and dtype of each field's entries.
      lengths: the examples' lengths; None without sequences.
      plan: of each batch, its T and the numbers of its examples.
      batch_size: how many rows to fill each batch up to; None for no filling.

    Example:
      >>> three = batches({"x": [[1.0], [2.0, 3.0], [4.0]]}, batch_size=2)
      >>> len(three), three[1]["x"].shape, three[-1]["weights"].tolist()
      (2, (2, 2), [True, False])
    """

    examples: Mapping[str, Field]
    specs: Mapping[str, "_Spec"]
    lengths: np.ndarray | None
    plan: Sequence[tuple[int, list[int]]]
    batch_size: int | None

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        length, rows = self.plan[operator.index(index)]
        size = self.batch_size or len(rows)
        batch = {}
        for name, spec in self.specs.items():
            entries = [np.asarray(self.examples[name][n]) for n in rows]
            batch[name] = _stack(entries, (size, length) if spec.over_time else (size,), spec)
        if self.lengths is not None:
            batch["lengths"] = np.zeros(size, np.int32)
            batch["lengths"][: len(rows)] = self.lengths[rows]
        batch["weights"] = np.arange(size) < len(rows)
        return batch


class _Spec(NamedTuple):
    """What the entries of a field share; for one that runs over time, the shape is a step's."""

    shape: tuple[int, ...]
    dtype: np.dtype
    over_time: bool


def _spec(name: str, arrays: Sequence["np.ndarray | _Entry"], *, over_time: bool) -> _Spec:
    shape: tuple[int, ...] | None = None
    for n, array in enumerate(arrays):
        if over_time and not array.shape:
            raise ValueError(f"{name}[{n}]: expected a sequence [t, ...], got a single number")
        # An empty list says nothing of what a step would have been.
        if over_time and array.shape == (0,):
            continue
        found = array.shape[1:] if over_time else array.shape
        shape = found if shape is None else shape
        if found != shape:
            what = "steps" if over_time else "entries"
            raise ValueError(f"{name}[{n}]: expected {what} of shape {shape}, got {found}")
    # Nor does it of the dtype: NumPy makes it float64, which would turn tokens into floats.
    dtypes = {array.dtype for array in arrays if 0 not in array.shape}
    dtypes = dtypes or {array.dtype for array in arrays}
    return _Spec(shape or (), np.result_type(*dtypes), over_time)


def _stack(
    arrays: Sequence[np.ndarray], lead: tuple[int, ...], spec: _Spec, value: float = 0
) -> np.ndarray:
    """The arrays as rows of one [*lead, ...], with `value` around them."""
    with np.errstate(invalid="ignore"):
        fill = np.array(value).astype(spec.dtype)
    if spec.dtype.kind in "biu" and fill != value:
        raise ValueError(f"value: expected one that {spec.dtype} can hold, got {value}")
    stacked = np.full(lead + spec.shape, fill)
    for row, array in enumerate(arrays):
        if not spec.over_time:
            stacked[row] = array
        elif len(array):  # an empty list need not have a step's axes
            stacked[row, : len(array)] = array
    return stacked


class _Entry(NamedTuple):
    """An entry's shape and dtype: what there is to know of it before its batch is made."""

    shape: tuple[int, ...]
    dtype: np.dtype


def _scan(
    examples: Mapping[str, Field], num_examples: int, keys: Collection[str] | None
) -> tuple[dict[str, _Spec], np.ndarray | None]:
    """The fields' specs, and the lengths that those of them share that run over time."""
    entries: dict[str, list[_Entry]] = {}
    for name, field in examples.items():
        arrays = (_numbers(f"examples[{name!r}][{n}]", field[n]) for n in range(num_examples))
        entries[name] = [_Entry(array.shape, array.dtype) for array in arrays]
    if keys is None:
        keys = [name for name, found in entries.items() if len({e.shape[:1] for e in found}) > 1]
        if not keys:
            raise ValueError(
                "sequence_keys: no field has entries of different lengths; name the fields that "
                f"run over time, () for none, out of {', '.join(examples)}"
            )
    elif isinstance(keys, str) or not set(keys) <= set(examples):
        raise ValueError(f"sequence_keys: expected some of {tuple(examples)}, got {keys!r}")
    specs = {
        name: _spec(f"examples[{name!r}]", found, over_time=name in keys)
        for name, found in entries.items()
    }
    if not keys:
        return specs, None
    lengths = np.array([[entry.shape[0] for entry in entries[name]] for name in keys])
    uneven = (lengths != lengths[0]).any(axis=0)
    if uneven.any():
        n = int(uneven.argmax())
        found = ", ".join(f"{name!r} {t}" for name, t in zip(keys, lengths[:, n], strict=True))
        raise ValueError(
            f"examples: expected sequences of one length an example, got {found} in example {n}; "
            "pad one of the fields beforehand and leave it out of sequence_keys"
        )
    return specs, lengths[0].astype(np.int32)


def _assign(
    lengths: np.ndarray | None, boundaries: Sequence[int] | None, num_examples: int
) -> tuple[tuple[int, ...], list[int]]:
    """The buckets' lengths, and the bucket of each example."""
    if lengths is None:
        if boundaries is not None:
            raise ValueError("boundaries: expected None when no field runs over time")
        return (0,), [0] * num_examples
    if boundaries is None:
        boundaries = bucket_boundaries(lengths, 1)
    checked = tuple(
        checks.require_integer("boundaries", boundary, least=1) for boundary in boundaries
    )
    if not checked or list(checked) != sorted(set(checked)):
        raise ValueError(f"boundaries: expected increasing lengths, got {checked}")
    longest = int(lengths.argmax())
    if lengths[longest] > checked[-1]:
        raise ValueError(
            f"boundaries: expected the last to be at least {lengths[longest]}, the length of "
            f"example {longest}, got {checked[-1]}"
        )
    return checked, np.searchsorted(checked, lengths).tolist()


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


def _numbers(name: str, entry: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(entry)
    except ValueError:
        raise ValueError(f"{name}: expected an array, got parts that differ in shape") from None
    if array.dtype.kind in "OUSMm":
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    return array
