"""What weights do not tell is an argument, and without it an error."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as flax_linen
from flax import nnx as flax_nnx

from seqjax import nn
from seqjax.interop import haiku, keras, linen, nnx, pytorch
from tests.interop.forward import check, keras_arrays, keras_both, keras_cell, keras_stack, random
from tests.interop.layers import assert_same, make


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "cho"])
def test_arrays_of_two_stacked_layers_of_keras(kind):
    told: dict[str, Any] = {"activation": "tanh"} if kind == "rnn" else {}
    first, second = keras_arrays(kind, 3, 4), keras_arrays(kind, 4, 4, seed=1)
    layer = keras.load(first + second, **told)
    assert (layer.num_layers, layer.bidirectional) == (2, False)
    check(layer, random(2, 5, 3), keras_stack(kind, [first, second], random(2, 5, 3)))
    assert_same(keras.load([first, second], **told), layer)
    with pytest.raises(
        ValueError, match=r"source\[0\]: expected the arrays of two directions, got"
    ):
        keras.load(first + second, bidirectional=True, **told)
    third = keras_arrays(kind, 4, 4, seed=2)
    assert keras.load(first + second + third, **told).num_layers == 3


@pytest.mark.parametrize("bias", [False, True])
def test_arrays_of_keras_with_as_many_inputs_as_units(bias):
    first, second = keras_arrays("lstm", 4, 4), keras_arrays("lstm", 4, 4, seed=1)
    if not bias:
        first, second = first[:2], second[:2]
    full = lambda cell: cell if bias else [*cell, np.zeros(16)]  # noqa: E731
    for source in (first + second, [first + second]):
        message = (
            r"source\[0\]: ambiguous, the shapes fit a stack of 2 layers as well as 1 bidirect"
        )
        with pytest.raises(
            ValueError, match=message + "ional layers; pass bidirectional=False or True"
        ):
            keras.load(source)
        xs = random(2, 5, 4)
        stack = keras.load(source, bidirectional=False)
        check(stack, xs, keras_stack("lstm", [full(first), full(second)], xs))
        both = keras.load(source, bidirectional=True)
        check(both, xs, keras_both("lstm", full(first), full(second), xs))
        assert keras.load(source, into=stack) is stack
        assert keras.load(source, into=both) is both


def test_arrays_of_keras_that_are_two_directions():
    forward, backward = keras_arrays("gru", 3, 4), keras_arrays("gru", 3, 4, seed=1)
    layer = keras.load(forward + backward)
    check(layer, random(2, 5, 3), keras_both("gru", forward, backward, random(2, 5, 3)))
    above = keras_arrays("gru", 8, 4, seed=2) + keras_arrays("gru", 8, 4, seed=3)
    assert_same(keras.load(forward + backward + above), keras.load([forward + backward, above]))
    with pytest.raises(ValueError, match=r"source\[0\]: expected the arrays of a stack, got"):
        keras.load(forward + backward, bidirectional=False)
    with pytest.raises(
        ValueError, match=r"source\[0\]: expected the arrays of two directions, got"
    ):
        keras.load(forward, bidirectional=True)
    with pytest.raises(TypeError, match="bidirectional: expected a bool"):
        keras.load(forward + backward, bidirectional=2)  # type: ignore[arg-type]


def test_layers_of_different_sizes():
    first, second = keras_arrays("lstm", 3, 4), keras_arrays("lstm", 4, 2)
    message = "source: expected one hidden size in all layers and directions, got 4, 2; load each"
    for source in (first + second, [first, second]):
        with pytest.raises(ValueError, match=message):
            keras.load(source)
    states = [pytorch.dump(keras.load(arrays), f"{i}") for i, arrays in enumerate([first, second])]
    with pytest.raises(ValueError, match=message):
        pytorch.load(states[0] | states[1], ["0", "1"])


def test_arrays_of_whole_models_of_keras():
    lstm = keras_arrays("lstm", 3, 4)
    dense = [np.ones((4, 2)), np.ones(2)]
    for source in (lstm + dense, [np.ones((9, 3)), *lstm], lstm + dense + dense):
        with pytest.raises(ValueError, match=r"source\[0\]: expected the kernel, .* \(4, 16\), "):
            keras.load(source)
    apart = keras_arrays("lstm", 5, 4)
    with pytest.raises(ValueError, match=r"recurrent_kernel: expected 2 axes, got the shape \(\)"):
        keras.load([np.ones((3, 16)), 1.0])
    with pytest.raises(ValueError, match="expected the arrays of a stack or two directions, got"):
        keras.load(lstm + apart)


def test_grus_of_keras_without_biases():
    kernel, recurrent, _ = keras_arrays("gru", 3, 4)
    with pytest.raises(ValueError, match="reset_after: expected True or False, as given to Keras"):
        keras.load([kernel, recurrent])
    for kind, after, bias in (("gru", True, np.zeros((2, 12))), ("cho", False, np.zeros(12))):
        layer = keras.load([kernel, recurrent], reset_after=after)
        expected = keras_cell(kind, (kernel, recurrent, bias), random(2, 5, 3))
        check(layer, random(2, 5, 3), expected)
        assert keras.load([kernel, recurrent], into=layer) is layer


SIMPLE: dict[str, Any] = {
    "pytorch": (pytorch, lambda: pytorch.dump(make("rnn"))),
    "keras": (keras, lambda: keras.dump(make("rnn"))),
    "linen": (linen, lambda: linen.dump(make("rnn"))),
    "nnx": (nnx, lambda: nnx.dump(make("rnn"))),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_the_activation_of_simple_layers_is_asked_for(name):
    module, source = SIMPLE[name]
    with pytest.raises(ValueError, match=r"^activation: expected the activation of the simple"):
        module.load(source())
    assert module.load(source(), activation="relu").cell.activation == "relu"
    into = make("rnn")
    assert module.load(source(), into=into) is into


def cores() -> dict[str, Any]:
    """An encoder and a decoder of Haiku, which could be a stack by their shapes."""
    encoder, decoder = make("lstm"), nn.LSTM(4, 4, rngs=flax_nnx.Rngs(1))
    return haiku.dump(encoder, "lstm") | haiku.dump(decoder, "lstm_1")


def test_cores_of_haiku_are_chosen():
    params = cores()
    with pytest.raises(ValueError, match=r"prefix: ambiguous, .* lstm, lstm_1; .* num_layers="):
        haiku.load(params)
    for name, inputs in (("lstm", 3), ("lstm_1", 4)):
        layer = haiku.load(params, name)
        assert (layer.num_layers, layer.cell.input_size) == (1, inputs)
        # Haiku has the gates as i g f o, and adds 1 to f.
        w, b = (params[f"{name}/linear"][key] for key in "wb")
        i, g, f, o = np.split(np.concatenate([w, b[None]]), 4, 1)
        f[-1] += 1
        whole = np.concatenate([i, f, g, o], 1)
        arrays = whole[:inputs], whole[inputs:-1], whole[-1]
        check(layer, random(2, 5, inputs), keras_cell("lstm", arrays, random(2, 5, inputs)))
    stack = haiku.load(params, num_layers=2)
    assert (stack.num_layers, stack.bidirectional) == (2, False)
    assert_same(haiku.load(params, "lstm", num_layers=2), stack)
    into = make("lstm", num_layers=2)
    assert haiku.load(params, into=into) is into
    assert_same(into, stack)
    into = make("lstm", bidirectional=True)
    pair = haiku.dump(make("lstm", bidirectional=True))
    assert_same(haiku.load(pair, into=into), haiku.load(pair, bidirectional=True))
    with pytest.raises(ValueError, match="source: expected the core lstm_2, got lstm/linear, "):
        haiku.load(params, "lstm_1", num_layers=2)


def test_numbers_of_haikus_cores():
    params = haiku.dump(make("lstm", num_layers=2, bidirectional=True))
    numbered = {f"agent/{name}": params[name] for name in params}
    pair: Any = haiku.load(numbered, "agent/lstm_2", bidirectional=True)
    assert (pair.num_layers, pair.cell.input_size) == (1, 8)
    whole: Any = haiku.load(numbered, "agent/lstm", num_layers=2, bidirectional=True)
    np.testing.assert_array_equal(whole.layers[1].backward.w_hh, pair.layers[0].backward.w_hh)
    with pytest.raises(ValueError, match="prefix: ambiguous"):
        haiku.load(params, bidirectional=True)
    with pytest.raises(ValueError, match=r"prefix: expected the name .* prefix='agent/lstm' or"):
        haiku.load(numbered)
    # A linear layer of the user's is no core.
    assert haiku.load(haiku.dump(make("lstm")) | {"head/linear": params["lstm/linear"]})


def test_several_cells_in_a_tree_of_flax():
    one, two = (linen.dump(make("gru"))[0]["params"]["cell"] for _ in range(2))
    for module, tree in (
        (linen, {"params": {"encoder": {"GRUCell_0": one}, "GRUCell_1": two}}),
        (linen, {"params": {"encoder": {"GRUCell_0": {"cell": one}}, "GRUCell_1": {"cell": two}}}),
        (
            nnx,
            {
                "encoder": {"GRUCell_0": nnx.dump(make("lstm"))[0]},
                "GRUCell_1": nnx.dump(make("lstm"))[0],
            },
        ),
    ):
        message = "prefix: expected the path to one layer, got ''; choose a layer by prefix="
        with pytest.raises(ValueError, match=message + "'encoder/GRUCell_0' or prefix='GRUCell_1'"):
            module.load(tree)
        assert module.load(tree, "GRUCell_1").num_layers == 1


@pytest.mark.parametrize("module", [linen, nnx])
def test_directions_of_flax_come_in_pairs(module):
    (tree,) = module.dump(make("lstm", bidirectional=True))
    tree = tree.get("params", tree)
    for side, other in (("forward_rnn", "backward_rnn"), ("backward_rnn", "forward_rnn")):
        with pytest.raises(ValueError, match=f"^{other}: expected both directions, got"):
            module.load({side: tree[side]})
        assert not module.load(tree, side).bidirectional
    with pytest.raises(ValueError, match=r"^dense/kernel: expected forward_rnn and backward_rnn"):
        module.load(tree | {"dense": {"kernel": np.ones((2, 2))}})


def test_what_a_tree_holds_besides_is_not_read():
    """A table of small numbers elsewhere in a model is no fault of the layer."""
    variables = flax_linen.RNN(flax_linen.LSTMCell(4)).init(jax.random.key(0), np.ones((1, 2, 3)))
    model = {
        "params": {"rnn": variables["params"], "table": np.ones((2, 2), jax.numpy.float8_e5m2)}
    }
    assert linen.load(model, "rnn").cell.hidden_size == 4
