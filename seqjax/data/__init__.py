"""Data: from lists of sequences of different lengths to padded batches, in NumPy alone."""

from seqjax.data.batches import Batches, batches, bucket_boundaries, pad

__all__ = ["Batches", "batches", "bucket_boundaries", "pad"]
