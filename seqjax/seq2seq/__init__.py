"""Encoder-decoder models: read one sequence, write another.

`Seq2Seq` joins an `Encoder`, a bridge and a `Decoder`; each can be used alone. All ways to run the
decoder (teacher forcing, scheduled sampling, scoring, greedy, sampling, beam search) take the same
`Decoder.step`.
"""

from seqjax.seq2seq.bridge import BRIDGES, Bridge
from seqjax.seq2seq.decoder import Decoder, DecoderState
from seqjax.seq2seq.encoder import Encoded, Encoder
from seqjax.seq2seq.model import Seq2Seq

__all__ = ["BRIDGES", "Bridge", "Decoder", "DecoderState", "Encoded", "Encoder", "Seq2Seq"]
