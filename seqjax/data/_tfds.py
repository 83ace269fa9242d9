"""Reader of data sets of tensorflow-datasets, without TensorFlow."""

from collections.abc import Sequence
from typing import Any

from seqjax._files import FilePath, local_path

__all__ = ["tfds_source"]


def tfds_source(
    name: str, *, split: str, data_dir: FilePath | None = None
) -> Sequence[dict[str, Any]]:
    """Return the examples of a prepared data set. Each example is read when it is requested.

    The data set must have been prepared in the format array_record. Reading the data set does not
    need TensorFlow. Preparing the data set usually needs TensorFlow and is done once, on any
    machine:

        import tensorflow_datasets as tfds
        tfds.builder("NAME", file_format="array_record").download_and_prepare()

    Args:
      name: the name of the data set and its configuration, such as "ted_hrlr_translate/pt_to_en".
      split: the split, such as "train" or "train[:10%]".
      data_dir: the folder of prepared data sets; by default the folder that tensorflow-datasets
        uses.

    Returns:
      A sequence of dicts of NumPy values, where text is bytes. `grain.MapDataset.source` accepts
      this sequence. To use the sequence `rows` in `batches`, convert it to fields: `{name:
      [row[name] for row in rows] for name in rows[0]}`.

    Raises:
      ImportError: tensorflow-datasets or array_record is not installed.
      ValueError: the data set is unknown, was not prepared, or was prepared in another format.

    Example:
      >>> tfds_source("no_such_set", split="train")
      Traceback (most recent call last):
      ValueError: name: expected a data set prepared as array_record, got 'no_such_set' ...
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
    except Exception as error:  # errors of many classes mean that the data set is missing
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"name: expected a data set prepared as array_record, got {name!r} "
            f"(split {split!r}, {type(error).__name__}: {why}); prepare it once on a machine with "
            f"TensorFlow:\n\n    import tensorflow_datasets as tfds\n"
            f"    tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
        ) from error
    return source
