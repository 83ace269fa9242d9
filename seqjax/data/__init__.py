"""Data: from files and lists of sequences of different lengths to padded batches, in NumPy."""

from seqjax.data.audio import deltas, log_mel, mfcc, stacked_frames
from seqjax.data.batches import Batches, batches
from seqjax.data.buckets import bucket_boundaries
from seqjax.data.cache import cached_tokens
from seqjax.data.conll import read_conll
from seqjax.data.conllu import read_conllu
from seqjax.data.folders import class_files, installed_files
from seqjax.data.packing import pack, unpack
from seqjax.data.padding import pad
from seqjax.data.piano_rolls import read_piano_rolls
from seqjax.data.pipelines import grain_batches
from seqjax.data.prefetch import prefetch
from seqjax.data.readers import read_lines, read_parallel, read_text
from seqjax.data.sound import read_audio
from seqjax.data.streams import Windows, stream_windows
from seqjax.data.subwords import Subwords
from seqjax.data.tables import read_csv
from seqjax.data.tfds import tfds_source
from seqjax.data.ts import read_ts
from seqjax.data.vocabulary import Vocabulary

__all__ = [
    "Batches",
    "Subwords",
    "Vocabulary",
    "Windows",
    "batches",
    "bucket_boundaries",
    "cached_tokens",
    "class_files",
    "deltas",
    "grain_batches",
    "installed_files",
    "log_mel",
    "mfcc",
    "pack",
    "pad",
    "prefetch",
    "read_audio",
    "read_conll",
    "read_conllu",
    "read_csv",
    "read_lines",
    "read_parallel",
    "read_piano_rolls",
    "read_text",
    "read_ts",
    "stacked_frames",
    "stream_windows",
    "tfds_source",
    "unpack",
]
