"""`load` and `dump` for the layers of single papers: LRU, RG-LRU, S5, SRU and sLSTM.

`tests/test_cells_lru.py`, `test_cells_s5.py` and `test_cells_sru.py` compare loaded cells with the
authors' code. Here whole layers are compared with it.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import nn
from seqjax.interop import minimal_lru, recurrentgemma, s5, sru, xlstm
from tests.interop.layers import assert_same
from tests.interop.papers import (
    BIAS,
    KERNEL,
    lru_arrays,
    new,
    rg_lru_arrays,
    s5_arrays,
    sru_arrays,
    xlstm_arrays,
)
from tests.nn.helpers import drawn, jit

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


# The authors' code.


def golden(name: str) -> Any:
    """Values and derivatives of a file, and its arrays without derivatives."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if key != "config"}
    buffers = {key: arrays.pop(key) for key in [*arrays] if key.endswith("scale_x")}
    arrays.pop("initial_eigenvalues", None)
    return [{key: pair[i] for key, pair in arrays.items()} for i in (0, 1)], buffers


def convolved(arrays: Any, xs: Any) -> Any:
    """The inputs of the gates i and f, and those of z and o, side by side."""
    w, b = arrays["conv1d.conv.weight"], arrays["conv1d.conv.bias"]
    padded = jnp.pad(xs, ((0, 0), (w.shape[2] - 1, 0), (0, 0)))
    terms = [w[:, 0, k] * padded[:, k : k + xs.shape[1]] for k in range(w.shape[2])]
    return jnp.concatenate([jax.nn.silu(sum(terms) + b), xs], axis=-1)


CASES: dict[str, Any] = {
    "s5_sru/s5_bidirectional": lambda arrays: s5.load(arrays, clip_eigenvalues=True),
    "s5_sru/sru_stack": lambda arrays: sru.load(arrays, bidirectional=False, time_major=True),
    "s5_sru/sru_bidirectional": lambda arrays: sru.load(
        arrays, bidirectional=True, time_major=True
    ),
    "xlstm/layer": xlstm.load,
    "xlstm/layer_convolved": xlstm.load,
}


@pytest.mark.quick("xlstm/layer")
@pytest.mark.parametrize("name", CASES)
def test_equals_the_authors_code(name):
    """Outputs, and the gradients by the authors' arrays."""
    (values, derivatives), buffers = golden(name)

    def loss(given):
        arrays = {key: array for key, array in given.items() if key != "input"}
        xs = given["input"]
        if name.endswith("convolved"):
            xs = convolved(arrays, xs)
        outputs = CASES[name]({**arrays, **buffers})(xs).outputs
        return (outputs * derivatives["output"]).sum(), outputs

    expected = values.pop("output"), {k: v for k, v in derivatives.items() if k != "output"}
    found, outputs = jit(jax.grad(loss, has_aux=True))(values)
    np.testing.assert_allclose(outputs, expected[0], 1e-5, 1e-5, strict=True)
    assert found.keys() == expected[1].keys()
    for key, gradient in expected[1].items():
        assert gradient.any()
        np.testing.assert_allclose(found[key], gradient, 1e-5, 1e-5, err_msg=key, strict=True)


def test_new_layers_have_the_options_that_the_source_determines():
    (values, _), buffers = golden("s5_sru/sru_stack")
    weights = {key: array for key, array in values.items() if key.startswith("rnn_lst")}
    stack: Any = sru.load(weights | buffers, bidirectional=False)
    assert (stack.num_layers, stack.cell.rescale, stack.cell.highway_bias) == (2, True, -1.0)
    cell: Any = xlstm.load(xlstm_arrays()).cell
    assert cell.num_heads == 2 and cell.head_norm and cell.forget_gate == "sigmoid"
    cell = s5.load(s5_arrays(), conj_pairs=False).cell
    assert not cell.clip_eigenvalues and not cell.conj_pairs and cell.discretization == "zoh"
    assert s5.load(s5_arrays("C1", "C2")).merge_mode == "sum"


def test_both_backends_of_xlstm():
    """The layouts that the library's conversions between the backends give."""
    vanilla = xlstm_arrays()
    kernel = vanilla[KERNEL].reshape(2, 4, 3, 3).transpose(0, 3, 1, 2).reshape(2, 3, 12)
    bias = vanilla[BIAS].reshape(4, 2, 3).transpose(1, 0, 2).reshape(-1)
    cuda = vanilla | {KERNEL: kernel, BIAS: bias}
    layer = xlstm.load(cuda)
    assert_same(layer, xlstm.load(vanilla))
    dumped = xlstm.dump(layer, backend="cuda")
    for key in (KERNEL, BIAS):
        np.testing.assert_array_equal(dumped[key], cuda[key], err_msg=key, strict=True)


# There and back.


SOURCES: dict[str, Any] = {
    "minimal_lru": (lru_arrays(), minimal_lru.load, lambda l: minimal_lru.dump(l)["params"]),
    "recurrentgemma": (rg_lru_arrays(), recurrentgemma.load, recurrentgemma.dump),
    "s5": (s5_arrays(), s5.load, lambda l: s5.dump(l)["params"]),
    "s5_both": (s5_arrays("C1", "C2"), s5.load, lambda l: s5.dump(l)["params"]),
    "sru": (
        {f"rnn_lst.{i}.{k}": a for i, n in enumerate((3, 4)) for k, a in sru_arrays(n).items()},
        functools.partial(sru.load, bidirectional=False),
        sru.dump,
    ),
    "sru_both": (
        {f"rnn_lst.{i}.{k}": a for i, n in enumerate((3, 8)) for k, a in sru_arrays(n, 8).items()},
        functools.partial(sru.load, bidirectional=True),
        sru.dump,
    ),
    "xlstm": (xlstm_arrays(), xlstm.load, xlstm.dump),
}


@pytest.mark.parametrize("name", SOURCES)
def test_there_and_back(name):
    arrays, load, dump = SOURCES[name]
    layer = load(arrays)
    back = dump(layer)
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        # The gain of xlstm is 1 + weight, which is rounded.
        atol = 1.2e-7 if key == "group_norm.weight" else 0
        np.testing.assert_allclose(back[key], array, 0, atol, err_msg=key, strict=True)
        assert back[key].flags.writeable
    again = load(back)
    assert_same(again, layer)
    assert again.cell == layer.cell
    # Into a layer that has other numbers.
    filled = load({k: a if k.endswith("scale_x") else 2 * a for k, a in arrays.items()})
    assert load(arrays, into=filled) is filled
    assert_same(filled, layer)


@pytest.mark.parametrize("scale", [1.0, 3**0.5, (1 + 2 * np.exp(0.123456789)) ** 0.5])
def test_the_scale_of_sru(scale):
    for arrays in (sru_arrays(3, 5, scale), sru_arrays(5, 5, scale)):
        layer: Any = sru.load(arrays)
        assert np.float32(layer.cell.alpha) == arrays["scale_x"]
        back = {key.removeprefix("rnn_lst.0."): a for key, a in sru.dump(layer).items()}
        for key, array in arrays.items():
            np.testing.assert_allclose(back[key], array, 2e-7, 0, err_msg=key, strict=True)
        if scale == 3**0.5:  # the default highway bias of 0
            into = drawn(new(nn.SRU, len(arrays["weight"]), 5))
            assert_same(sru.load(arrays, into=into), layer)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("bias", [0.0, -1.5, 0.1234])
def test_the_scale_of_sru_in_a_wider_dtype(dtype, bias):
    made: Any = new(nn.SRU, 3, 5, highway_bias=bias)
    layer = drawn(made)
    arrays = {key: np.asarray(a).astype(dtype) for key, a in sru.dump(layer).items()}
    double = {key: a.astype(np.float64) for key, a in arrays.items()}
    into = drawn(made)
    assert sru.load(double, into=into) is into
    found: Any = sru.load(double, bidirectional=False).cell
    assert np.float64(dtype(found.alpha)) == double["rnn_lst.0.scale_x"]
    if bias != 0.1234:  # so many digits do not survive in half precision
        assert found.highway_bias == bias


def test_zeros_stand_for_what_a_side_lacks():
    make = new(nn.RGLRU, 6, 6, use_bias=False)
    gates = recurrentgemma.dump(drawn(make))
    assert not gates["a_gate.b"].any() and not gates["input_gate.b"].any()
    plain = drawn(make, seed=2)
    np.testing.assert_array_equal(
        recurrentgemma.dump(recurrentgemma.load(gates, into=plain))["a_gate.w"], gates["a_gate.w"]
    )
    with pytest.raises(
        ValueError, match=r"^a_gate\.b, input_gate\.b: expected zeros, since the target has no b,"
    ):
        recurrentgemma.load({**gates, "a_gate.b": gates["a_gate.b"] + 1}, into=plain)
    arrays = sru_arrays(3, 5)
    with pytest.raises(ValueError, match=r"^weight_c: expected zeros, since the target has no v,"):
        sru.load(arrays, use_peephole=False)
    linear: Any = sru.load({**arrays, "weight_c": 0 * arrays["weight_c"]}, use_peephole=False)
    assert not linear.cell.use_peephole
    assert not sru.dump(linear)["rnn_lst.0.weight_c"].any()
    xlstm.load({k: a for k, a in xlstm_arrays().items() if k != "group_norm.weight"})


# Names, files and dtypes.


def test_forms_of_recurrentgemma():
    arrays = rg_lru_arrays()
    layer = recurrentgemma.load(arrays)
    tree = recurrentgemma.dump(layer, form="flax")
    model = {"blocks.0": {"recurrent_block": {"rg_lru": tree["params"], "linear_x": {"w": 1.0}}}}
    for prefix in ("blocks.0.recurrent_block.rg_lru", "blocks.0/recurrent_block/rg_lru/"):
        assert_same(recurrentgemma.load(model, prefix), layer)
    named = recurrentgemma.dump(layer, "model.layers.0", form="transformers")
    np.testing.assert_array_equal(named["model.layers.0.recurrent_gate_weight"], arrays["a_gate.w"])
    np.testing.assert_array_equal(named["model.layers.0.input_gate_bias"], arrays["input_gate.b"])
    assert_same(recurrentgemma.load(named, "model.layers.0"), layer)
    with pytest.raises(
        ValueError, match=r"prefix: .* got '.*'; choose a layer by prefix='model\.layers\.0'"
    ):
        recurrentgemma.load({**named, "model.norm": np.ones(6)})
    with pytest.raises(ValueError, match="prefix: expected '' with form='flax', got 'a'"):
        recurrentgemma.dump(layer, "a", form="flax")
    with pytest.raises(ValueError, match="form: expected one of torch, flax, transformers; got"):
        recurrentgemma.dump(layer, form="jax")  # type: ignore[arg-type]


def test_a_file_and_a_layer_of_half_precision(tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    arrays = {f"a.rg_lru.{k}": a.astype(jnp.bfloat16) for k, a in rg_lru_arrays().items()}
    save_file({**arrays, "a.rest": np.ones(3, np.int8)}, tmp_path / "model.safetensors")
    layer = recurrentgemma.load(tmp_path / "model.safetensors", "a.rg_lru")
    assert layer.param_dtype == jnp.bfloat16
    assert recurrentgemma.dump(layer)["a_param"].dtype == jnp.bfloat16
    state = {k: a.astype(np.float16) for k, a in sru_arrays(3, 5, 3**0.5).items()}
    other = sru.load(state)
    assert other.param_dtype == jnp.float16
    assert {a.dtype.name for a in sru.dump(other).values()} == {"float16"}


def test_prefixes_of_state_dicts():
    wrapped = {f"module.rnn.rnn_lst.0.{key}": a for key, a in sru_arrays(3, 5).items()}
    assert sru.load(wrapped, "rnn").num_layers == sru.load(wrapped, "rnn.rnn_lst.0").num_layers == 1
    with pytest.raises(ValueError, match="got ''; choose a layer by prefix='rnn'"):
        sru.load(wrapped)
    with pytest.raises(ValueError, match=r"got ''; choose a layer by prefix='blocks\.1\.xlstm'"):
        xlstm.load({f"blocks.1.xlstm.{key}": a for key, a in xlstm_arrays().items()})


def test_prefixes_of_trees():
    model = {"params": {"encoder": {"layers_0": {"seq": lru_arrays(), "out1": {"bias": 1.0}}}}}
    layer = minimal_lru.load(model, "encoder/layers_0/seq", param_dtype=jnp.bfloat16)
    assert layer.param_dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="; choose a layer by prefix='encoder/layers_0/seq'"):
        minimal_lru.load(model, "encoder")
    with pytest.raises(ValueError, match="prefix: expected names that begin with 'decoder/', got"):
        s5.load(model, "decoder")
