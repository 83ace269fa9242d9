"""Layers for Flax, which add parameters and regularisation to the cells.

`RNN`, `LSTM`, `GRU`, `GRUD`, `CfC`, `LRU`, `RGLRU`, `S5`, `SLSTM`, `SRU` and `Recurrent` (for any
cell) are NNX modules. `LinenRecurrent` is a Linen module for any cell. `LinenScanned` is a Linen
module for the rollouts of a policy. `Stateful` wraps a layer and carries the state from one call to
the next.

`LRUBlock`, `S5Block`, `SRUBlock`, `GriffinBlock` and `SLSTMBlock` are the residual blocks of
papers, and `ResidualBlock` is their base class. `CausalConv` is a causal convolution.

`from_nnx` and `from_linen` return cells that call a cell of Flax. `as_nnx_cell` returns an NNX cell
that runs a cell of this package.
"""

from seqjax.nn._as_nnx import as_nnx_cell
from seqjax.nn._blocks import GriffinBlock, LRUBlock, S5Block, SLSTMBlock, SRUBlock
from seqjax.nn._flax_cells import from_linen, from_nnx
from seqjax.nn._layer import Bidirectional, Direction, Layer, Sequences
from seqjax.nn._layers import GRU, GRUD, LRU, LSTM, RGLRU, RNN, S5, SLSTM, SRU, CfC
from seqjax.nn._linen import LinenRecurrent, LinenScanned
from seqjax.nn._recurrent import Recurrent
from seqjax.nn._residual import BlockState, ResidualBlock
from seqjax.nn._stateful import Carry, Stateful
from seqjax.nn._temporal_conv import CausalConv

__all__ = [
    "GRU",
    "GRUD",
    "LRU",
    "LSTM",
    "RGLRU",
    "RNN",
    "S5",
    "SLSTM",
    "SRU",
    "Bidirectional",
    "BlockState",
    "Carry",
    "CausalConv",
    "CfC",
    "Direction",
    "GriffinBlock",
    "LRUBlock",
    "Layer",
    "LinenRecurrent",
    "LinenScanned",
    "Recurrent",
    "ResidualBlock",
    "S5Block",
    "SLSTMBlock",
    "SRUBlock",
    "Sequences",
    "Stateful",
    "as_nnx_cell",
    "from_linen",
    "from_nnx",
]
