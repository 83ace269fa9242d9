"""Layers for Flax: parameters and regularisation around `seqjax.unroll`.

`RNN`, `LSTM`, `GRU` and, for any cell, `Recurrent` are NNX modules; `LinenRecurrent` is the
adapter for Linen. `Stateful` carries the state from call to call.
"""

from seqjax.nn._layer import Bidirectional, Direction, Layer, Sequences
from seqjax.nn._layers import GRU, LSTM, RNN
from seqjax.nn._linen import LinenRecurrent
from seqjax.nn._recurrent import Recurrent
from seqjax.nn._stateful import Carry, Stateful

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "Carry",
    "Direction",
    "Layer",
    "LinenRecurrent",
    "Recurrent",
    "Sequences",
    "Stateful",
]
