"""Recurrent cells: equations as pure functions, one file a family.

`CELLS` is the registry. A cell that stands in it gets masks, resets, every kernel, the Flax layer
and the conformance tests with no further edit.
"""

from typing import Any

from seqjax.cells import initializers
from seqjax.cells.base import Cell, DenseCell
from seqjax.cells.conv_lstm import ConvLSTM1D, ConvLSTM2D
from seqjax.cells.elman import Elman, ElmanParams, ElmanReadout, ElmanReadoutParams
from seqjax.cells.gru import GRU, MGU, ChoGRU, ChoGRUParams, GRUParams, MGUParams
from seqjax.cells.indrnn import IndRNN, IndRNNParams
from seqjax.cells.layer_norm_lstm import LayerNormLSTM, LayerNormLSTMParams
from seqjax.cells.lstm import (
    LSTM,
    CoupledLSTM,
    LSTMParams,
    LSTMState,
    PeepholeLSTM,
    PeepholeLSTMParams,
    ProjectedLSTM,
    ProjectedLSTMParams,
)
from seqjax.cells.minimal import LinearCell, MinGRU, MinLSTM, MinParams

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "MGU",
    "Cell",
    "ChoGRU",
    "ChoGRUParams",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "CoupledLSTM",
    "DenseCell",
    "Elman",
    "ElmanParams",
    "ElmanReadout",
    "ElmanReadoutParams",
    "GRUParams",
    "IndRNN",
    "IndRNNParams",
    "LSTMParams",
    "LSTMState",
    "LayerNormLSTM",
    "LayerNormLSTMParams",
    "LinearCell",
    "MGUParams",
    "MinGRU",
    "MinLSTM",
    "MinParams",
    "PeepholeLSTM",
    "PeepholeLSTMParams",
    "ProjectedLSTM",
    "ProjectedLSTMParams",
    "initializers",
    "make_cell",
]

CELLS: dict[str, type[Cell[Any, Any]]] = {
    "elman": Elman,
    "elman_readout": ElmanReadout,
    "lstm": LSTM,
    "peephole_lstm": PeepholeLSTM,
    "coupled_lstm": CoupledLSTM,
    "projected_lstm": ProjectedLSTM,
    "layer_norm_lstm": LayerNormLSTM,
    "gru": GRU,
    "cho_gru": ChoGRU,
    "mgu": MGU,
    "indrnn": IndRNN,
    "min_gru": MinGRU,
    "min_lstm": MinLSTM,
    "conv_lstm_1d": ConvLSTM1D,
    "conv_lstm_2d": ConvLSTM2D,
}
"""Every cell by name; each builds from `Cls(input_size=…, hidden_size=…)`."""


def make_cell(name: str, input_size: int, hidden_size: int, **options: Any) -> Cell[Any, Any]:
    """A cell that reads vectors, by its name in `CELLS`.

    Args:
      name: such as "gru".
      input_size: I.
      hidden_size: H.
      **options: of its class.

    Raises:
      ValueError: no such name, or that of a cell which reads images.

    Example:
      >>> make_cell("elman", 3, 5, activation="relu").activation
      'relu'
    """
    known = [key for key, kind in CELLS.items() if kind(1, 1).input_shape == (1,)]
    if name not in known:
        raise ValueError(f"cell: expected one of {', '.join(known)}, got {name!r}")
    return CELLS[name](input_size, hidden_size, **options)
