"""Sets of tensorflow-datasets as sources of examples, without TensorFlow."""

from collections.abc import Sequence
from typing import Any

from seqjax._files import FilePath, local_path

__all__ = ["tfds_source"]


def tfds_source(
    name: str, *, split: str, data_dir: FilePath | None = None
) -> Sequence[dict[str, Any]]:
    """Return the examples of a prepared set, each read when it is requested.

    Reading a set that was prepared as array_record does not need TensorFlow. Preparing most sets
    needs it, once and on any machine:

        import tensorflow_datasets as tfds
        tfds.builder("NAME", file_format="array_record").download_and_prepare()

    Args:
      name: of the set and its configuration, such as "ted_hrlr_translate/pt_to_en".
      split: such as "train" or "train[:10%]".
      data_dir: where prepared sets are; tensorflow-datasets' own folder if None.

    Returns:
      A sequence of dicts of NumPy values; text is bytes. `grain.MapDataset.source` takes it; for
      `batches` turn it into fields: `{name: [row[name] for row in rows] for name in rows[0]}`.

    Raises:
      ImportError: tensorflow-datasets or array_record is missing.
      ValueError: the set is not known, is not there, or was prepared in another format.

    Example:
      >>> tfds_source("no_such_set", split="train")
      Traceback (most recent call last):
      ValueError: name: expected a set that was prepared as array_record, got 'no_such_set' ...
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            'seqjax.data.tfds_source needs tensorflow-datasets: pip install "seqjax[tfds]"'
        ) from error
    folder = None if data_dir is None else str(local_path("data_dir", data_dir))
    try:
        source: Sequence[dict[str, Any]] = tfds.data_source(
            name, split=split, data_dir=folder, download=False
        )
    except Exception as error:  # errors of many classes mean that the set is missing
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"name: expected a set that was prepared as array_record, got {name!r} "
            f"(split {split!r}, {type(error).__name__}: {why}). Prepare it once, where "
            f"TensorFlow is installed:\n\n    import tensorflow_datasets as tfds\n"
            f"    tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
        ) from error
    return source
