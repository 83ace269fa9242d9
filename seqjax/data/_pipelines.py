"""Batches in Grain, JAX's library of input pipelines."""

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
    """Return the examples of a Grain dataset in batches, each padded to the boundary of its bucket.

    An example goes to the bucket with the smallest boundary not below its length. A batch is made
    as soon as a bucket holds `batch_size` examples; the remaining examples are batched when the
    dataset ends. Batches have the form of those of `seqjax.data.batches`, which is for examples
    that fit in memory.

    The state of an iterator is small: examples that wait in a bucket are read again when it is
    restored. Put `mp_prefetch` before this function, not behind it, so that all processes read
    for the same buckets.

    Args:
      dataset: of examples, each a dict of arrays or numbers.
      batch_size: B.
      sequence_keys: the fields that run over time, as for `batches`; () for none.
      boundaries: increasing bucket lengths, as for `batches`; needed if a field runs over time.
      drop_remainder: leave out the examples that do not fill a batch of their bucket.
      pad_batch: fill up a short batch to B rows with zeros; False leaves it short.

    Returns:
      A `grain.IterDataset` of dicts. To read it epoch after epoch, repeat `dataset`.

    Raises:
      ImportError: grain is missing.
      TypeError: the dataset is not one of Grain; when it is read, an example is not a dict of
        numbers.
      ValueError: boundaries are missing or do not increase; when it is read, an example is longer
        than the last one, or lacks a field.

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
    """Return the module of Grain's subclasses, whose import needs Grain."""
    try:
        from seqjax.data import _grain
    except ImportError as error:
        raise ImportError(f'seqjax.data.{user} needs grain: pip install "seqjax[grain]"') from error
    return _grain
