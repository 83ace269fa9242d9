"""Recurrent cells: equations as pure functions, one file a family.

`CELLS` is the registry. A cell that stands in it gets masks, resets, every kernel, the Flax layer
and the conformance tests with no further edit.
"""

import dataclasses
from typing import Any

from seqjax import checks
from seqjax.cells import _base, initializers, ops, stepping
from seqjax.cells._base import Cell, DenseCell, Role, compute_dtype
from seqjax.cells._conv_lstm import ConvLSTM1D, ConvLSTM2D
from seqjax.cells._elman import Elman, ElmanParams, ElmanReadout, ElmanReadoutParams
from seqjax.cells._gru import GRU, MGU, ChoGRU, ChoGRUParams, GRUParams, MGUParams
from seqjax.cells._indrnn import IndRNN, IndRNNParams
from seqjax.cells._layer_norm_lstm import LayerNormLSTM, LayerNormLSTMParams
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
    "Role",
    "compute_dtype",
    "initializers",
    "make_cell",
    "ops",
    "stepping",
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


def make_cell(
    kind: str | type[Cell[Any, Any]] | Cell[Any, Any],
    input_size: int,
    hidden_size: int,
    **options: Any,
) -> Cell[Any, Any]:
    """Return a cell that reads vectors, of the sizes that are asked for.

    Args:
      kind: a name in `CELLS`, such as "gru"; or a class of cells, such as one of your own; or a
        cell, whose other options are kept.
      input_size: I.
      hidden_size: H.
      **options: of its class.

    Raises:
      TypeError: something else, or an option that the class does not have.
      ValueError: no such name, or a cell that does not read vectors, such as one for images.

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
            f"cell: expected one that reads vectors, got {type(cell).__name__}, which reads "
            f"{cell.input_shape}"
        )
    if not _base.is_shape(cell.output_shape):
        raise ValueError(
            f"cell: expected one whose output is one array, got {type(cell).__name__} with "
            f"{cell.output_shape}"
        )
    return cell
