"""Data: from lists of sequences of different lengths to padded batches, in NumPy alone."""

from seqjax.data.batches import Batches, batches, bucket_boundaries, pad
from seqjax.data.vocabulary import Vocabulary

__all__ = ["Batches", "Vocabulary", "batches", "bucket_boundaries", "pad"]
