"""Encoder-decoder models, which read one sequence and write another.

`Seq2Seq` combines an `Encoder`, a `Bridge` and a `Decoder`. Each of the three modules can be used
alone. Teacher forcing, scheduled sampling, scoring, greedy decoding, sampling and beam search all
compute the same decoder step.

To train on pairs of sequences, make the fields for `seqjax.data.batches` with `pair_examples`, and
pass `pair_loss` and `pair_metrics` to `seqjax.training.fit`. `generate` returns the outputs of a
model for a list of sources.
"""

from seqjax.seq2seq._bridge import BRIDGES, Bridge
from seqjax.seq2seq._decoder import Decoder
from seqjax.seq2seq._encoder import Encoded, Encoder
from seqjax.seq2seq._generate import Generated, generate
from seqjax.seq2seq._model import Seq2Seq
from seqjax.seq2seq._pairs import PAIR_KEYS, pair_examples, pair_loss, pair_metrics
from seqjax.seq2seq._writer import DecoderState

__all__ = [
    "Seq2Seq",
    "Encoder",
    "Encoded",
    "BRIDGES",
    "Bridge",
    "Decoder",
    "DecoderState",
    "PAIR_KEYS",
    "pair_examples",
    "pair_loss",
    "pair_metrics",
    "generate",
    "Generated",
]
