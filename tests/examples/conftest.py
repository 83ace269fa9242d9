"""A check of every example that trains by `ScriptOptions.fit`."""

import importlib.util

import jax.numpy as jnp
import pytest
from flax import nnx


@pytest.fixture(autouse=True)
def dtype_reaches_the_layers(monkeypatch):
    """Every recurrent layer that an example trains has the dtype of its option `dtype`.

    A layer that does not get the option has no dtype, also if the option has its default.
    """
    if importlib.util.find_spec("tyro") is None:
        return
    from examples import script
    from seqjax import nn, seq2seq

    fit = script.ScriptOptions.fit

    def checked(self, model, *args, **options):
        for path, layer in nnx.iter_graph(model):
            if isinstance(layer, nn.Recurrent | seq2seq.Decoder):
                assert layer.dtype is not None, path
                assert jnp.dtype(layer.dtype) == self.dtype, path
        return fit(self, model, *args, **options)

    monkeypatch.setattr(script.ScriptOptions, "fit", checked)
