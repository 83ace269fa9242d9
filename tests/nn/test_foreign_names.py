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
        (nn.LSTM, "widgets", r"LSTM: .*'widgets'$"),
    ],
)
def test_names_of_other_libraries(layer, name, message):
    with pytest.raises(TypeError, match=message):
        layer(3, 8, **{name: True}, rngs=nnx.Rngs(0))


def test_names_of_our_own_go_to_cell_and_layer():
    layer = nn.RNN(3, 8, use_bias=False, activation="relu", num_layers=2, rngs=nnx.Rngs(0))
    cell: Any = layer.cell
    assert cell.activation == "relu" and cell.use_bias is False
    assert layer.num_layers == 2
    with pytest.raises(TypeError, match="rngs"):
        nn.RNN(3, 8)
