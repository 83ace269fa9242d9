"""Encoder-decoder models: read one sequence, write another.

`Seq2Seq` joins an `Encoder`, a bridge and a `Decoder`; each can be used alone. All ways to run the
decoder (teacher forcing, scheduled sampling, scoring, greedy, sampling, beam search) take the same
`Decoder.step`.

To train on pairs of sequences, `pair_examples` makes the fields for `seqjax.data.batches`,
`pair_loss` and `pair_metrics` are what `seqjax.training.fit` takes, and `generate` gives the
outputs for a list of sources.
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
