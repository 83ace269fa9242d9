"""Layers for Flax: parameters and regularisation around `seqjax.unroll`.

`RNN`, `LSTM`, `GRU` and, for any cell, `Recurrent` are NNX modules; `seqjax.nn.linen` has the
adapter for Linen.
"""

from seqjax.nn.layer import Bidirectional, Direction, Layer
from seqjax.nn.layers import GRU, LSTM, RNN
from seqjax.nn.recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN", "Bidirectional", "Direction", "Layer", "Recurrent"]
