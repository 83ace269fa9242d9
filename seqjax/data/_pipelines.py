"""Batches for Grain, JAX's library of input pipelines."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqjax import checks
from seqjax.data._buckets import checked_boundaries
from seqjax.data._groups import named_groups

if TYPE_CHECKING:
    import grain

__all__ = ["grain_batches"]


def grain_batches(
    dataset: "grain.MapDataset[Any] | grain.IterDataset[Any]",
    *,
    batch_size: int,
    sequence_keys: Collection[str] | Mapping[str, Collection[str]],
    boundaries: Sequence[int | Sequence[int]] | None = None,
    drop_remainder: bool = False,
    pad_batch: bool = True,
) -> "grain.IterDataset[dict[str, np.ndarray]]":
    """Return the examples of a Grain dataset in batches, padded to the boundary of their bucket.

    Use this function if the examples do not fit into memory, and otherwise `seqjax.data.batches`.
    Each example goes to the bucket with the smallest boundary ≥ the example's length. A batch is
    made as soon as a bucket contains `batch_size` examples. The remaining examples are batched at
    the end of the dataset. Batches have the same fields as those of `seqjax.data.batches`,
    including "weights", which is False in filler rows.

    The state of an iterator is small, because it does not contain the examples that wait in a
    bucket. When the state of an iterator is restored, the examples that wait in a bucket are read
    again. Call `mp_prefetch` before this function, not after it, so that the examples of all
    processes go into the same buckets.

    Args:
      dataset: a dataset whose examples are dicts of arrays or numbers.
      batch_size: B, the number of rows of a batch.
      sequence_keys: the names of the fields with a time axis, as in `batches`; () means that no
        field has a time axis.
      boundaries: increasing bucket lengths, as in `batches`. Boundaries are required if a field has
        a time axis.
      drop_remainder: if True, batches with fewer than B examples are left out.
      pad_batch: if True, a batch with fewer than B examples is filled up to B rows with zeros; if
        False, such a batch has fewer than B rows.

    Returns:
      A `grain.IterDataset` of dicts. To read several epochs, repeat `dataset`.

    Raises:
      ImportError: grain is not installed.
      TypeError: `dataset` is not a dataset of Grain, or an example is not a dict of numbers
        (checked when the example is read).
      ValueError: `boundaries` are missing or do not increase, or an example is longer than the last
        boundary or lacks a field (checked when the example is read).

    Example:
      >>> import grain
      >>> rows = [{"tokens": [7] * t, "label": t} for t in (2, 5, 1, 4)]
      >>> examples = grain.MapDataset.source(rows)
      >>> made = grain_batches(examples, batch_size=2, sequence_keys=["tokens"], boundaries=[2, 5])
      >>> for batch in made:
      ...     print(batch["tokens"].tolist(), batch["lengths"], batch["label"])
      [[7, 7], [7, 0]] [2 1] [2 1]
      [[7, 7, 7, 7, 7], [7, 7, 7, 7, 0]] [5 4] [5 4]
    """
    datasets = grain_datasets("grain_batches")
    checks.require_integer("batch_size", batch_size)
    groups = named_groups(sequence_keys)
    names = list(groups.values())
    if groups and boundaries is None:
        raise ValueError("boundaries: expected increasing lengths, got None")
    return datasets.BucketIterDataset(
        datasets.examples(dataset),
        names,
        checked_boundaries(boundaries, len(groups)),
        {
            "batch_size": batch_size,
            "sequence_keys": {name.removesuffix("_lengths"): f for name, f in groups.items()}
            if isinstance(sequence_keys, Mapping)
            else [field for fields in names for field in fields],
            "drop_remainder": checks.require_bool("drop_remainder", drop_remainder),
            "pad_batch": checks.require_bool("pad_batch", pad_batch),
        },
    )


def grain_datasets(user: str) -> Any:
    """Return the module `_grain`, or raise an error if Grain is not installed."""
    try:
        from seqjax.data import _grain
    except ImportError as error:
        raise ImportError(f'seqjax.data.{user} needs grain: pip install "seqjax[grain]"') from error
    return _grain
