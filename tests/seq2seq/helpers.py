"""Models that several tests of encoder-decoders use."""

from typing import Any

from flax import nnx

from seqjax import seq2seq


def translator(**options: Any) -> seq2seq.Seq2Seq:
    """A small model of 7 source and 9 target tokens; options replace its own."""
    small = {"source_vocabulary": 7, "target_vocabulary": 9, "embed_size": 4, "hidden_size": 5}
    return seq2seq.Seq2Seq(**{**small, "rngs": nnx.Rngs(0), **options})
