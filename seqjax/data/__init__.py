"""Data preparation in NumPy: file readers, speech features, vocabularies and padded batches."""

from seqjax.data._audio import deltas, log_mel, mfcc, stacked_frames
from seqjax.data._batches import Batches, batches
from seqjax.data._buckets import bucket_boundaries
from seqjax.data._cache import cached_tokens
from seqjax.data._conll import read_conll
from seqjax.data._conllu import read_conllu
from seqjax.data._elapsed import elapsed
from seqjax.data._folders import class_files, installed_files
from seqjax.data._packing import pack, unpack
from seqjax.data._padding import Truncate, pad
from seqjax.data._piano_rolls import read_piano_rolls
from seqjax.data._pipelines import grain_batches
from seqjax.data._prefetch import prefetch
from seqjax.data._readers import read_lines, read_parallel, read_text
from seqjax.data._sound import read_audio
from seqjax.data._streams import Windows, stream_windows
from seqjax.data._subwords import Subwords
from seqjax.data._tables import Gaps, read_csv
from seqjax.data._tfds import tfds_source
from seqjax.data._ts import read_ts
from seqjax.data._vocabulary import Vocabulary

__all__ = [
    "Batches",
    "Gaps",
    "Subwords",
    "Truncate",
    "Vocabulary",
    "Windows",
    "batches",
    "bucket_boundaries",
    "cached_tokens",
    "class_files",
    "deltas",
    "elapsed",
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
