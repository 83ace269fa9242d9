"""The dtype of a layer holds all numbers of its source; none becomes infinite on the way."""

import json
import re
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.interop import cudnn, equinox, haiku, keras, linen, nnx, pytorch
from tests.interop.forward import keras_arrays, random
from tests.interop.layers import make

# A layer's source, how to load it, and the name of the first array that is too large.
SOURCES: dict[str, tuple[Any, Any, str]] = {
    "pytorch": (pytorch.dump, pytorch.load, "weight_ih_l0"),
    "keras": (lambda x: keras.dump(x)[0], keras.load, "layers[0].forward.kernel"),
    "linen": (lambda x: linen.dump(x)[0], linen.load, "cell/ii/kernel"),
    "nnx": (lambda x: nnx.dump(x)[0], nnx.load, "cell/dense_i/kernel"),
    "haiku": (haiku.dump, haiku.load, "lstm/linear/w"),
    "equinox": (lambda x: equinox.dump(x)[0], equinox.load, "weight_ih"),
    "cudnn": (cudnn.dump, lambda s, **o: cudnn.load(s, 3, 4, **o), "weights 0: weight_ih"),
}


def scaled(tree: Any, dtype: Any, size: float) -> Any:
    return jax.tree.map(lambda a: np.full(np.shape(a), size).astype(dtype), tree)


@pytest.mark.parametrize("name", SOURCES)
def test_numbers_that_do_not_fit_are_refused(name):
    dump, load, first = SOURCES[name]
    source = dump(make("lstm"))
    with pytest.raises(ValueError, match=rf"^{re.escape(first)}.*float32, got 1e\+39$"):
        load(scaled(source, np.float64, 1e39))
    large = scaled(source, np.float32, 1e6)
    message = rf"^{re.escape(first)}.*: expected numbers that fit into float16, got 1000000\.0$"
    into = make("lstm", param_dtype=jnp.float16)
    before = np.asarray(into.layers[0].forward.w_ih[...])
    with pytest.raises(ValueError, match=message):
        load(large, into=into)
    np.testing.assert_array_equal(into.layers[0].forward.w_ih[...], before)
    with pytest.raises(ValueError, match=message):
        load(large, param_dtype=jnp.float16)
    # What is infinite in the source stays so, and what fits is loaded.
    layer = load(scaled(source, np.float64, np.inf))
    assert np.isposinf(np.asarray(layer.layers[0].forward.w_hh[...])).all()
    layer = load(scaled(source, np.float64, 3e38 / 2))
    assert np.isfinite(np.asarray(layer.layers[0].forward.b[...])).all()


@pytest.mark.parametrize("narrow", ["weight_ih_l0", "weight_hh_l1", "bias_hh_l1"])
@pytest.mark.parametrize(
    ("small", "wide", "expected"),
    [
        (np.float16, np.float32, "float32"),
        (np.float16, jnp.bfloat16, "float32"),
        (jnp.bfloat16, np.float64, "float32"),
    ],
)
def test_the_widest_dtype_of_a_source(narrow, small, wide, expected):
    source = {k: a.astype(wide) for k, a in pytorch.dump(make("lstm", num_layers=2)).items()}
    source["weight_hh_l0"][:] = 99840.0  # exact in bfloat16, too large for float16
    source[narrow] = source[narrow].astype(small)
    layer = pytorch.load(source)
    assert layer.param_dtype == expected
    forward = layer.layers[0].forward
    np.testing.assert_array_equal(forward.w_hh[...], np.full((4, 16), 99840.0))
    np.testing.assert_array_equal(forward.w_ih[...], source["weight_ih_l0"].T.astype(np.float32))
    last = layer.layers[1].forward
    both = source["bias_ih_l1"].astype(float) + source["bias_hh_l1"].astype(float)
    np.testing.assert_array_equal(last.b[...], both.astype(np.float32))


def test_sums_of_biases_that_do_not_fit():
    source = pytorch.dump(make("lstm", param_dtype=jnp.float16))
    source["bias_ih_l0"] = source["bias_hh_l0"] = np.full(16, 6e4, np.float16)
    message = r"^bias_ih_l0, bias_hh_l0: expected numbers that fit into float16, got 120000\.0$"
    with pytest.raises(ValueError, match=message):
        pytorch.load(source)
    layer = pytorch.load(source, param_dtype=jnp.float32)
    np.testing.assert_array_equal(layer.layers[0].forward.b[...], np.full(16, 1.2e5))
    kernel, recurrent, _ = (a.astype(np.float16) for a in keras_arrays("lstm", 3, 4))
    with pytest.raises(ValueError, match=r"^source\[0\]: bias: expected .* float16, got 120000\.0"):
        keras.load([kernel, recurrent, np.full(32, 6e4, np.float16)])  # as of CuDNNLSTM


def test_weight_normalisation_of_two_dtypes():
    source = pytorch.dump(make("lstm"))
    v = source.pop("weight_hh_l0")
    g = np.full((16, 1), 1e6, np.float32)
    expected = g * v.astype(np.float16) / np.linalg.norm(v.astype(np.float16), axis=1)[:, None]
    source |= {"weight_hh_l0_g": g, "weight_hh_l0_v": v.astype(np.float16)}
    found = pytorch.load(source).layers[0].forward.w_hh[...]
    np.testing.assert_allclose(found.T, expected, 1e-3)
    # Squares of these are above the greatest number of float32.
    source["weight_hh_l0_v"] = v * np.float32(1e25)
    found = pytorch.load(source).layers[0].forward.w_hh[...]
    np.testing.assert_allclose(
        found.T, 1e6 * v / np.linalg.norm(v.astype(float), axis=1)[:, None], 1e-5
    )


def test_wide_numbers_in_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    header, body = {}, b""
    for name, array in pytorch.dump(make("lstm")).items():
        data = np.full(array.shape, 1e300).tobytes()
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F64", "shape": array.shape, "data_offsets": place}
        body += data
    text = json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    with pytest.raises(ValueError, match=r"^weight_ih_l0: expected .* float32, got 1e\+300$"):
        pytorch.load(path)


def test_numbers_of_many_bits():
    if np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("no wider numbers here")
    source = pytorch.dump(make("lstm"))
    source["bias_ih_l0"] = source["bias_ih_l0"].astype(np.longdouble)
    with pytest.raises(ValueError, match=r"^bias_ih_l0: expected .* of 64 bits or fewer, got "):
        pytorch.load(source)


def test_states_that_do_not_fit():
    layer = make("lstm", num_layers=2)
    h = np.ones((2, 5, 4))
    with pytest.raises(ValueError, match=r"^c: expected numbers that fit into float32, got 1e\+39"):
        pytorch.load_state(layer, (h, h * 1e39))
    with pytest.raises(ValueError, match=r"^h: expected floating-point numbers, got int"):
        pytorch.load_state(layer, (h.astype(int), h))


def test_states_of_different_batches():
    one, other = random(2, 4), random(3, 4)
    layer = make("gru", num_layers=2)
    message = r"^state: expected the same batch axes in all arrays, got \(2,\) and \((3,)?\)$"
    for state in ((one, other), (one, one[0])):
        with pytest.raises(ValueError, match=message):
            pytorch.dump_state(layer, state)
    lstm = make("lstm")
    state = lstm.initial_state([2])
    (part,) = state
    with pytest.raises(ValueError, match=message):
        pytorch.dump_state(lstm, (part._replace(c=other),))
    mixed = (one.astype(jnp.bfloat16), one.astype(np.float16))
    found = pytorch.dump_state(layer, mixed)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [a.astype(np.float32) for a in mixed])
    with pytest.raises(ValueError, match=r"^state: expected floating-point numbers, got .*int"):
        pytorch.dump_state(layer, (one, one.astype(int)))
