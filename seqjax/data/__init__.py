"""Data: from files and lists of sequences of different lengths to padded batches, in NumPy."""

from seqjax.data.batches import Batches, batches, bucket_boundaries
from seqjax.data.padding import pad
from seqjax.data.subwords import Subwords
from seqjax.data.tfds import tfds_source
from seqjax.data.vocabulary import Vocabulary

__all__ = [
    "Batches",
    "Subwords",
    "Vocabulary",
    "batches",
    "bucket_boundaries",
    "pad",
    "tfds_source",
]
