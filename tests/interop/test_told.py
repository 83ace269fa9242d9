"""What sources tell besides weights: honoured or refused, and not contradicted."""

import json
import os
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx

from seqjax import cells, nn
from seqjax.interop import cudnn, equinox, haiku, keras, linen, nnx, pytorch
from tests.interop.layers import CHO, assert_same, make


@pytest.fixture(scope="module")
def library():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("h5py")
    return pytest.importorskip("keras")


def relu(x: Any) -> Any:
    """A user's function with the name of a standard one."""
    return jnp.maximum(x, 0.1 * x)


def tanh(x: Any) -> Any:
    return 1.7159 * jnp.tanh(2 / 3 * x)


def sigmoid(x: Any) -> Any:
    return 0 * x


def rngs() -> flax_nnx.Rngs:
    return flax_nnx.Rngs(0)


def activation_of(layer: Any) -> Any:
    return layer.cell.activation


def saved(library: Any, path: Any, *layers: Any) -> Any:
    """A model of layers, saved."""
    model = library.Sequential([library.Input((None, 3)), *layers])
    model.save(path)
    return model


def test_files_of_keras_tell_what_layers_do(library, tmp_path):
    l, path = library.layers, tmp_path / "model.keras"
    cho = l.GRU(4, reset_after=False, use_bias=False, return_sequences=True)
    inner = library.Sequential(
        [library.Input((None, 2)), l.SimpleRNN(4, "linear", return_sequences=True)]
    )
    both = l.Bidirectional(l.SimpleRNN(2, "relu", return_sequences=True), merge_mode="ave")
    deep = l.SimpleRNN(2, "sigmoid", return_sequences=True)
    xs = library.Input((None, 2))
    function = library.Model(xs, l.Dense(2)(deep(inner(xs))))
    saved(library, path, cho, l.SimpleRNN(4, return_sequences=True), both, function)
    # Keras's own names in the file, whose counting is not the layers' names.
    for prefix, layer in {
        "layers/gru": cho,
        "layers/bidirectional": both,
        "layers/functional/layers/simple_rnn": deep,
        "layers/functional/layers/sequential/layers/simple_rnn/": inner.layers[0],
    }.items():
        found = keras.load(path, prefix)
        assert_same(found, keras.load(layer))
        assert found.cell == keras.load(layer).cell
    assert keras.load(path, "layers/gru").cell == cells.ChoGRU(3, 4, use_bias=False)
    found = keras.load(path, "layers/bidirectional")
    assert (found.cell, found.merge_mode) == (cells.Elman(4, 2, activation="relu"), "mean")
    assert activation_of(keras.load(path, "layers/simple_rnn")) == "tanh"
    with pytest.raises(ValueError, match="merge_mode: expected 'mean' as in source, got 'sum'"):
        keras.load(path, "layers/bidirectional", merge_mode="sum")
    with pytest.raises(ValueError, match="reset_after: expected False as in source, got True"):
        keras.load(path, "layers/gru", reset_after=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, "expected activation='tanh' of a LSTM, got 'relu'"),
        ({"recurrent_activation": "hard_sigmoid"}, "expected recurrent_activation='sigmoid'"),
        ({"go_backwards": True}, "expected go_backwards=False of a LSTM, got True"),
    ],
)
def test_files_of_keras_with_what_ours_do_not(library, tmp_path, options, message):
    l, path = library.layers, tmp_path / "model.keras"
    saved(library, path, l.LSTM(4, return_sequences=True), l.LSTM(2, **options))
    assert keras.load(path, "layers/lstm").cell == cells.LSTM(3, 4)
    with pytest.raises(ValueError, match=f"source: {message}"):
        keras.load(path, "layers/lstm_1")


def test_files_of_keras_that_do_not_tell(library, tmp_path):
    l, path = library.layers, tmp_path / "model.keras"

    class Model(library.Model):  # type: ignore[name-defined, misc, unused-ignore]
        def __init__(self):
            super().__init__()
            self.encoder = l.LSTM(4)

        def call(self, xs):
            return self.encoder(xs)

    model = Model()
    model(np.ones((2, 5, 3), np.float32))
    model.save(path)
    assert len(keras.read_weights(path, "encoder")) == 3
    with pytest.raises(ValueError, match=r"prefix: .*'encoder'; pass the Keras layer itself, or"):
        keras.load(path, "encoder")
    model.save_weights(tmp_path / "model.weights.h5")
    assert_same(keras.load(tmp_path / "model.weights.h5", "encoder"), keras.load(model.encoder))

    saved(library, path, l.LSTM(4))
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    config["config"]["layers"][-1]["registered_name"] = "mine>LSTM"
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, json.dumps(config) if name == "config.json" else body)
    with pytest.raises(ValueError, match=r"source: expected one of SimpleRNN, .* 'mine>LSTM'"):
        keras.load(path, "layers/lstm")


def test_options_against_a_layer_of_keras(library):
    layer = library.layers.SimpleRNN(4, "relu")
    with pytest.raises(ValueError, match=r"source\[0\]: .* not built; call it"):
        keras.load(layer)
    layer.build((None, 5, 3))
    assert activation_of(keras.load(layer, activation="relu")) == "relu"
    with pytest.raises(ValueError, match="activation: expected 'relu' as in source, got 'tanh'"):
        keras.load(layer, activation="tanh")


def test_functions_of_keras_are_not_recognised_by_name(library):
    l, ops = library.layers, library.ops
    for layer, name in (
        (l.SimpleRNN(4, activation=relu), "activation"),
        (l.RNN(l.SimpleRNNCell(4, activation=relu)), "activation"),
        (l.RNN([l.LSTMCell(4), l.LSTMCell(4, activation=tanh)]), "activation"),
        (l.GRU(4, recurrent_activation=sigmoid), "recurrent_activation"),
        (
            l.Bidirectional(l.GRU(4), backward_layer=l.GRU(4, activation=tanh, go_backwards=True)),
            "activation",
        ),
    ):
        layer.build((None, 5, 3))
        with pytest.raises(ValueError, match=f"source: expected {name} to be a name or function"):
            keras.load(layer)
    for function in (ops.relu, library.activations.relu, "relu"):
        layer = l.SimpleRNN(4, activation=function)
        layer.build((None, 5, 3))
        assert activation_of(keras.load(layer)) == "relu"


def nnx_rnn(cell: Any = flax_nnx.GRUCell, inputs: int = 3, **options: Any) -> Any:
    own = {name: options.pop(name) for name in ("activation_fn", "carry_init") if name in options}
    return flax_nnx.RNN(cell(inputs, 4, rngs=rngs(), **own), rngs=rngs(), **options)


SIMPLE = flax_nnx.SimpleCell


@pytest.mark.parametrize(("merge_fn", "mode"), [(jnp.add, "sum"), (jnp.multiply, "mul")])
def test_directions_of_nnx(merge_fn, mode):
    sides = [nnx_rnn(SIMPLE, activation_fn=jax.nn.relu) for _ in range(2)]
    # A direction's own `reverse` and layout mean nothing in a pair.
    sides[0].reverse = sides[1].time_major = True
    peer = flax_nnx.Bidirectional(*sides, merge_fn=merge_fn, time_major=True, rngs=rngs())
    layer = nnx.load(peer)
    assert (layer.merge_mode, layer.time_major, activation_of(layer)) == (mode, True, "relu")
    xs = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(xs).outputs, peer(jnp.asarray(xs)), 1e-5, 1e-5)
    with pytest.raises(ValueError, match=f"merge_mode: expected '{mode}' as in source"):
        nnx.load(peer, merge_mode="concat")
    assert not nnx.load(peer, time_major=False).time_major


def test_a_pair_of_modules_of_nnx():
    forward, backward = nnx_rnn(), nnx_rnn(reverse=True, keep_order=True)
    layer = nnx.load(nn.Bidirectional(forward, backward))
    xs = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    expected = np.concatenate([forward(xs), backward(xs)], -1)
    np.testing.assert_allclose(layer(xs).outputs, expected, 1e-5, 1e-5)
    with pytest.raises(ValueError, match=r"source: .* got reverse=True, keep_order=True"):
        nnx.load(nn.Bidirectional(backward, backward))
    backward.keep_order = False
    with pytest.raises(ValueError, match=r"source: .* got reverse=True, keep_order=False"):
        nnx.load(nn.Bidirectional(forward, backward))


MODULES_REFUSED = {
    "reverse": (lambda: nnx_rnn(reverse=True), "got reverse=True, keep_order=False"),
    "in order": (lambda: nnx_rnn(reverse=True, keep_order=True), "got reverse=True, keep_order="),
    "merge": (
        lambda: flax_nnx.Bidirectional(nnx_rnn(), nnx_rnn(), merge_fn=jnp.subtract),
        "expected merge_fn to be",
    ),
    "directions": (
        lambda: flax_nnx.Bidirectional(nnx_rnn(SIMPLE), nnx_rnn(SIMPLE, activation_fn=jax.nn.relu)),
        "expected activation='tanh' in all layers and directions, got 'relu'",
    ),
    "layers": (
        lambda: [nnx_rnn(SIMPLE), nnx_rnn(SIMPLE, 4, activation_fn=jax.nn.relu)],
        "expected activation='tanh' in all layers and directions, got 'relu'",
    ),
    "start": (lambda: nnx_rnn(carry_init=jax.nn.initializers.ones), "expected carry_init to be"),
    "own activation": (
        lambda: nnx_rnn(flax_nnx.OptimizedLSTMCell, activation_fn=tanh),
        "expected activation_fn to be tanh, got <function tanh",
    ),
    "own cell": (lambda: type("Mine", (SIMPLE,), {})(3, 4, rngs=rngs()), "got Mine"),
}


@pytest.mark.parametrize("function", [relu, tanh, jax.nn.relu, jax.nn.tanh, jax.lax.tanh])
def test_functions_of_nnx_are_not_recognised_by_name(function):
    peer = nnx_rnn(SIMPLE, activation_fn=function)
    layer = nnx.load(peer)
    name = None if function in (relu, tanh) else function.__name__
    assert activation_of(layer) == (name or function)
    xs = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(xs).outputs, peer(jnp.asarray(xs)), 1e-5, 1e-5)


@pytest.mark.parametrize("name", MODULES_REFUSED)
def test_modules_of_nnx_that_do_what_ours_do_not(name):
    make_module, message = MODULES_REFUSED[name]
    with pytest.raises(ValueError, match="source: .*" + message):
        nnx.load(make_module())


def test_modules_of_nnx_in_a_larger_one():
    model = flax_nnx.Dict(rnn=nnx_rnn(), rnn_other=nnx_rnn(reverse=True))
    assert isinstance(nnx.load(model, "rnn"), nn.GRU)
    with pytest.raises(ValueError, match="reverse=True"):
        nnx.load(model, "rnn_other/")


@pytest.mark.parametrize("library_module", [cudnn, equinox, haiku, keras, linen, nnx, pytorch])
def test_zoneout_is_not_carried(library_module):
    with pytest.raises(ValueError, match=r"layer: expected options .*, got a layer with zoneout"):
        library_module.dump(make("lstm", zoneout=0.1))


def test_activations_of_keras_have_names():
    layer = nn.RNN(3, 4, activation=jnp.sin, rngs=rngs())
    names = "tanh or relu or identity or sigmoid"
    with pytest.raises(ValueError, match=f"layer: expected the activation {names}, got <"):
        keras.dump(layer)
    with pytest.raises(ValueError, match=f"activation: expected the activation {names}, got <"):
        keras.load(keras.dump(make("rnn")), activation=jnp.sin)


@pytest.mark.parametrize("both", [False, True])
def test_pytorch_and_cudnn_put_directions_side_by_side(both):
    layer, other = (make("lstm", bidirectional=both, merge_mode=m) for m in ("concat", "sum"))
    sources: Any = [(pytorch.load, (pytorch.dump(layer),), {})]
    sources.append((cudnn.load, (cudnn.dump(layer), 3, 4), {"bidirectional": both}))
    for load, source, sizes in sources:
        if not both:  # where it means nothing
            assert_same(load(*source, **sizes, merge_mode="sum"), layer)
            continue
        with pytest.raises(ValueError, match="merge_mode: expected 'concat' as in source"):
            load(*source, **sizes, merge_mode="sum")
        with pytest.raises(ValueError, match="into: expected merge_mode='concat' as in source"):
            load(*source, **sizes, into=other)


@pytest.mark.parametrize(
    "option",
    [
        {"num_layers": 2},
        {"bidirectional": True},
        {"use_bias": False},
        {"proj_size": 2},
        {"input_size": 3},
        {"hidden_size": 4},
        CHO,
    ],
    ids=lambda option: next(iter(option)),
)
def test_options_that_follow_are_not_given(option):
    (name,) = option
    for kind in ("lstm", "gru"):
        with pytest.raises(
            ValueError, match=f"{name}: expected no such option, since the source determines it"
        ):
            pytorch.load(pytorch.dump(make(kind)), **option)


@pytest.mark.parametrize("option", [{"forget_bias": 1.0}, {"chrono": 50}])
def test_options_of_initial_biases_are_not_given(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}: expected no such option, since it only sets"):
        pytorch.load(pytorch.dump(make("lstm")), **option)
