"""Sources that cannot be read: the message names what is wrong."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.interop import cudnn, equinox, haiku, keras, linen, nnx, pytorch
from tests.interop.layers import assert_same, make


@pytest.mark.parametrize("missing", ["_l1", "_l0_reverse"])
def test_biases_are_everywhere_or_nowhere(missing):
    source = pytorch.dump(make("lstm", num_layers=2, bidirectional=True))
    some = {k: a for k, a in source.items() if not (k.startswith("bias") and k.endswith(missing))}
    into = make("lstm", num_layers=2, bidirectional=True)
    for options in ({}, {"into": into}):
        message = rf"^bias_ih{missing}: expected a bias, since there is bias_ih_l\d.*, got none"
        with pytest.raises(ValueError, match=message):
            pytorch.load(some, **options)
    first, second = keras.dump(make("gru", num_layers=2))
    with pytest.raises(ValueError, match=r"^layers\[1\]\.forward\.bias: expected a bias"):
        keras.load([first, second[:2]])


@pytest.mark.parametrize("module", [haiku, keras, linen, nnx, pytorch])
def test_prefixes_are_text(module):
    layer = make("lstm")
    for prefix in (None, 3):
        with pytest.raises(TypeError, match="prefix: expected a string, got"):
            module.load(module.dump(layer), prefix)
        if module in (haiku, pytorch):
            with pytest.raises(TypeError, match="prefix: expected a string, got"):
                module.dump(layer, prefix)


def test_other_order_of_bytes():
    layer = make("lstm")
    swapped = {key: a.astype(">f4") for key, a in pytorch.dump(layer).items()}
    assert_same(pytorch.load(swapped), layer)
    assert_same(cudnn.load(np.asarray(cudnn.dump(layer)).astype(">f4"), 3, 4), layer)
    assert_same(keras.load([a.astype(">f4") for a in keras.dump(layer)[0]]), layer)


def test_numbers_of_few_bits():
    few = jnp.float8_e4m3fn
    layer = make("lstm")
    for load, source, name in (
        (lambda s: pytorch.load(s, "a"), pytorch.dump(layer, "a"), r"a\.\w+_l0"),
        (keras.load, keras.dump(layer)[0], r"source\[0\]\[0\]"),
        (equinox.load, equinox.dump(layer), r"source\[0\]\.bias"),
        (lambda s: cudnn.load(s, 3, 4), cudnn.dump(layer), "source"),
    ):
        with pytest.raises(
            ValueError, match=f"^{name}: expected floating-point numbers of 16 bits or more, got"
        ):
            load(jax.tree.map(lambda a: np.asarray(a).astype(few), source))
    with pytest.raises(
        ValueError, match=r"source\[0\]: cell/.*: expected floating-point numbers of 16 bits"
    ):
        linen.load(jax.tree.map(lambda a: a.astype(few), linen.dump(layer)))


@pytest.mark.filterwarnings("ignore:.*quant")
def test_tensors_without_plain_numbers():
    torch = pytest.importorskip("torch")
    source = {key: torch.from_numpy(a) for key, a in pytorch.dump(make("lstm")).items()}
    whole = source["weight_hh_l0"]
    for tensor, what in (
        (whole.to_sparse(), "torch.float32, torch.sparse_coo, cpu"),
        (whole.to("meta"), "torch.float32, torch.strided, meta"),
        (whole.to(torch.float8_e4m3fn), "torch.float8_e4m3fn, torch.strided, cpu"),
        (torch.quantize_per_tensor(whole, 0.1, 0, torch.qint8), "torch.qint8, torch.strided"),
    ):
        with pytest.raises(
            ValueError, match=f"^a.weight_hh_l0: expected a dense tensor of numbers, got {what}"
        ):
            pytorch.load({f"a.{k}": a for k, a in (source | {"weight_hh_l0": tensor}).items()}, "a")


def test_files_that_are_cut_off(tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    library = pytest.importorskip("keras")
    numpy = pytest.importorskip("safetensors.numpy")
    model = library.Sequential([library.Input((None, 3)), library.layers.LSTM(4)])
    names = ("m.keras", "m.weights.h5", "m.safetensors")
    model.save(tmp_path / names[0])
    model.save_weights(tmp_path / names[1])
    numpy.save_file(pytorch.dump(make("lstm")), tmp_path / names[2])
    for name in names:
        path = tmp_path / name
        load = pytorch.load if path.suffix == ".safetensors" else keras.load
        prefix = "" if path.suffix == ".safetensors" else "layers/lstm"
        assert load(path, prefix).cell.hidden_size == 4
        body = path.read_bytes()
        for size in (0, 5, len(body) // 2, len(body) - 7):
            path.write_bytes(body[:size])
            with pytest.raises(
                ValueError, match=f"source: expected an undamaged file, got .*{name}"
            ):
                load(path, prefix)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=name):
            load(path, prefix)
        path.mkdir()
        with pytest.raises(ValueError, match=f"source: expected a file, got the folder .*{name}"):
            load(path, prefix)


@pytest.mark.parametrize("source", [None, 3, [None], [{}], np.ones(3)])
def test_sources_that_are_none_of_keras(source):
    with pytest.raises(TypeError, match="source: expected lists of arrays, Keras layers or a path"):
        keras.load(source)


def test_cores_of_haiku_without_a_gap():
    params = haiku.dump(make("lstm", num_layers=3))
    del params["lstm_1/linear"]
    message = "source: expected the core lstm_1, got lstm/linear, lstm_2/linear"
    with pytest.raises(ValueError, match=message):
        haiku.load(params, num_layers=3)
    params["lstm_1/linear"] = params["lstm_2/linear"]
    assert haiku.load(params, num_layers=3).num_layers == 3


def test_bfloat16_for_pytorch():
    """As the documentation says: its `from_numpy` does not take it."""
    torch = pytest.importorskip("torch")
    layer = make("gru", param_dtype=jnp.bfloat16)
    arrays = pytorch.dump(layer)
    tensors = {k: torch.from_numpy(a.astype(np.float32)).bfloat16() for k, a in arrays.items()}
    assert_same(pytorch.load(tensors), layer)
