"""Recurrent cells: equations as pure functions, one file per family of cells.

`CELLS` is the registry. Masks, resets, kernels, the Flax layers and the conformance tests work for
every registered cell without further code.
"""

import dataclasses
from typing import Any

from seqjax import checks
from seqjax.cells import _base, initializers, ops, stepping
from seqjax.cells._base import Cell, DenseCell, Role, compute_dtype
from seqjax.cells._cfc import CfC, CfCParams, MixedCfC, MixedCfCParams
from seqjax.cells._conv_lstm import ConvLSTM1D, ConvLSTM2D
from seqjax.cells._decay import Decay, DecayParams
from seqjax.cells._elman import Elman, ElmanParams, ElmanReadout, ElmanReadoutParams
from seqjax.cells._gru import GRU, MGU, ChoGRU, ChoGRUParams, GRUParams, MGUParams
from seqjax.cells._gru_d import GRUD, GRUDParams, GRUDState
from seqjax.cells._indrnn import IndRNN, IndRNNParams
from seqjax.cells._layer_norm_lstm import LayerNormLSTM, LayerNormLSTMParams
from seqjax.cells._lru import LRU, LRUParams
from seqjax.cells._lstm import (
    LSTM,
    CoupledLSTM,
    LSTMParams,
    LSTMState,
    PeepholeLSTM,
    PeepholeLSTMParams,
    ProjectedLSTM,
    ProjectedLSTMParams,
)
from seqjax.cells._minimal import LinearCell, MinGRU, MinLSTM, MinParams
from seqjax.cells._rglru import RGLRU, RGLRUParams
from seqjax.cells._s5 import S5, S5Params
from seqjax.cells._slstm import SLSTM, SLSTMParams, SLSTMState
from seqjax.cells._sru import SRU, SRUParams

__all__ = [
    "CELLS",
    "GRU",
    "LRU",
    "LSTM",
    "MGU",
    "RGLRU",
    "S5",
    "SLSTM",
    "SRU",
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
    "LRUParams",
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
    "RGLRUParams",
    "Role",
    "S5Params",
    "SLSTMParams",
    "SLSTMState",
    "SRUParams",
    "compute_dtype",
    "initializers",
    "make_cell",
    "ops",
    "stepping",
    "CfC",
    "CfCParams",
    "MixedCfC",
    "MixedCfCParams",
    "Decay",
    "DecayParams",
    "GRUD",
    "GRUDParams",
    "GRUDState",
]

CELLS: dict[str, type[Cell[Any, Any]]] = {
    "elman": Elman,
    "elman_readout": ElmanReadout,
    "lstm": LSTM,
    "peephole_lstm": PeepholeLSTM,
    "coupled_lstm": CoupledLSTM,
    "projected_lstm": ProjectedLSTM,
    "layer_norm_lstm": LayerNormLSTM,
    "slstm": SLSTM,
    "gru": GRU,
    "cho_gru": ChoGRU,
    "mgu": MGU,
    "gru_d": GRUD,
    "cfc": CfC,
    "mixed_cfc": MixedCfC,
    "indrnn": IndRNN,
    "lru": LRU,
    "rg_lru": RGLRU,
    "min_gru": MinGRU,
    "min_lstm": MinLSTM,
    "s5": S5,
    "sru": SRU,
    "conv_lstm_1d": ConvLSTM1D,
    "conv_lstm_2d": ConvLSTM2D,
}
"""The cells by name. Each class can be called as `Cls(input_size=…, hidden_size=…)`."""


def make_cell(
    kind: str | type[Cell[Any, Any]] | Cell[Any, Any],
    input_size: int,
    hidden_size: int,
    **options: Any,
) -> Cell[Any, Any]:
    """Return a cell that reads vectors and has the given sizes.

    Args:
      kind: a name in `CELLS` (such as "gru"), a cell class (also one of your own), or a cell. If
        `kind` is a cell, the new cell has the same options.
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.
      **options: other options of the cell's class.

    Raises:
      TypeError: `kind` is not a name, a cell class or a cell, or the cell's class does not have
        one of the options.
      ValueError: `CELLS` does not contain the name, the cell does not read vectors (for example,
        it reads images) or it also reads the elapsed time, or its output is not one array.

    Example:
      >>> make_cell("elman", 3, 5, activation="relu").activation
      'relu'
      >>> make_cell(LSTM(1, 1, forget_bias=1.0), 3, 5).forget_bias
      1.0
    """
    if isinstance(kind, str):
        known = [key for key, made in CELLS.items() if made(1, 1).input_shape == (1,)]
        if kind not in known:
            hint = checks.nearest(kind, known)
            raise ValueError(f"cell: expected one of {', '.join(known)}, got {kind!r}{hint}")
        kind = CELLS[kind]
    if getattr(kind, "reads_elapsed", False):
        name = kind.__name__ if isinstance(kind, type) else type(kind).__name__
        raise ValueError(f"cell: expected a cell that reads no time, got {name}")
    if options and (isinstance(kind, Cell) or (isinstance(kind, type) and issubclass(kind, Cell))):
        taker = kind if isinstance(kind, type) else type(kind)
        checks.require_options(taker.__name__, options, taker)
    if isinstance(kind, Cell):
        cell = dataclasses.replace(kind, input_size=input_size, hidden_size=hidden_size, **options)
    elif isinstance(kind, type) and issubclass(kind, Cell):
        cell = kind(input_size, hidden_size, **options)
    else:
        raise TypeError(f"cell: expected a name in CELLS, a cell or its class, got {kind!r}")
    if cell.input_shape != (cell.input_size,):
        raise ValueError(
            f"cell: expected a cell that reads vectors, got {type(cell).__name__}, which reads "
            f"{cell.input_shape}"
        )
    if not _base.is_shape(cell.output_shape):
        raise ValueError(
            f"cell: expected a cell whose output is one array, got {type(cell).__name__} with the "
            f"output shapes {cell.output_shape}"
        )
    return cell
