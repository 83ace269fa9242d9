"""Layers with random parameters, and their comparison."""

from typing import Any

import jax
import numpy as np
from flax import nnx as flax_nnx

from seqjax import nn
from tests.nn.helpers import drawn

CHO = {"reset_after": False}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn": (nn.RNN, {"activation": "relu"}),
    "lstm": (nn.LSTM, {}),
    "projected": (nn.LSTM, {"proj_size": 2}),
    "gru": (nn.GRU, {}),
    "cho": (nn.GRU, CHO),
}


def make(kind: str, **options: Any) -> Any:
    build, own = KINDS[kind]
    return drawn(lambda: build(3, 4, rngs=flax_nnx.Rngs(0), **own, **options))


def parameters(layer: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(flax_nnx.state(layer, flax_nnx.Param))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same(a: Any, b: Any, atol: float = 0.0) -> None:
    a, b = parameters(a), parameters(b)
    assert a.keys() == b.keys() and a
    for key, value in a.items():
        np.testing.assert_allclose(value, b[key], 0, atol, err_msg=key, strict=True)
