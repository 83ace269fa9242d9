"""Layers with other libraries' weights: outputs, and the gradients by *their* arrays, to 1e-5.

`load` is differentiated along with the layer, so gradients too are compared in the other library's
names. Numbers of Keras, Haiku and Equinox are in golden files, those of PyTorch in the files of
`tests/test_pytorch.py`; Flax and JAX's reference of cuDNN are run. Where the others are installed,
they are run as well, on what `dump` gives.
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.interop import pytorch
from tests.interop import peers
from tests.nn.helpers import jit

FOLDER = Path(__file__).resolve().parent / "golden"
TORCH = Path(__file__).resolve().parent.parent / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def check(found: Any, expected: Any, what: str = "") -> None:
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5, err_msg=what, strict=True)


def check_all(found: Any, outputs: Any, gradients: Any) -> None:
    check(found[0], outputs, "outputs")
    assert found[1].keys() == gradients.keys()
    for key, value in gradients.items():
        assert value.any()
        check(found[1][key], value, key)


@pytest.mark.quick("keras_gru", "haiku_lstm_stacked", "equinox_lstm", "keras_lstm_bidirectional")
@pytest.mark.parametrize("name", peers.GOLDEN)
def test_golden(name):
    file = golden(name)
    weights = {key: file[key][0] for key in peers.CASES[name].shapes}
    assert all(value.all() for value in weights.values())
    gradients = {key: value[1] for key, value in file.items() if key != "output"}
    found = peers.value_and_gradients(peers.ours(name), name, weights)
    check_all(found, file["output"][0], gradients)


@pytest.mark.quick("linen_gru", "nnx_lstm_bidirectional")
@pytest.mark.parametrize("name", peers.LIVE)
def test_flax_and_cudnn(name):
    weights = peers.draw(name)
    expected = peers.value_and_gradients(peers.CASES[name].peer(), name, weights)
    check_all(peers.value_and_gradients(peers.ours(name), name, weights), *expected)


@pytest.mark.quick("gru_no_bias", "lstm_bidirectional_lengths")
@pytest.mark.parametrize("path", sorted(TORCH.glob("*.npz")), ids=lambda path: path.stem)
def test_pytorch(path):
    """The golden files of PyTorch, without their states: outputs follow by their own recurrence."""
    with np.load(path, allow_pickle=False) as file:
        config = json.loads(str(file["config"]))
        weights = {key: file[key][0] for key in file if key.startswith(("weight", "bias"))}
        arrays = dict(file)
    plain = config["class"] == "RNN"
    activation = {"activation": config.get("nonlinearity", "tanh")} if plain else {}
    options = {"lengths": arrays["lengths"]} if "lengths" in arrays else {}

    def loss(weights: Any, xs: Any) -> Any:
        layer = pytorch.load(
            {f"a.b.{key}": value for key, value in weights.items()}, "a.b", **activation
        )
        start = _states(layer, arrays, 0, "0")
        outputs, state = layer(xs, initial_state=start, **options)
        terms = jax.tree.map(
            jnp.vdot, (outputs, state), (arrays["output"][1], _states(layer, arrays, 1, "n"))
        )
        return sum(jax.tree.leaves(terms)), outputs

    run = jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (d_weights, d_xs), outputs = run(weights, arrays["input"][0])
    found = (outputs, {**d_weights, "input": d_xs})
    check_all(found, arrays["output"][0], {key: arrays[key][1] for key in [*weights, "input"]})


def _states(layer: Any, arrays: Any, which: int, end: str) -> Any:
    """The states of a golden file as a layer takes them."""
    like = jax.eval_shape(lambda: layer.initial_state())
    h = iter(arrays[f"h_{end}"][which])
    c = iter(arrays[f"c_{end}"][which]) if f"c_{end}" in arrays else None
    # Leaves come as h, c, h, c … of each direction.
    order = jax.tree.leaves(like)
    leaves = [next(c) if c is not None and index % 2 else next(h) for index in range(len(order))]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def require(library: str) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip(library)


@pytest.mark.parametrize("name", peers.GOLDEN)
def test_library_computes_the_same_with_what_dump_gives(name):
    case, file = peers.CASES[name], golden(name)
    require(case.library)
    weights = {key: file[key][0] for key in case.shapes}
    layer = peers.MODULES[case.library].load(peers.SOURCES[case.library](weights), **case.options)
    back = peers.dumped(name, layer)
    if name == "haiku_rnn_single_bias":
        back = {key: value for key, value in back.items() if key in weights}
    assert jax.tree.map(np.shape, back) == case.shapes
    outputs = jit(case.peer())(back, file["input"][0])
    check(np.asarray(outputs), file["output"][0])


def test_golden_files_are_all_used_and_small():
    paths = sorted(FOLDER.glob("*.npz"))
    assert [path.stem for path in paths] == sorted(peers.GOLDEN)
    assert sum(path.stat().st_size for path in paths) < 100_000
