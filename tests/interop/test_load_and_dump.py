"""`load` and `dump` of every library: exact round trips, what does not fit, files, modules."""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as flax_linen
from flax import nnx as flax_nnx

from seqjax import cells, nn
from seqjax.interop import cudnn, equinox, haiku, keras, linen, nnx, pytorch
from tests.interop import peers
from tests.interop.layers import CHO, assert_same, make, parameters
from tests.nn.helpers import drawn

HAS: dict[Any, list[str]] = {
    pytorch: ["rnn", "lstm", "projected", "gru"],
    keras: ["rnn", "lstm", "gru", "cho"],
    linen: ["rnn", "lstm", "gru"],
    nnx: ["rnn", "lstm"],  # and a GRU without b_hn
    haiku: ["rnn", "lstm", "cho"],
    equinox: ["lstm", "gru"],
    cudnn: ["lstm"],
}
# What weights alone do not tell.
NEEDS: dict[Any, dict[str, dict[str, Any]]] = {
    module: {"rnn": {"activation": "relu"}} for module in (pytorch, keras, linen, nnx)
}
PAIRS = [(module, kind) for module, kinds in HAS.items() for kind in kinds]
each_pair = pytest.mark.parametrize(
    ("module", "kind"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.__name__[15:]
)


def again(module: Any, kind: str, layer: Any, **options: Any) -> Any:
    """The layer after a way through a library and back."""
    dumped = module.dump(layer)
    told = dict(NEEDS.get(module, {}).get(kind, {}))
    if module is cudnn:
        sizes = {"input_size": 3, "hidden_size": 4}
        told |= {**sizes, "num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    if module is haiku:
        told |= {"num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    return module.load(dumped, **told, **options)


@each_pair
def test_there_and_back_is_exact(module, kind):
    layer = make(kind, num_layers=2, bidirectional=True)
    back = again(module, kind, layer)
    # Haiku's LSTM stores the bias of the forget gate less one, which rounds.
    assert_same(layer, back, 1.2e-7 if (module, kind) == (haiku, "lstm") else 0.0)
    assert (back.cell, type(back)) == (layer.cell, type(layer))


@pytest.mark.parametrize(
    ("module", "kind"), [(m, k) for m, k in PAIRS if m in (pytorch, keras, equinox)]
)
def test_layers_without_biases_stay_so(module, kind):
    layer = make(kind, use_bias=False)
    told = {"gru": {"reset_after": True}, "cho": CHO}
    options = told.get(kind, {}) if module is keras else {}
    back = again(module, kind, layer, **options)
    assert_same(layer, back)
    assert not back.cell.use_bias


@pytest.mark.parametrize("module", [linen, nnx, haiku, cudnn])
def test_zeros_where_a_library_always_has_biases(module):
    layer = make("lstm", use_bias=False)
    back = again(module, "lstm", layer)
    assert back.cell.use_bias
    assert not np.any(back.layers[0].forward.b[...])
    if module is not cudnn:  # zeros fit into a layer without biases
        assert_same(again(module, "lstm", back, into=make("lstm", use_bias=False)), layer)


# Where a library has two biases of which only the sum matters, the first one gets it.
SUMMED = {
    "keras_gru": ["0/2"],
    "keras_gru_bidirectional": ["0/2", "0/5"],
    "haiku_rnn": ["vanilla_rnn/linear/b", "vanilla_rnn/linear_1/b"],
    "cudnn_lstm": ["weights"],
}


@pytest.mark.parametrize("name", peers.CASES)
def test_back_and_there_gives_what_the_library_had(name):
    case, weights = peers.CASES[name], peers.draw(name)
    module = peers.MODULES[case.library]
    layer = module.load(peers.SOURCES[case.library](weights), **case.options)
    back = peers.dumped(name, layer)
    for key in weights.keys() - SUMMED.get(name, []):
        atol = 1.2e-7 if name == "haiku_lstm_stacked" else 0
        np.testing.assert_allclose(back[key], weights[key], 0, atol, err_msg=key, strict=True)
    assert_same(module.load(peers.SOURCES[case.library](back), **case.options), layer, 1.2e-7)


def test_biases_of_pytorch():
    rng = np.random.default_rng(0)
    names = {"weight_ih": (12, 3), "weight_hh": (12, 4), "bias_ih": (12,), "bias_hh": (12,)}
    source = {f"{name}_l0": rng.normal(size=s).astype(np.float32) for name, s in names.items()}
    back = pytorch.dump(pytorch.load(source))
    assert not back["bias_hh_l0"][:8].any()
    np.testing.assert_array_equal(back["bias_hh_l0"][8:], source["bias_hh_l0"][8:])
    total = source["bias_ih_l0"] + source["bias_hh_l0"]
    np.testing.assert_array_equal(back["bias_ih_l0"][:8], total[:8])
    np.testing.assert_array_equal(back["bias_ih_l0"][8:], source["bias_ih_l0"][8:])


def test_a_gru_for_nnx_has_no_bias_inside_the_reset():
    layer = make("gru")
    with pytest.raises(ValueError, match=r"layers\[0\]\.forward\.b_hn: expected zeros.* gate n"):
        nnx.dump(layer)
    layer.layers[0].forward.b_hn = flax_nnx.Param(jnp.zeros(4))
    assert_same(nnx.load(nnx.dump(layer)), layer)


@pytest.mark.parametrize("suffix", ["", "_l0"])
def test_cells_and_prefixes_of_pytorch(suffix):
    state = {f"weight_ih{suffix}": np.ones((20, 3)), f"weight_hh{suffix}": np.ones((20, 5))}
    model = {f"encoder.rnn.{name}": a for name, a in state.items()} | {"encoder.out": np.ones(2)}
    for prefix in ("encoder.rnn", "encoder.rnn."):
        assert isinstance(pytorch.load(model, prefix), nn.LSTM)
    with pytest.raises(
        ValueError, match=r"^encoder\.(rnn\..*|out): .*; choose a layer by prefix='encoder\.rnn'$"
    ):
        pytorch.load(model, "encoder")
    with pytest.raises(
        ValueError, match=r"prefix: expected names that begin with 'decoder\.', got encoder"
    ):
        pytorch.load(model, "decoder")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_safetensors(tmp_path, dtype):
    """A file written by hand: length, header, bytes."""
    pytest.importorskip("safetensors")
    arrays = {f"a.{k}": v.astype(dtype) for k, v in pytorch.dump(make("gru")).items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    names = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    start = 0
    for name, value in arrays.items():
        place = [start, start + value.nbytes]
        header[name] = {"dtype": names[dtype], "shape": value.shape, "data_offsets": place}
        start += value.nbytes
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    body = b"".join(value.tobytes() for value in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)

    layer = pytorch.load(path, "a")
    assert layer.param_dtype == dtype
    assert_same(layer, pytorch.load(arrays, "a"))
    with pytest.raises(
        ValueError, match=r"prefix: expected names that begin with 'b\.', got a\.bias_hh"
    ):
        pytorch.load(str(path), "b")
    with pytest.raises(ValueError, match=r"source: expected a \.safetensors file, got model\.pt"):
        pytorch.load("model.pt")

    from safetensors.numpy import save_file

    save_file(pytorch.dump(layer), path)
    assert_same(pytorch.load(path), layer)


def test_pytorch_itself():
    torch = pytest.importorskip("torch")
    xs = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    theirs = torch.nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    layer = pytorch.load(theirs.state_dict())
    np.testing.assert_allclose(
        layer(xs).outputs, theirs(torch.tensor(xs))[0].detach().numpy(), 1e-5, 1e-5
    )
    new = make("gru", num_layers=2, bidirectional=True)
    theirs.load_state_dict({k: torch.from_numpy(a) for k, a in pytorch.dump(new).items()})
    np.testing.assert_allclose(
        new(xs).outputs, theirs(torch.tensor(xs))[0].detach().numpy(), 1e-5, 1e-5
    )
    half = theirs.bfloat16().state_dict()
    assert pytorch.load(half).param_dtype == jnp.bfloat16


def test_keras_itself_and_its_files(tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    library = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    l = library.layers
    both = l.Bidirectional(l.GRU(4, return_sequences=True, reset_after=False), merge_mode="ave")
    rnn = l.SimpleRNN(2, activation="linear", return_sequences=True)
    model = library.Sequential([library.Input((None, 3)), both, rnn])
    layer = keras.load(both)
    assert (layer.cell, layer.merge_mode) == (cells.ChoGRU(3, 4), "mean")
    assert keras.load(rnn).cell == cells.Elman(4, 2, activation="identity")
    both.set_weights(keras.dump(make("cho", bidirectional=True))[0])
    assert_same(keras.load(both), make("cho", bidirectional=True))

    for name in ("model.weights.h5", "model.keras"):
        path = tmp_path / name
        model.save(path) if name.endswith(".keras") else model.save_weights(path)
        assert_same(keras.load(path, "layers/bidirectional"), make("cho", bidirectional=True))
        assert len(keras.read_weights(path, "layers/simple_rnn")) == 3
        with pytest.raises(
            ValueError, match=r"prefix: .* got 'layers/lstm'; .* prefix='layers/bidirectional' or"
        ):
            keras.load(path, "layers/lstm")

    stack = library.Sequential([library.Input((None, 3)), l.LSTM(4), l.RepeatVector(5), l.LSTM(4)])
    lstms = [layer for layer in stack.layers if isinstance(layer, l.LSTM)]
    assert_same(keras.load(lstms), keras.load([layer.get_weights() for layer in lstms]))
    with pytest.raises(
        ValueError, match="source: expected two directions with the same configuration"
    ):
        other = l.GRU(4, return_sequences=True, go_backwards=True)
        keras.load(l.Bidirectional(both.forward_layer, backward_layer=other))
    with pytest.raises(ValueError, match="source: expected activation='identity' in all layers"):
        plain = l.SimpleRNN(2)
        plain.build((None, 5, 2))
        keras.load([rnn, plain])
    with pytest.raises(ValueError, match="expected activation='tanh' of a LSTM, got 'relu'"):
        odd = l.LSTM(4, activation="relu")
        odd.build((None, 5, 3))
        keras.load(odd)
    with pytest.raises(ValueError, match=r"source: expected one of SimpleRNN, .* 'Dense'"):
        keras.load(l.Dense(3))
    with pytest.raises(ValueError, match="into: expected merge_mode='mean' as in source"):
        keras.load(both, into=make("cho", bidirectional=True))


def test_modules_of_nnx():
    rngs = flax_nnx.Rngs(0)
    peer = flax_nnx.RNN(flax_nnx.SimpleCell(3, 4, activation_fn=jax.nn.relu, rngs=rngs))
    layer = nnx.load(peer)
    assert layer.cell == cells.Elman(3, 4, activation="relu")
    assert_same(nnx.load(flax_nnx.state(peer), "cell", activation="relu"), layer)
    with pytest.raises(ValueError, match="source: expected a SimpleCell without residual"):
        nnx.load(flax_nnx.SimpleCell(3, 4, residual=True, rngs=rngs))
    with pytest.raises(ValueError, match="source: expected gate_fn to be sigmoid"):
        nnx.load(flax_nnx.GRUCell(3, 4, gate_fn=jnp.tanh, rngs=rngs))
    state = nnx.dump(make("lstm", bidirectional=True), optimized=False)
    assert sorted(state[0]["backward_rnn"]["cell"]) == [
        "hf",
        "hg",
        "hi",
        "ho",
        "if_",
        "ig",
        "ii",
        "io",
    ]


def test_linen_trees_in_parts():
    layer = make("gru", num_layers=2, bidirectional=True)
    variables = linen.dump(layer)
    pairs = [
        nn.Bidirectional(v["params"]["forward_rnn"]["cell"], v["params"]["backward_rnn"])
        for v in variables
    ]
    assert_same(linen.load(pairs), layer)
    whole = {"params": {"encoder": {"rnn": variables[0]["params"]}}}
    assert linen.load(whole, "encoder/rnn").bidirectional
    with pytest.raises(
        ValueError, match="cell/hf/kernel: expected a cell that seqjax has, got an MGUC"
    ):
        from flax import linen as library

        peer = library.RNN(library.MGUCell(4))
        linen.load(peer.init(jax.random.key(0), jnp.ones((2, 5, 3))))


def test_linen_variables_with_names_of_axes():
    init = flax_linen.with_partitioning(flax_linen.initializers.lecun_normal(), (None, "model"))
    peer = flax_linen.RNN(flax_linen.GRUCell(4, kernel_init=init))
    variables = peer.init(jax.random.key(0), jnp.ones([2, 7, 3]))
    assert_same(linen.load(variables), linen.load(flax_linen.meta.unbox(variables)))
    shapes = jax.eval_shape(peer.init, jax.random.key(0), jnp.ones([2, 7, 3]))
    with pytest.raises(ValueError, match="expected an array of numbers, got a ShapeDtypeStruct"):
        linen.load(flax_linen.meta.unbox(shapes))


def test_layout_of_cudnn():
    """JAX's own function takes the array apart."""
    from jax.experimental import rnn

    layer = make("lstm", num_layers=2, bidirectional=True)
    w_ih, w_hh, b_ih, b_hh = rnn.unpack_lstm_weights(cudnn.dump(layer), 3, 4, 2, True)
    expected = pytorch.dump(layer)
    for index, suffix in enumerate(["_l0", "_l0_reverse", "_l1", "_l1_reverse"]):
        parts = {"weight_ih": w_ih, "weight_hh": w_hh, "bias_ih": b_ih, "bias_hh": b_hh}
        for key, found in parts.items():
            np.testing.assert_array_equal(found[index], expected[key + suffix])


def test_names_of_haiku():
    layer = make("lstm", num_layers=2)
    params = haiku.dump(layer, "agent/~/memory")
    assert sorted(params) == ["agent/~/memory/linear", "agent/~/memory_1/linear"]
    assert_same(haiku.load(params, "agent/~/memory", num_layers=2), layer, 1.2e-7)
    with pytest.raises(
        ValueError, match="prefix: expected the name of a core, got '' and agent/~/memory/linear"
    ):
        haiku.load(params)
    with pytest.raises(ValueError, match="layer: expected the activation relu, got 'tanh'"):
        haiku.dump(nn.RNN(3, 4, rngs=flax_nnx.Rngs(0)))
    with pytest.raises(ValueError, match="source: expected the core lstm_1, got lstm/linear"):
        haiku.load(haiku.dump(make("lstm")), bidirectional=True)


def test_into_fills_a_layer_and_says_what_differs():
    source = pytorch.dump(make("lstm", num_layers=2))
    into = drawn(
        lambda: nn.LSTM(3, 4, num_layers=2, dropout=0.5, norm="layer", rngs=flax_nnx.Rngs(0))
    )
    before = parameters(into)
    wrong = source | {"weight_hh_l1": np.ones((16, 5), np.float32)}
    with pytest.raises(
        ValueError, match=r"weight_hh_l1: expected the shape \(16, 4\), got \(16, 5\)"
    ):
        pytorch.load(wrong, into=into)
    after = parameters(into)
    assert all((before[key] == after[key]).all() for key in before)  # nothing changed
    assert pytorch.load(source, into=into) is into
    found = np.asarray(into.layers[1].forward.w_hh[...]).T
    np.testing.assert_array_equal(found, source["weight_hh_l1"])

    build = lambda cls, *sizes, **options: cls(*sizes, rngs=flax_nnx.Rngs(0), **options)  # noqa: E731
    for other, message in (
        (build(nn.LSTM, 3, 4), "into: expected num_layers=2 as in source, got 1"),
        (
            build(nn.LSTM, 3, 4, num_layers=2, bidirectional=True),
            "bidirectional=False as in source",
        ),
        (
            build(nn.LSTM, 3, 5, num_layers=2),
            r"weight_ih_l0: expected the shape \(20, 3\), got \(16, 3\)",
        ),
        (build(nn.GRU, 3, 4, num_layers=2), "into: expected a layer of LSTM, .* got one of GRU"),
        (
            build(nn.LSTM, 3, 4, num_layers=2, use_bias=False),
            "bias_ih_l0, bias_hh_l0: expected zeros",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            pytorch.load(source, into=other)
    with pytest.raises(ValueError, match="into: expected no options of a new layer, got dropout"):
        pytorch.load(source, into=into, dropout=0.1)
    with pytest.raises(TypeError, match=r"into: expected a seqjax\.nn\.Recurrent"):
        pytorch.load(source, into=flax_nnx.Linear(3, 4, rngs=flax_nnx.Rngs(0)))  # type: ignore[arg-type]


class Frozen(flax_nnx.Param[Any]):
    """Parameters that an optimizer leaves unchanged."""


def test_into_keeps_the_variables_of_the_layer():
    build = lambda: nn.LSTM(4, 4, num_layers=2, rngs=flax_nnx.Rngs(0))  # noqa: E731
    source, into = pytorch.dump(drawn(build)), build()
    first: Any = into.layers[0].forward
    second: Any = into.layers[1].forward
    first.w_ih = kept = Frozen(first.w_ih[...], out_sharding=None, note="kept")
    assert pytorch.load(source, into=into) is into
    assert first.w_ih is kept and kept.note == "kept"
    np.testing.assert_array_equal(np.asarray(kept[...]).T, source["weight_ih_l0"])

    second.w_hh = first.w_hh  # tied
    before = parameters(into)
    with pytest.raises(
        ValueError,
        match=r"into: expected layers\[0\]\.forward\.w_hh and layers\[1\]\.forward\.w_hh to be two",
    ):
        pytorch.load({key: 2 * a for key, a in source.items()}, into=into)
    assert all((before[key] == array).all() for key, array in parameters(into).items())
    pytorch.load(source | {"weight_hh_l1": source["weight_hh_l0"]}, into=into)
    assert second.w_hh is first.w_hh


ONES = {"weight_ih_l0": np.ones((16, 3)), "weight_hh_l0": np.ones((16, 4))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_ih_l0": np.ones((16, 3, 1))}, r"weight_ih_l0: expected 2 axes"),
        ({"weight_ih_l0": np.ones((15, 3))}, r"weight_ih_l0: expected the shape \(16, 3\)"),
        ({"weight_hh_l0": np.ones((16, 5))}, r"weight_hh_l0: expected a recurrent matrix of"),
        ({"weight_hh_l0": np.ones((16, 4), int)}, r"weight_hh_l0: expected floating-point numbers"),
        ({"bias_ih_l0": np.ones(16)}, r"bias_hh_l0: expected weight_ih_l0, .*; it is missing"),
        ({"bias_ih_l0": np.ones(9), "bias_hh_l0": np.ones(16)}, r"bias_ih_l0: expected the shape"),
        ({"weight_ih_l2": np.ones((16, 4))}, r"weight_ih_l1: expected .*; it is missing"),
        ({"weight_ih_l0_reverse": np.ones((16, 4))}, r"weight_hh_l0_reverse: expected"),
        ({"weight_hx_l0": np.ones((16, 4))}, r"weight_hx_l0: expected the names of one layer"),
    ],
)  # fmt: skip
def test_mistakes_in_arrays_are_named(change, message):
    with pytest.raises(ValueError, match="^" + message):
        pytorch.load(ONES | change)


def test_other_mistakes():
    with pytest.raises(TypeError, match="source: expected a state dict or a path, got 3"):
        pytorch.load(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"layer: expected a seqjax\.nn\.Recurrent, got 3"):
        pytorch.dump(3)  # type: ignore[arg-type]
    rngs = flax_nnx.Rngs(0)
    for layer, message in (
        (
            nn.Recurrent(cells.MGU(3, 4), rngs=rngs),
            "a cell that PyTorch has .Elman, LSTM, .*, got MGU",
        ),
        (nn.GRU(3, 4, reset_after=False, rngs=rngs), "got ChoGRU"),
        (
            nn.RNN(3, 4, activation="sigmoid", rngs=rngs),
            "the activation tanh or relu, got 'sigmoid'",
        ),
        (nn.LSTM(3, 3, residual=True, rngs=rngs), "got a layer with residual"),
        (nn.LSTM(3, 4, num_layers=2, norm="layer", rngs=rngs), "got a layer with norm"),
        (nn.LSTM(3, 4, learned_initial_state=True, rngs=rngs), "with learned_initial_state"),
        (nn.LSTM(3, 4, bidirectional=True, merge_mode="sum", rngs=rngs), "with merge_mode='sum'"),
    ):
        with pytest.raises(ValueError, match="layer: expected .*" + message):
            pytorch.dump(layer)
    with pytest.raises(ValueError, match=r"norm: expected no such option of a new layer, got"):
        pytorch.load(ONES, norm="layer")
    with pytest.raises(ValueError, match=r"source\[0\]: expected the kernel, .* got 5 arrays"):
        keras.load([np.ones(3)] * 5)
    one, both = (keras.dump(make("lstm", bidirectional=b))[0] for b in (False, True))
    with pytest.raises(ValueError, match=r"source: expected all layers with one .* got 1, 2"):
        keras.load([one, both])
    with pytest.raises(ValueError, match=r"source: expected at least one layer"):
        keras.load([])
    with pytest.raises(ValueError, match=r"prefix: expected '' for a source that is not a file"):
        keras.load([np.ones(3)] * 3, "layers")
    with pytest.raises(
        ValueError, match=r"layers\[0\]\.forward\.bias: expected the shape \(2, 12\)"
    ):
        keras.load([np.ones((3, 12)), np.ones((4, 12)), np.ones(12)], reset_after=True)
    with pytest.raises(ValueError, match=r"source: expected the shape \(144,\), got \(143,\)"):
        cudnn.load(np.ones(143), 3, 4)
    with pytest.raises(TypeError, match="source: expected a cell of Equinox or its arrays, got 3"):
        equinox.load(3)


def test_masked_weights_are_refused():
    state = pytorch.dump(nn.GRU(3, 5, rngs=flax_nnx.Rngs(0)))
    gappy = np.ma.array(state["weight_hh_l0"], mask=state["weight_hh_l0"] > 0)
    with pytest.raises(ValueError, match="weight_hh_l0: expected no masked entries"):
        pytorch.load(state | {"weight_hh_l0": gappy})
