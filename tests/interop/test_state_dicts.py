"""State dicts of PyTorch as users have them: wrapped, normalised, quantised, in checkpoints."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import nn
from seqjax.interop import pytorch
from tests.interop.forward import check, f64, random, sigmoid, torch_lstm
from tests.interop.layers import assert_same, make


def lstm(prefix: str = "", suffix: str = "_l0", inputs: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, Any] = {
        "weight_ih": (16, inputs),
        "weight_hh": (16, 4),
        "bias_ih": 16,
        "bias_hh": 16,
    }
    return {
        f"{prefix}{name}{suffix}": (0.5 * rng.normal(size=shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


XS = random(2, 5, 3)
STYLES = {
    "hook": ("{before}{name}_g", "{before}{name}_v"),
    "parametrization": (
        "{before}parametrizations.{name}.original0",
        "{before}parametrizations.{name}.original1",
    ),
}


@pytest.mark.quick("axes0--hook", "axes1-rnn.-parametrization")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("axes", "prefix"), [((1,), ""), ((0,), "rnn."), ((0, 1), "a.rnn.")])
def test_weight_normalisation(style, axes, prefix):
    state = lstm(prefix)
    v = f64(state.pop(f"{prefix}weight_hh_l0"))
    g = f64(random(*(1 if axis in axes else size for axis, size in enumerate((16, 4)))))
    weight = g * v / np.sqrt((v**2).sum(axes, keepdims=True))
    if axes == (0, 1):
        g = g[0, 0]
    names = [name.format(before=prefix, name="weight_hh_l0") for name in STYLES[style]]
    stored = state | {names[0]: g.astype(np.float32), names[1]: v.astype(np.float32)}
    layer = pytorch.load(stored, prefix)
    full = {key.removeprefix(prefix): a for key, a in state.items()} | {"weight_hh_l0": weight}
    check(layer, XS, torch_lstm(full, XS))
    traced = jax.jit(lambda s: pytorch.load(s, prefix)(XS).outputs)(stored)
    np.testing.assert_allclose(traced, torch_lstm(full, XS), 0, 1e-5)
    with pytest.raises(ValueError, match=r"_g|original0: expected the magnitude of weight norm"):
        pytorch.load(stored | {names[0]: np.ones((4, 16))}, prefix)
    # Another parametrization may store two arrays, too, such as a fixed part and a difference.
    for shape in [(16, 4), (1,), (1, 1), (16,), (4, 1)]:
        with pytest.raises(ValueError, match=r"shape \(16, 1\) or \(1, 4\) or \(\), got"):
            pytorch.load(stored | {names[0]: np.ones(shape)}, prefix)
    with pytest.raises(ValueError, match=r": expected a norm above zero, got a row of zeros"):
        pytorch.load(stored | {names[1]: np.zeros((16, 4))}, prefix)
    half = {name: a.astype(jnp.bfloat16) for name, a in stored.items()}
    assert pytorch.load(half, prefix).param_dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("wrapped", "extra"),
    [
        ("module.{}", {}),
        ("_orig_mod.{}", {}),
        ("_orig_mod.module.{}", {}),
        ("module._orig_mod.{}", {}),
        ("_fsdp_wrapped_module.{}", {}),
        ("module.{}", {"n_averaged": np.array(3)}),
    ],
)
def test_wrappers(wrapped, extra):
    state = lstm("encoder.rnn.") | {"encoder.out.weight": np.ones((2, 4), np.float32)}
    model = {wrapped.format(name): a for name, a in state.items()} | extra
    expected = torch_lstm(lstm(), XS)
    for prefix in ("encoder.rnn", "encoder.rnn.", wrapped.format("encoder.rnn")):
        check(pytorch.load(model, prefix), XS, expected)
    alone = {wrapped.format(name): a for name, a in lstm().items()}
    check(pytorch.load(alone | extra), XS, expected)


def test_modules_that_are_named_like_wrappers():
    state = lstm("module.") | {"head": np.ones(2)}
    check(pytorch.load(state, "module"), XS, torch_lstm(lstm(), XS))
    with pytest.raises(
        ValueError, match=r"expected one array of this name, got module\.weight_ih_l0"
    ):
        pytorch.load(state | {f"_orig_mod.{name}": a for name, a in state.items()}, "module")


CHECKPOINTS: dict[str, tuple[Any, str]] = {
    "model": ({"model": lstm("rnn."), "optimizer": {"state": {}, "param_groups": []}}, "['model']"),
    "lightning": ({"epoch": 3, "state_dict": lstm("net.rnn.")}, "['state_dict']"),
    "nested": ({"a": {"ema": lstm("module."), "step": 1}, "b": 2}, "['a']['ema']"),
    "two": ({"enc": lstm(), "dec": lstm()}, "['enc'] or source['dec']"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_training_checkpoints(name):
    checkpoint, where = CHECKPOINTS[name]
    for prefix in ("", "rnn"):
        with pytest.raises(ValueError) as caught:
            pytorch.load(checkpoint, prefix)
        assert str(caught.value).startswith("source: expected a state dict, got a training checkp")
        assert str(caught.value).endswith(f"; pass source{where}")


def quantised(*names: str) -> dict[str, Any]:
    return {name: object() for name in names}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            quantised("_all_weight_values.0.param"),
            "_all_weight_values.0.param: this name is from a q",
        ),
        (
            quantised("_packed_weight_ih", "_packed_weight_hh"),
            "_packed_weight_ih: this name is from a q",
        ),
        (
            quantised("1._packed_params.dtype", "1.scale"),
            "1._packed_params.dtype: this name is from a q",
        ),
        (
            quantised("layers.0.layer_fw.cell.igates.weight"),
            "igates.weight: this name is from a ",
        ),
        (
            lstm() | {"weight_hh_l0_orig": 1, "weight_hh_l0_u": 2},
            "_orig: this name is from a parametrise",
        ),
        (
            {"parametrizations.weight_hh_l0.original": 1, "parametrizations.weight_hh_l0.0._u": 2},
            "call torch.nn.utils.parametrize.remove_parametrizations",
        ),
        ({"weight_hh_l0_raw": 1, "module.weight_hh_l0": 1}, "this is a weight before dropout"),
        (
            lstm("cells.0.", "") | lstm("cells.1.", ""),
            "prefix='cells.0' or prefix='cells.1'; load several",
        ),
        (
            {"fc.weight": np.ones((2, 2))},
            "expected the names of one layer, .*; there is no recurrent",
        ),
    ],
)
def test_names_that_are_not_of_one_layer(state, message):
    with pytest.raises(ValueError, match=message):
        pytorch.load(state)
    moved = {f"net.{name}": value for name, value in state.items()}
    with pytest.raises(ValueError, match=message.replace("'cells", "'net.cells")):
        pytorch.load(moved, "net")
    with pytest.raises(
        ValueError, match=r"^prefix: expected names that begin with 'rnn\.', got net\."
    ):
        pytorch.load(moved, "rnn")


def test_lists_of_cells():
    cells = lstm("cells.0.", "") | lstm("cells.1.", "", inputs=4, seed=1)
    layer = pytorch.load(cells, ["cells.0", "cells.1"])
    first = torch_lstm(lstm(), XS)
    check(layer, XS, torch_lstm(lstm(inputs=4, seed=1), first))
    for index, inputs in ((0, 3), (1, 4)):
        alone = pytorch.load(cells, f"cells.{index}")
        assert (alone.num_layers, alone.cell.input_size) == (1, inputs)
    sides = lstm("fw.", "") | lstm("bw.", seed=2)
    both = pytorch.load(sides, [nn.Bidirectional("fw", "bw")], merge_mode="sum")
    back = torch_lstm(lstm(seed=2), XS[:, ::-1])[:, ::-1]
    check(both, XS, first + back)
    with pytest.raises(ValueError, match="prefix: expected at least one path"):
        pytorch.load(cells, [])
    with pytest.raises(TypeError, match="prefix: expected a string, got 0"):
        pytorch.load(cells, [0, 1])
    with pytest.raises(
        ValueError, match="prefix: expected one layer of one direction at 'rnn', got"
    ):
        two = pytorch.dump(make("lstm", num_layers=2), "rnn")
        pytorch.load(two, [nn.Bidirectional("rnn", "rnn")])


def test_sources_that_are_no_state_dicts():
    class Module:
        def state_dict(self) -> Any:
            return lstm()

    with pytest.raises(TypeError, match=r"source: .* got a Module; pass its state_dict\(\)"):
        pytorch.load(Module())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="source: expected names that are strings, got 0"):
        pytorch.load({0: np.ones(3)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"source: .* got weights\.npz; pass dict\(numpy\.load"):
        pytorch.load("weights.npz")
    with pytest.raises(FileNotFoundError, match="SAFETENSORS"):
        pytorch.load("missing.SAFETENSORS")
    with pytest.raises(ValueError, match=r"^weight_hh_l0: expected an array, got"):
        pytorch.load(lstm() | {"weight_hh_l0": [[1.0], [1.0, 2.0]]})


# Files, written by hand: length, header, bytes.


def write(path: Any, tensors: dict[str, tuple[str, Any, bytes]]) -> Any:
    header, start = {}, 0
    for name, (dtype, shape, body) in tensors.items():
        place = [start, start + len(body)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        start += len(body)
    text = json.dumps(header).encode()
    bodies = b"".join(body for *_, body in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + bodies)
    return path


NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def written(path: Any, state: dict[str, Any]) -> Any:
    tensors = {n: (NAMES[a.dtype.name], a.shape, a.tobytes()) for n, a in state.items()}
    return write(path, tensors)


@pytest.mark.parametrize("dtype", NAMES)
def test_dtypes_of_safetensors(tmp_path, dtype):
    pytest.importorskip("safetensors")
    state = {name: a.astype(dtype) for name, a in lstm().items()}
    layer = pytorch.load(written(tmp_path / "m.safetensors", state))
    assert layer.param_dtype == (np.float32 if dtype == "float64" else dtype)
    low = dtype in ("float16", "bfloat16")
    check(layer, XS, torch_lstm(state, XS), 0.05 if low else 1e-5)
    assert_same(layer, pytorch.load(state))


@pytest.mark.parametrize(
    ("dtype", "size", "message"),
    [
        ("F8_E4M3", 1, "expected floating-point numbers of 16 bits or more, got F8_E4M3; convert"),
        ("F8_E5M2", 1, "expected floating-point numbers of 16 bits or more, got F8_E5M2; convert"),
        ("I8", 1, "expected floating-point numbers, got I8; a quantised model must be converted"),
        ("I64", 8, "expected floating-point numbers, got I64; a quantised"),
        ("BOOL", 1, "expected floating-point numbers, got BOOL; a quantised"),
    ],
)
def test_safetensors_of_other_numbers(tmp_path, dtype, size, message):
    pytest.importorskip("safetensors")
    tensors = {n: ("F32", a.shape, a.tobytes()) for n, a in lstm("a.").items()}
    tensors["a.weight_hh_l0"] = (dtype, (16, 4), bytes(64 * size))
    path = write(tmp_path / "m.safetensors", tensors)
    for prefix in ("a", "a."):
        with pytest.raises(ValueError, match=f"^a.weight_hh_l0: {message}"):
            pytorch.load(path, prefix)
    # What is not of the layer is not read.
    tensors["a.weight_hh_l0"] = ("F32", (16, 4), bytes(256))
    tensors["table"] = (dtype, (2,), bytes(2 * size))
    assert pytorch.load(write(path, tensors), "a").cell.hidden_size == 4
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    assert pytorch.load(write(path, wrapped), "a").cell.hidden_size == 4


def test_damaged_safetensors(tmp_path):
    """Whatever byte changes, a layer is loaded or a `ValueError` is raised."""
    pytest.importorskip("safetensors")
    path = written(tmp_path / "m.safetensors", lstm("a."))
    body = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(body[:8], "little")
    raised = 0
    for trial in range(150):
        damaged = bytearray(body)
        for place in rng.integers(0, header, 1 + trial % 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            pytorch.load(path, "a")
        except ValueError:
            raised += 1
    assert raised > 75


# States.

STATES = [
    ("rnn", {}), ("lstm", {"num_layers": 2}), ("lstm", {"num_layers": 2, "bidirectional": True}),
    ("projected", {"bidirectional": True}), ("gru", {"num_layers": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), STATES)
@pytest.mark.parametrize("batch", [(), (7,)])
def test_states(kind, options, batch):
    layer = make(kind, **options)
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    width = 2 if kind == "projected" else 4
    h, c = random(count, *batch, width), random(count, *batch, 4)
    source = (h, c) if kind in ("lstm", "projected") else h
    state = pytorch.load_state(layer, source)
    like = layer.initial_state(batch)
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, like)
    index = 0
    for entry in state:
        for side in entry if layer.bidirectional else [entry]:
            np.testing.assert_array_equal(side.h if isinstance(source, tuple) else side, h[index])
            if isinstance(source, tuple):
                np.testing.assert_array_equal(side.c, c[index])
            index += 1
    back = pytorch.dump_state(layer, state)
    assert isinstance(back, tuple) == isinstance(source, tuple)
    jax.tree.map(np.testing.assert_array_equal, back, source)


def test_a_state_of_pytorch_is_an_initial_state():
    layer, h, c = pytorch.load(lstm()), random(1, 2, 4), random(1, 2, 4, 1)[..., 0]
    arrays = [
        f64(lstm()[f"{name}_l0"]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    z = XS[:, 0] @ arrays[0].T + h[0] @ arrays[1].T + arrays[2] + arrays[3]
    i, f, g, o = np.split(z, 4, -1)
    memory = sigmoid(f) * c[0] + sigmoid(i) * np.tanh(g)
    start = pytorch.load_state(layer, (h, c))
    _, state = layer(XS[:, :1], initial_state=start)
    expected = (sigmoid(o) * np.tanh(memory))[None], memory[None]
    for found, value in zip(pytorch.dump_state(layer, state), expected, strict=True):
        np.testing.assert_allclose(found, value, 0, 1e-5)


def test_states_that_do_not_fit():
    layer, gru = make("lstm", num_layers=2), make("gru")
    h = np.zeros((2, 7, 4), np.float32)
    for source, message in (
        (h, r"source: expected \(h, c\), got 1 arrays"),
        ((h, h, h), r"source: expected \(h, c\), got 3 arrays"),
        ((h[:1], h), r"h: expected the shape \[2, \.\.\., 4\] .*, got \(1, 7, 4\)"),
        (
            (h, h[:, :6]),
            r"c: expected the shape \[2, .* same batch axes in all arrays, got \(2, 6, 4\)",
        ),
        ((h, h[..., :3]), r"c: expected the shape"),
        ((h[0, 0], h[0, 0]), r"h: expected the shape"),
    ):
        with pytest.raises(ValueError, match="^" + message):
            pytorch.load_state(layer, source)
    with pytest.raises(ValueError, match=r"source: expected h alone, got 2 arrays"):
        pytorch.load_state(gru, (h, h))
    with pytest.raises(ValueError, match=r"^state: expected a state of the layer"):
        pytorch.dump_state(layer, gru.initial_state([7]))
    with pytest.raises(ValueError, match=r"^state: expected a state of the layer"):
        pytorch.dump_state(gru, (np.zeros((7, 5)),))
    for other in (3, nn.GRU(3, 4, reset_after=False, rngs=jax.random.key(0))):
        with pytest.raises(TypeError, match=r"^layer: expected"):
            pytorch.load_state(other, h)  # type: ignore[arg-type]
