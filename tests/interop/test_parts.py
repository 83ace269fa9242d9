"""Which arrays of a source are a layer's, and what an error says of those that are missing."""

import re
from typing import Any

import numpy as np
import pytest
from flax import nnx as flax_nnx

from seqjax import nn
from seqjax.interop import cudnn, equinox, haiku, keras, linen, nnx, pytorch
from tests.interop.forward import random
from tests.interop.layers import assert_same, make

EQUINOX: dict[str, Any] = equinox.dump(make("gru"))[0]


def recurrent() -> Any:
    rngs = flax_nnx.Rngs(0, carry=1)
    return flax_nnx.RNN(flax_nnx.GRUCell(3, 4, rngs=rngs), rngs=rngs)


def test_states_of_nnx_with_random_number_streams():
    peer = recurrent()
    expected = nnx.load(peer)
    state = flax_nnx.state(peer)
    pure = flax_nnx.to_pure_dict(state)
    assert {"rngs", "cell"} == pure.keys()
    for source in (state, pure, flax_nnx.split(peer)[1], flax_nnx.state(peer, flax_nnx.Param)):
        assert_same(nnx.load(source), expected)
        assert_same(nnx.load([source]), expected)
    for model in ({"enc": state, "head": {"kernel": random(2, 2)}}, {"enc": pure}):
        assert_same(nnx.load(model, "enc"), expected)
    one = recurrent()
    both = flax_nnx.Bidirectional(one, recurrent(), rngs=flax_nnx.Rngs(2))
    state = flax_nnx.state(both)
    for source in (state, flax_nnx.to_pure_dict(state)):
        assert_same(nnx.load(source), nnx.load(both))
    pair = nn.Bidirectional(*(flax_nnx.state(part) for part in (one, recurrent())))
    assert_same(nnx.load(pair), nnx.load(both))


@pytest.mark.parametrize("before", ["", "enc."])
def test_modules_inside_a_layer_of_pytorch(before):
    layer = make("lstm", bidirectional=True)
    source = pytorch.dump(layer, before) | {f"{before}proj.weight": random(2, 5)}
    assert_same(pytorch.load(source, before), layer)
    inner = {f"{before}decoder.{key}": a for key, a in pytorch.dump(make("gru")).items()}
    assert_same(pytorch.load(source | inner, before), layer)
    assert_same(pytorch.load(source | inner, f"{before}decoder"), make("gru"))
    message = rf"^{before}h0: expected the names of one layer, .*; leave it out of the source"
    with pytest.raises(ValueError, match=message):
        pytorch.load(source | {f"{before}h0": random(2, 4)}, before)


@pytest.mark.parametrize("module", [linen, nnx])
def test_a_head_beside_a_cell_of_flax(module):
    layer = make("lstm")
    (tree,) = module.dump(layer)
    tree = tree.get("params", tree)
    head = {"head": {"kernel": random(4, 2)}}
    assert_same(module.load(tree | head), layer)
    assert_same(module.load({"enc": tree | head}, "enc"), layer)
    message = "prefix: expected the path to one layer, got ''; choose a layer by prefix="
    with pytest.raises(ValueError, match=message + "'cell' or prefix='decoder'"):
        module.load(tree | {"decoder": tree})
    with pytest.raises(ValueError, match=r"^head/kernel: .* leave it out of the source"):
        module.load(tree["cell"] | head)
    with pytest.raises(ValueError, match=r"^decoder/.* leave it out of the source"):
        module.load(tree["cell"] | {"decoder": tree["cell"]})


def without(tree: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != name}


NNX = nnx.dump(make("lstm"))[0]["cell"]
VANILLA = haiku.dump(nn.RNN(3, 4, activation="relu", rngs=flax_nnx.Rngs(0)))
PROJECTED = pytorch.dump(make("projected"))


@pytest.mark.parametrize(
    ("load", "source", "message"),
    [
        (equinox.load, without(EQUINOX, "bias_n"), "^bias_n: expected weight_ih, .*; it is miss"),
        (equinox.load, without(EQUINOX, "bias"), "^bias: expected weight_ih, .*; it is missing"),
        (
            equinox.load,
            without(EQUINOX, "bias_n") | {"bias_m": EQUINOX["bias_n"]},
            "^bias_m: expected .*, bias_n; this name is unknown",
        ),
        (
            equinox.load,
            [EQUINOX, {key: random(12, 4) for key in ("weight_ih", "weight_hh")} | {
                "bias": random(12)
            }],
            r"^source\[1\]\.bias_n: .*; it is missing",
        ),
        (nnx.load, without(NNX, "dense_h") | {"dense_h": {"kernel": NNX["dense_h"]["kernel"]}},
         "^dense_h/bias: expected .*; it is missing"),
        (haiku.load, without(VANILLA, "vanilla_rnn/linear_1"),
         "^vanilla_rnn/linear_1/w: expected .*; it is missing"),
        (pytorch.load, without(PROJECTED, "weight_hr_l0"), "^weight_hr_l0: .*; it is missing"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_by_the_shapes(load, source, message):
    with pytest.raises(ValueError, match=message):
        load(source)


def test_what_is_missing_for_a_layer_that_exists():
    with pytest.raises(ValueError, match=r"^bias_n: expected .*; it is missing"):
        equinox.load(without(EQUINOX, "bias_n"), into=make("gru"))


CELLS = {
    **pytorch.dump(make("lstm"), "a"),
    **pytorch.dump(nn.GRU(4, 4, rngs=flax_nnx.Rngs(0)), "b"),
}
CHO = nn.GRU(4, 4, reset_after=False, rngs=flax_nnx.Rngs(0))
TREES = {kind: linen.dump(make(kind))[0]["params"] for kind in ("lstm", "gru")}


@pytest.mark.parametrize(
    ("load", "found"),
    [
        (
            lambda **o: keras.load(
                [keras.dump(make("gru"))[0], [random(4, 12), random(4, 12), random(12)]], **o
            ),
            "GRU with layers[0].forward.kernel and ChoGRU with layers[1].forward.kernel",
        ),
        (
            lambda **o: pytorch.load(CELLS, ["a", "b"], **o),
            "LSTM with a.weight_ih_l0 and GRU with b.weight_ih_l0",
        ),
        (
            lambda **o: linen.load(
                {"forward_rnn": TREES["lstm"], "backward_rnn": TREES["gru"]}, **o
            ),
            "LSTM with forward_rnn/cell/ii/kernel and GRU with backward_rnn/cell/ir/kernel",
        ),
        (
            lambda **o: equinox.load(nn.Bidirectional(equinox.dump(make("lstm"))[0], EQUINOX), **o),
            "LSTM with weight_ih and GRU with weight_ih",
        ),
        (
            lambda **o: haiku.load(
                haiku.dump(make("lstm"), "core") | haiku.dump(CHO, "core_1"),
                "core", num_layers=2, **o
            ),
            "LSTM with core/linear/w and ChoGRU with core_1/w_i",
        ),
    ],
)  # fmt: skip
def test_cells_of_two_kinds(load, found):
    message = "source: expected one kind of cell in all layers and directions, got " + found
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        load()


def test_an_activation_that_a_library_does_not_have():
    source = pytorch.dump(make("rnn"))
    into = nn.RNN(3, 4, activation="sigmoid", rngs=flax_nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"^into: expected the activation tanh or relu, got 'sig"):
        pytorch.load(source, into=into)
    with pytest.raises(ValueError, match=r"^activation: expected the activation tanh or relu, got"):
        pytorch.load(source, activation="sigmoid")


PLAIN = pytorch.dump(make("lstm"))


@pytest.mark.parametrize(
    ("load", "source", "message"),
    [
        (haiku.load, {"lstm/linear": {"w": np.ones((4, 20)), "b": np.ones(20)}},
         "lstm/linear/w: expected at least one input feature besides 5 hidden units, got the shape "
         "(4, 20)"),
        (haiku.load, {"lstm/linear": {"w": np.ones((5, 20)), "b": np.ones(20)}},
         "lstm/linear/w: expected at least one input feature besides 5 hidden units, got the shape "
         "(5, 20)"),
        (keras.load, [np.ones((0, 20)), np.ones((5, 20)), np.ones(20)],
         "layers[0].forward.kernel: expected at least one input feature, got the shape (0, 20)"),
        (pytorch.load, PLAIN | {"weight_ih_l0": np.ones((16, 0))},
         "weight_ih_l0: expected at least one input feature, got the shape (16, 0)"),
        (equinox.load, {"weight_ih": np.ones((0, 3)), "weight_hh": np.ones((0, 0))},
         "weight_hh: expected at least one hidden unit, got the shape (0, 0)"),
        (pytorch.load, {"weight_ih_l0": np.ones((16, 3)), "weight_hh_l0": np.ones((16, 0)),
                        "weight_hr_l0": np.ones((0, 4))},
         "weight_hh_l0: expected at least one projected unit, got the shape (16, 0)"),
    ],
)  # fmt: skip
def test_sizes_of_zero_or_less_name_the_array(load, source, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        load(source)


@pytest.mark.parametrize("module", [pytorch, keras, equinox])
def test_a_source_without_biases_for_a_layer_with_them(module):
    plain = make("lstm", use_bias=False)
    source = module.dump(plain)
    source = source[0] if module is keras else source
    into = make("lstm")
    before = np.asarray(into.layers[0].forward.b[...])
    with pytest.raises(ValueError, match=r"^into: expected use_bias=False as in source, .*, got T"):
        module.load(source, into=into)
    np.testing.assert_array_equal(into.layers[0].forward.b[...], before)
    other = nn.LSTM(3, 4, use_bias=False, rngs=flax_nnx.Rngs(5))
    assert_same(module.load(source, into=other), plain)


def test_zeros_of_biases_fit_into_a_layer_without():
    plain = make("lstm", use_bias=False)
    other = nn.LSTM(3, 4, use_bias=False, rngs=flax_nnx.Rngs(5))
    assert_same(cudnn.load(cudnn.dump(plain), 3, 4, into=other), plain)
