"""Files as Keras 2 and 3 write them, made here with h5py; Keras itself is not needed."""

import io
import json
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import cells
from seqjax.interop import keras
from tests.interop.forward import (
    check,
    cudnn_cell,
    keras_arrays,
    keras_both,
    keras_cell,
    keras_stack,
    random,
)
from tests.interop.layers import assert_same

h5py = pytest.importorskip("h5py")
XS = random(2, 5, 3)
GATED = {"activation": "tanh", "recurrent_activation": "sigmoid"}
LOW = (jnp.bfloat16, np.float16)


def put(group: Any, name: str, value: Any) -> None:
    """A dataset as Keras 3 writes it: bfloat16 has no type in HDF5, so its name is an attribute."""
    data = group.create_dataset(name, data=value)
    if value.dtype == jnp.bfloat16:
        data.attrs["dtype"] = "bfloat16"


def weights(file: Any, paths: dict[str, list[Any]]) -> None:
    """The format of Keras 3: the variables of each object, numbered, under its path."""
    for path, arrays in paths.items():
        group = file.create_group(f"{path}/vars")
        for index, array in enumerate(arrays):
            put(group, str(index), array)


def layer_of(kind: str, name: str, **config: Any) -> dict[str, Any]:
    told = {} if kind == "SimpleRNN" else GATED
    own = {"go_backwards": False, "return_sequences": True, **told, **config}
    return {"class_name": kind, "registered_name": None, "config": {"name": name, **own}}


def rnn(*cells: dict[str, Any], **config: Any) -> dict[str, Any]:
    cell = cells[0]
    if len(cells) > 1:
        cell = {"class_name": "StackedRNNCells", "config": {"cells": list(cells)}}
    return {"class_name": "RNN", "config": {"go_backwards": False, "cell": cell, **config}}


def archive(path: Any, layers: list[dict[str, Any]], paths: dict[str, list[Any]]) -> Any:
    """A file .keras."""
    body = io.BytesIO()
    with h5py.File(body, "w") as file:
        weights(file, paths)
    config = {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("metadata.json", "{}")
        out.writestr("config.json", json.dumps(config))
        out.writestr("model.weights.h5", body.getvalue())
    return path


def plain(path: Any, paths: dict[str, list[Any]]) -> Any:
    with h5py.File(path, "w") as file:
        weights(file, paths)
    return path


def legacy(path: Any, layers: dict[str, dict[str, Any]], config: Any = None) -> Any:
    """The format of Keras 2: the names of the weights of each layer are an attribute."""
    with h5py.File(path, "w") as file:
        root = file if config is None else file.create_group("model_weights")
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                group.create_dataset(key, data=array)
    return path


def named(before: str, arrays: list[Any]) -> dict[str, Any]:
    names = ("kernel:0", "recurrent_kernel:0", "bias:0")
    return {f"{before}/{name}": array for name, array in zip(names, arrays, strict=False)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32, np.float64])
def test_dtypes(tmp_path, dtype):
    arrays = [a.astype(dtype) for a in keras_arrays("lstm", 3, 4)]
    at = {"layers/lstm/cell": arrays}
    expected = keras_cell("lstm", arrays, XS)
    param = jnp.float32 if dtype == np.float64 else dtype
    for path in (
        archive(tmp_path / "m.keras", [layer_of("LSTM", "lstm")], at),
        plain(tmp_path / "m.weights.h5", at),
    ):
        layer = keras.load(path, "layers/lstm")
        assert layer.param_dtype == param
        assert keras.read_weights(path, "layers/lstm")[0].dtype == dtype
        assert_same(layer, keras.load(arrays))
    old = legacy(tmp_path / "m.h5", {"lstm": named("lstm/lstm_cell", arrays)})
    assert_same(keras.load(old, "lstm"), layer)
    check(layer, XS, expected, 0.05 if dtype in LOW else 1e-5)


def test_bfloat16_that_numpy_saved():
    arrays = [a.astype(jnp.bfloat16) for a in keras_arrays("lstm", 3, 4)]
    body = io.BytesIO()
    np.savez(body, *arrays)
    body.seek(0)
    found = list(np.load(body).values())
    assert found[0].dtype == "V2"
    assert_same(keras.load(found), keras.load(arrays))


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (np.int8, "expected floating-point numbers, got int8"),
        (
            jnp.float8_e4m3fn,
            "expected floating-point numbers of 16 bits or more, got raw data of 1 b",
        ),
        (np.complex64, "expected floating-point numbers, got complex64"),
    ],
)
def test_other_numbers(tmp_path, dtype, message):
    kernel, recurrent, bias = keras_arrays("lstm", 3, 4)
    path = plain(tmp_path / "m.weights.h5", {"lstm/cell": [kernel, recurrent.astype(dtype), bias]})
    with pytest.raises(ValueError, match=rf"^(\S*recurrent_kernel|source\[0\]\[1\]): {message}"):
        keras.load(path, "lstm")


CELLS = {"SimpleRNNCell": "rnn", "LSTMCell": "lstm", "GRUCell": "gru"}


@pytest.mark.quick("LSTMCell")
@pytest.mark.parametrize("name", CELLS)
def test_layers_of_cells(tmp_path, name):
    kind = CELLS[name]
    told = {"SimpleRNNCell": {"activation": "tanh"}}.get(name, GATED)
    config = {"class_name": name, "config": {**told, "reset_after": True}}
    under = {"SimpleRNNCell": "simple_rnn_cell", "LSTMCell": "lstm_cell", "GRUCell": "gru_cell"}
    # Eleven cells: in the order of letters, the one numbered 10 would be the third.
    arrays = [keras_arrays(kind, 3 if i == 0 else 4, 4, seed=i) for i in range(11)]
    counted = [f"{under[name]}_{i}" if i else under[name] for i in range(11)]
    paths = {f"layers/rnn/cell/cells/{c}": a for c, a in zip(counted, arrays, strict=True)}
    paths["layers/rnn_1/cell"] = arrays[0]
    path = archive(tmp_path / "m.keras", [rnn(*[config] * 11), rnn(config)], paths)
    layer = keras.load(path, "layers/rnn")
    assert (layer.num_layers, layer.bidirectional) == (11, False)
    check(layer, XS, keras_stack(kind, arrays, XS))
    check(keras.load(path, "layers/rnn_1"), XS, keras_cell(kind, arrays[0], XS))
    assert_same(keras.load(path, "layers/rnn_1/cell"), keras.load(path, "layers/rnn_1"))
    asked: dict[str, Any] = {"activation": "tanh"} if kind == "rnn" else {}
    bare = plain(tmp_path / "m.weights.h5", paths)
    assert_same(keras.load(bare, "layers/rnn", **asked), layer)
    one = keras.load(bare, f"layers/rnn/cell/cells/{under[name]}", **asked)
    assert_same(one, keras.load(arrays[0], **asked))


def test_two_cells_in_a_file_are_a_stack(tmp_path):
    """Though arrays of these shapes could be two directions."""
    one, two = keras_arrays("lstm", 4, 4), keras_arrays("lstm", 4, 4, seed=1)
    cells_of = {"rnn/cell/cells/lstm_cell": one, "rnn/cell/cells/lstm_cell_1": two}
    path = plain(tmp_path / "m.weights.h5", cells_of)
    xs = random(2, 5, 4)
    check(keras.load(path, "rnn"), xs, keras_stack("lstm", [one, two], xs))
    sides = {"both/forward_layer/cell": one, "both/backward_layer/cell": two}
    path = plain(tmp_path / "n.weights.h5", sides)
    check(keras.load(path, "both"), xs, keras_both("lstm", one, two, xs))
    with pytest.raises(ValueError, match="bidirectional: expected True as in source, got False"):
        keras.load(path, "both", bidirectional=False)


def test_layers_of_cells_that_ours_are_not(tmp_path):
    lstm = {"class_name": "LSTMCell", "config": GATED}
    hard = {"class_name": "LSTMCell", "config": {**GATED, "recurrent_activation": "hard_sigmoid"}}
    arrays = [keras_arrays("lstm", 4, 4, seed=i) for i in range(2)]
    names = ("lstm_cell", "lstm_cell_1")
    both = {"forward_layer": 0, "backward_layer": 0}
    two: dict[str, Any] = {
        "class_name": "Bidirectional",
        "config": {"layer": rnn(lstm, lstm), "merge_mode": "concat"},
    }
    for layer, message in (
        (rnn(lstm, hard), "expected recurrent_activation='sigmoid' of a LSTMCell, got 'hard_sig"),
        (rnn(lstm, lstm, go_backwards=True), "expected go_backwards=False of a RNN, got True"),
        (rnn({"class_name": "Mine", "config": {}}), "expected one of SimpleRNN, .*; got 'Mine'"),
        (two, "expected one cell in each direction"),
    ):
        kind = layer["class_name"].lower()
        sides = [f"layers/{kind}/{side}" for side in both] if kind != "rnn" else [f"layers/{kind}"]
        paths = {
            f"{side}/cell/cells/{name}": a
            for side in sides
            for name, a in zip(names, arrays, strict=True)
        }
        path = archive(tmp_path / "m.keras", [layer], paths)
        with pytest.raises(ValueError, match=message):
            keras.load(path, f"layers/{kind}")


def test_paths_that_are_not_layers(tmp_path):
    arrays = keras_arrays("lstm", 3, 4)
    paths = {
        "layers/lstm/cell": arrays,
        "layers/bidirectional/forward_layer/cell": arrays,
        "layers/bidirectional/backward_layer/cell": arrays,
        "layers/time_distributed/layer/cell": arrays,
        "layers/dense": [np.ones((4, 2)), np.ones(2)],
        "layers/one_side/forward_layer/cell": arrays,
    }
    path = plain(tmp_path / "m.weights.h5", paths)
    found = "prefix='layers/bidirectional' or prefix='layers/lstm' or prefix='layers/one_side' or "
    for prefix in ("", "layers", "layers/time_distributed", "layers/dense", "layers/gru"):
        with pytest.raises(ValueError, match=f"^prefix: expected .*; choose a layer by {found}"):
            keras.load(path, prefix)
    with pytest.raises(ValueError, match="prefix: expected both directions at 'layers/one_side'"):
        keras.load(path, "layers/one_side")
    layer = keras.load(path, "layers/time_distributed/layer")
    assert_same(layer, keras.load(arrays))
    with pytest.raises(TypeError, match="prefix: expected a string"):
        keras.load(path, 3)  # type: ignore[arg-type]


# Keras 2.


def old_config(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": list(layers)}}


def test_files_of_keras_2(tmp_path):
    lstm, (fw, bw) = keras_arrays("lstm", 3, 4), (keras_arrays("gru", 4, 4, i) for i in (1, 2))
    simple = keras_arrays("rnn", 8, 4)
    layers = {
        "lstm_7": named("lstm_7/lstm_cell", lstm),
        "both": named("both/forward_gru/gru_cell", fw) | named("both/backward_gru/gru_cell", bw),
        "simple": named("simple/simple_rnn_cell", simple),
        "flatten": {},
    }
    gru = layer_of("GRU", "gru", reset_after=True)
    two: dict[str, Any] = {
        "class_name": "Bidirectional",
        "config": {"name": "both", "layer": gru, "merge_mode": "sum"},
    }
    config = old_config(
        layer_of("LSTM", "lstm_7"), two, layer_of("SimpleRNN", "simple", activation="relu")
    )
    path = legacy(tmp_path / "m.h5", layers, config)
    check(keras.load(path, "lstm_7"), XS, keras_cell("lstm", lstm, XS))
    assert_same(keras.load(path, "model_weights/lstm_7"), keras.load(lstm))
    both, xs = keras.load(path, "both"), random(2, 5, 4)
    sides = keras_both("gru", fw, bw, xs)
    check(both, xs, sides[..., :4] + sides[..., 4:])
    assert both.merge_mode == "sum"
    assert keras.load(path, "simple").cell == cells.Elman(8, 4, activation="relu")
    assert len(keras.read_weights(path, "both")) == 6
    for prefix in ("", "flatten", "lstm"):
        with pytest.raises(ValueError, match=r"prefix: expected the name .* prefix='both' or"):
            keras.load(path, prefix)
    # Weights alone: directions by the names, though the shapes fit a stack.
    for name in ("m.weights.h5", "m.hdf5"):
        path = legacy(tmp_path / name, layers)
        check(keras.load(path, "both"), xs, sides)
        with pytest.raises(ValueError, match=r"^activation: expected the activation"):
            keras.load(path, "simple")


def test_what_files_of_keras_2_tell(tmp_path):
    lstm = named("lstm/lstm_cell", keras_arrays("lstm", 4, 4))
    for layer, message in (
        (layer_of("LSTM", "lstm", recurrent_activation="hard_sigmoid"), "recurrent_activation="),
        (layer_of("LSTM", "lstm", go_backwards=True), "go_backwards=False of a LSTM, got True"),
        (layer_of("ConvLSTM2D", "lstm"), "one of SimpleRNN"),
        (layer_of("TimeDistributed", "lstm"), "got a TimeDistributed; pass the layer inside"),
    ):
        path = legacy(tmp_path / "m.h5", {"lstm": lstm}, old_config(layer))
        with pytest.raises(ValueError, match=f"source: expected .*{message}"):
            keras.load(path, "lstm")
    layer = layer_of("LSTM", "lstm", time_major=True)
    nested = old_config({"class_name": "Model", "config": {"layers": [layer]}})
    path = legacy(tmp_path / "m.h5", {"lstm": lstm}, nested)
    assert keras.load(path, "lstm").time_major
    assert not keras.load(path, "lstm", time_major=False).time_major
    # Two cells whose names do not tell, and whose shapes fit both.
    more = {f"{name}_1": array for name, array in lstm.items()}
    path = legacy(tmp_path / "m.h5", {"lstm": lstm | more})
    with pytest.raises(ValueError, match=r"source\[0\]: ambiguous, .* pass bidirectional="):
        keras.load(path, "lstm")
    assert keras.load(path, "lstm", bidirectional=False).num_layers == 2


@pytest.mark.parametrize(("kind", "name"), [("lstm", "CuDNNLSTM"), ("gru", "CuDNNGRU")])
def test_layers_of_cudnn(tmp_path, kind, name):
    def arrays(inputs: int, seed: int) -> list[Any]:
        kernel, recurrent, _ = keras_arrays(kind, inputs, 4, seed)
        return [kernel, recurrent, random(2 * kernel.shape[1], seed + 1)[:, 0]]

    one, two, back = arrays(3, 0), arrays(4, 1), arrays(3, 2)
    layer = keras.load(one)
    check(layer, XS, cudnn_cell(kind, one, XS))
    check(keras.load([one, two]), XS, cudnn_cell(kind, two, cudnn_cell(kind, one, XS)))
    assert_same(keras.load(one + two), keras.load([one, two]))
    turned = cudnn_cell(kind, back, XS[:, ::-1])[:, ::-1]
    expected = np.concatenate([cudnn_cell(kind, one, XS), turned], -1)
    check(keras.load(one + back), XS, expected)
    config = {"class_name": name, "config": {"name": "rnn", "go_backwards": False, "units": 4}}
    path = legacy(tmp_path / "m.h5", {"rnn": named("rnn", one)}, old_config(config))
    assert_same(keras.load(path, "rnn"), layer)
    with pytest.raises(ValueError, match=r"bias: expected the shape \((2, )?1[26]"):
        keras.load([*one[:2], one[2][:-1]], reset_after=True if kind == "gru" else None)


# Damage.


def damaged(body: bytes, trials: int, changes: int) -> Any:
    rng = np.random.default_rng(0)
    for _ in range(trials):
        other = bytearray(body)
        for place in rng.integers(0, len(body), changes):
            other[place] = rng.integers(256)
        yield bytes(other)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.h5"])
def test_damaged_files(tmp_path, name):
    """Whatever byte changes, a layer is loaded or a `ValueError` is raised."""
    arrays = keras_arrays("lstm", 3, 4)
    at = {"layers/lstm/cell": arrays}
    path = tmp_path / name
    if name == "m.keras":
        archive(path, [layer_of("LSTM", "lstm")], at)
    elif name == "m.h5":
        config = old_config(layer_of("LSTM", "lstm"))
        legacy(path, {"lstm": named("lstm/lstm_cell", arrays)}, config)
    else:
        plain(path, at)
    raised = 0
    for body in damaged(path.read_bytes(), 120, 20):
        path.write_bytes(body)
        try:
            keras.load(path, "lstm" if name == "m.h5" else "layers/lstm")
        except ValueError:
            raised += 1
    assert raised > 20


def test_a_size_that_the_file_cannot_hold(tmp_path):
    path = plain(tmp_path / "m.weights.h5", {"lstm/cell": keras_arrays("lstm", 3, 4)})
    with h5py.File(path, "a") as file:
        del file["lstm/cell/vars/0"]
        file["lstm/cell/vars"].create_dataset("0", (2**20, 2**12), np.float32)
    with pytest.raises(
        ValueError, match=r"expected an undamaged file, .* bytes, got a file that is too small"
    ):
        keras.load(path, "lstm")


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        '{"config": 3}',
        '{"config": {"layers": 3}}',
        '{"config": {"layers": [{"class_name": 3}, 4]}}',
        '{"config": {"layers": [{"class_name": "LSTM"}]}}',
        '{"config": {"layers": [{"class_name": "LSTM", "config": {}}]}}',
        '{"config": {"layers": [{"class_name": "LSTM", "registered_name": [], "config": []}]}}',
        "not JSON",
    ],
)
def test_descriptions_that_cannot_be_read(tmp_path, config):
    path = archive(tmp_path / "m.keras", [], {"layers/lstm/cell": keras_arrays("lstm", 3, 4)})
    with zipfile.ZipFile(path) as file:
        body = file.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", config)
        file.writestr("model.weights.h5", body)
    with pytest.raises(ValueError, match=r"^(source|prefix): expected"):
        keras.load(path, "layers/lstm")
    assert len(keras.read_weights(path, "layers/lstm")) == 3
