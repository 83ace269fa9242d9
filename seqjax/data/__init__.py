"""Data: from files and lists of sequences of different lengths to padded batches, in NumPy."""

from seqjax.data.audio import deltas, log_mel, mfcc, stacked_frames
from seqjax.data.batches import Batches, batches, bucket_boundaries
from seqjax.data.cache import cached_tokens
from seqjax.data.loader import Loader, prefetch
from seqjax.data.packing import pack, unpack
from seqjax.data.padding import pad
from seqjax.data.readers import (
    class_files,
    installed_files,
    read_conll,
    read_lines,
    read_parallel,
    read_text,
)
from seqjax.data.series import read_piano_rolls, read_wav
from seqjax.data.streams import Windows, stream_windows
from seqjax.data.subwords import Subwords
from seqjax.data.tables import read_csv
from seqjax.data.tfds import tfds_source
from seqjax.data.ts import read_ts
from seqjax.data.vocabulary import Vocabulary

__all__ = [
    "Batches",
    "Loader",
    "Subwords",
    "Vocabulary",
    "Windows",
    "batches",
    "bucket_boundaries",
    "cached_tokens",
    "class_files",
    "deltas",
    "installed_files",
    "log_mel",
    "mfcc",
    "pack",
    "pad",
    "prefetch",
    "read_conll",
    "read_csv",
    "read_lines",
    "read_parallel",
    "read_piano_rolls",
    "read_text",
    "read_ts",
    "read_wav",
    "stacked_frames",
    "stream_windows",
    "tfds_source",
    "unpack",
]
