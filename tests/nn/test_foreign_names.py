"""Options by the names that other libraries give them: refused, with their names here."""

from typing import Any

import pytest
from flax import nnx

from seqjax import nn


@pytest.mark.parametrize(
    ("layer", "name", "message"),
    [
        (nn.LSTM, "bias", r"LSTM: .*'bias'; use use_bias$"),
        (nn.RNN, "nonlinearity", r"RNN: .*'nonlinearity'; use activation$"),
        (nn.GRU, "batch_first", r"GRU: .*'batch_first'; use time_major"),
        (nn.GRU, "return_state", r"GRU: .*'return_state'; a call always returns the state"),
        (nn.LSTM, "recurrent_activation", r"LSTM: .*sigmoid"),
        (nn.LSTM, "units", r"LSTM: .*hidden_size"),
        (nn.LSTM, "zero_output_for_mask", r"LSTM: .* always zero$"),
        (nn.LSTM, "unit_forget_bias", r"LSTM: .*use forget_bias=1.0"),
        (nn.LSTM, "activation", r"LSTM: .*'activation'; the activation is tanh"),
        (nn.GriffinBlock, "bias", r"GriffinBlock: .*'bias'; use use_bias$"),
        (nn.LSTM, "widgets", r"LSTM: .*'widgets'$"),
    ],
)
def test_names_of_other_libraries(layer, name, message):
    with pytest.raises(TypeError, match=message):
        layer(3, 8, **{name: True}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("theirs", "ours"), [("ave", "mean"), (None, "none")])
def test_names_of_merge_modes_in_keras(theirs, ours):
    message = rf"merge_mode: expected one of concat, .*; got {theirs!r}, which is {ours!r} here"
    with pytest.raises(ValueError, match=message):
        nn.LSTM(3, 8, bidirectional=True, merge_mode=theirs, rngs=nnx.Rngs(0))


def test_names_of_our_own_go_to_cell_and_layer():
    layer = nn.RNN(3, 8, use_bias=False, activation="relu", num_layers=2, rngs=nnx.Rngs(0))
    cell: Any = layer.cell
    assert cell.activation == "relu" and cell.use_bias is False
    assert layer.num_layers == 2
    with pytest.raises(TypeError, match="rngs"):
        nn.RNN(3, 8)
