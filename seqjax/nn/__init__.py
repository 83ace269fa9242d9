"""Layers for Flax: parameters and regularisation around `seqjax.unroll`.

`RNN`, `LSTM`, `GRU` and, for any cell, `Recurrent` are NNX modules; `seqjax.nn.linen` has the
adapter for Linen. `Stateful` carries the state from call to call.
"""

from seqjax.nn.layer import Bidirectional, Direction, Layer
from seqjax.nn.layers import GRU, LSTM, RNN
from seqjax.nn.recurrent import Recurrent
from seqjax.nn.stateful import Carry, Stateful

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "Carry",
    "Direction",
    "Layer",
    "Recurrent",
    "Stateful",
]
