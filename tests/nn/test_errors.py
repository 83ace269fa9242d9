"""A user's mistake is a ValueError or TypeError that names the argument."""

import functools
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import cells, nn
from seqjax.nn import Bidirectional
from tests.cases import assert_close
from tests.nn.helpers import B, H, I, T, make, random

KEY = jax.random.key(0)
XS = random(B, T, I)
MISTAKE = (ValueError, TypeError)


def layer_of(**options):
    return nn.GRU(I, H, **{"rngs": KEY} | options)


def raises(kind, name):
    """The error whose message is about the argument of this name."""
    return pytest.raises(kind, match=rf"(^|\W){re.escape(name)}(\W|$)")


SIZES: list[tuple[Any, type[Exception]]] = [
    (0, ValueError),
    (-1, ValueError),
    (2.5, TypeError),
    (True, TypeError),
    ("4", TypeError),
]


@pytest.mark.parametrize(("value", "kind"), SIZES)
@pytest.mark.parametrize("cls", [nn.RNN, nn.LSTM, nn.GRU])
def test_sizes(cls, value, kind):
    with raises(kind, "input_size"):
        cls(value, H, rngs=KEY)
    with raises(kind, "hidden_size"):
        cls(I, value, rngs=KEY)
    with raises(kind, "num_layers"):
        cls(I, H, num_layers=value, rngs=KEY)
    if cls is nn.LSTM and value != 0:  # 0 means no projection, as in PyTorch
        with raises(kind, "proj_size"):
            cls(I, H, proj_size=value, rngs=KEY)


@pytest.mark.parametrize("name", ["dropout", "input_dropout", "recurrent_dropout", "zoneout"])
def test_rates(name):
    value: Any
    for value in (1.0, 1, -0.1, 2, float("nan"), float("inf")):
        with raises(ValueError, name):
            layer_of(**{name: value})
    for value in ("0.5", True, None, [0.5]):
        with raises(TypeError, name):
            layer_of(**{name: value})
    layer_of(**{name: np.float32(0.5)})


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (dict(merge_mode="average"), ValueError),
        (dict(merge_mode=None), ValueError),
        (dict(norm="instance"), ValueError),
        (dict(norm=True), ValueError),
        (dict(dtype="float33"), TypeError),
        (dict(dtype=jnp.int32), TypeError),
        (dict(param_dtype=jnp.int8), TypeError),
        (dict(param_dtype=None), TypeError),
        (dict(kernel_init="glorot"), ValueError),
        (dict(rngs=0), TypeError),
        (dict(rngs=None), TypeError),
        # Misspelled, or another cell's.
        (dict(dropuot=0.1), TypeError),
        (dict(forget_bias=1.0), TypeError),
        (dict(activation="relu"), TypeError),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.__name__,
)
def test_constructor(options, kind):
    (name,) = options
    with raises(kind, name):
        layer_of(**options)


@pytest.mark.parametrize(
    "name", ["bidirectional", "residual", "learned_initial_state", "time_major"]
)
def test_flags(name):
    """The string "no" is true, so it would mean yes."""
    for value in ("no", None, 2):
        with raises(TypeError, name):
            layer_of(**{name: value})
    layer_of(**{name: np.bool_(False)})


@pytest.mark.parametrize("name", ["return_sequences", "deterministic"])
def test_flags_of_a_call(name):
    with raises(TypeError, name):
        layer_like("stack")(XS, **{name: "no"})


@pytest.mark.parametrize("cell", [cells.GRU, "gru", None, nnx.GRUCell(I, H, rngs=nnx.Rngs(0))])
def test_cell(cell):
    with raises(TypeError, "cell"):
        nn.Recurrent(cell, rngs=KEY)


def test_rngs_without_the_stream_or_of_several_keys():
    for rngs in (nnx.Rngs(dropout=0), jax.random.split(KEY, 2)):
        with raises(MISTAKE, "rngs"):
            nn.GRU(I, H, rngs=rngs)
    layer = make(cells.GRU(I, H), num_layers=2, dropout=0.5)
    for rngs in (nnx.Rngs(params=0), jax.random.split(KEY, 2)):
        with raises(MISTAKE, "rngs"):
            layer(XS, rngs=rngs)


def test_rngs_must_be_given():
    with pytest.raises(TypeError, match=r"^rngs: expected nnx.Rngs\(0\) or a random key, got None"):
        nn.GRU(I, H)


@pytest.mark.parametrize("cls", [nn.RNN, nn.LSTM, nn.GRU])
def test_unknown_activation_or_initialiser(cls):
    with raises(ValueError, "recurrent_init"):
        cls(I, H, recurrent_init="orthogonl", rngs=KEY)
    if cls is nn.RNN:
        with raises(ValueError, "activation"):
            cls(I, H, activation="tan", rngs=KEY)


@functools.cache
def layer_like(kind):
    """A stack of GRUs, an LSTM in both directions, or in one."""
    if kind == "stack":
        return make(cells.GRU(I, H), num_layers=2)
    return make(cells.LSTM(I, H), bidirectional=kind == "both")


h: Any = np.zeros([B, H], np.float32)
h_wide: Any = np.zeros([B, H + 1], np.float32)
hc = cells.LSTMState(h, h)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("lengths", [T, T + 1, 0], ValueError),
        ("lengths", np.array([T, -1, 0]), ValueError),
        ("lengths", np.ones(B), TypeError),
        ("lengths", [T, T], ValueError),
        ("lengths", T, ValueError),
        ("mask", np.ones([B, T], np.float32), TypeError),
        ("mask", np.ones([B, T], int), TypeError),
        ("mask", np.ones([T, B], bool), ValueError),
        ("mask", np.ones([B, T, 1], bool), ValueError),
        ("resets", np.ones([B, T], np.float32), TypeError),
        ("resets", np.ones([B, T + 1], bool), ValueError),
        ("implementation", "fastest", ValueError),
        ("remat", "everything", ValueError),
        ("length", [T, T, T], TypeError),
        ("state", (h, h), TypeError),
    ],
)
@pytest.mark.parametrize("layer", ["stack", "both"])
def test_call(layer, name, value, kind):
    with raises(kind, name):
        layer_like(layer)(XS, **{name: value})


def test_lengths_together_with_a_mask():
    with pytest.raises(ValueError, match=r"^lengths, mask: expected one of them"):
        layer_like("stack")(XS, lengths=[T, T, T], mask=np.ones([B, T], bool))


@pytest.mark.parametrize("time_major", [False, True])
def test_inputs(time_major):
    layer = make(cells.GRU(I, H), num_layers=2, time_major=time_major)
    lead = r"\[T, \.\.\., 3\]" if time_major else r"\[\.\.\., T, 3\]"
    for shape in ((B, T, I + 1), (I,), (B, T, I, 1), ()):
        with pytest.raises(ValueError, match=rf"^xs: expected {lead} .*{re.escape(str(shape))}"):
            layer(np.ones(shape, np.float32))
    with raises(TypeError, "xs"):
        layer(np.ones([B, T, I], int))
    with pytest.raises(ValueError, match=r"^xs: expected .*; numpy.asarray makes an array"):
        layer(XS.tolist())
    with raises(MISTAKE, "xs"):
        layer(None)
    with pytest.raises(TypeError, match="xs: expected floating-point inputs, got dtype <U1"):
        layer(np.full([B, T, I], "a"))


def test_inputs_of_the_other_byte_order():
    layer = make(cells.GRU(I, H))
    np.testing.assert_array_equal(layer(XS.astype(">f4")).outputs, layer(XS).outputs)


BAD_STATES: dict[str, tuple[str, Any]] = {
    "array": ("stack", h),
    "one array for all layers": ("stack", np.zeros([2, B, H])),
    "too few layers": ("stack", (h,)),
    "too many layers": ("stack", (h, h, h)),
    "hidden size": ("stack", (h, h_wide)),
    "batch shape": ("stack", (np.zeros([B + 1, H]), h)),
    "integers": ("stack", (h, np.zeros([B, H], int))),
    "structure": ("stack", (h, hc)),
    "pairs": ("stack", (Bidirectional(h, h),) * 2),
    "not in a tuple": ("one", hc),
    "h alone": ("one", (h,)),
    "size of c": ("one", (cells.LSTMState(h, h_wide),)),
    "one direction": ("both", (hc,)),
    "two of one layer": ("both", (hc, hc)),
    "pair not in a tuple": ("both", Bidirectional(hc, hc)),
    "h alone, both": ("both", (Bidirectional(h, h),)),
    "batch shape, backward": ("both", (Bidirectional(hc, cells.LSTMState(h, h[:1])),)),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_initial_state(case):
    layer, state = BAD_STATES[case]
    with raises(MISTAKE, "initial_state"):
        layer_like(layer)(XS, initial_state=state)


def test_a_plain_pair_of_states_is_as_good():
    layer = layer_like("both")
    state = layer.initial_state((B,))
    assert_close(layer(XS, initial_state=[tuple(state[0])]), layer(XS, initial_state=state))


def test_random_numbers():
    layer: Any = make(cells.GRU(I, H), num_layers=2, dropout=0.5, zoneout=0.1)
    with pytest.raises(ValueError, match=r"^rngs: .*dropout, zoneout, got None.*eval"):
        layer(XS)
    for rngs in (0, "dropout", np.ones(2), lambda: KEY):
        with raises(TypeError, "rngs"):
            layer(XS, rngs=rngs)


def test_step():
    for shape in ((B, I + 1), ()):
        with raises(ValueError, "x_t"):
            layer_like("stack").step(np.ones(shape, np.float32))
    with raises(ValueError, "state"):
        layer_like("stack").step(XS[:, 0], (h,))
    with raises(ValueError, "step"):
        layer_like("both").step(XS[:, 0])


def test_step_of_integers():
    with raises(TypeError, "x_t"):
        layer_like("stack").step(np.ones([B, I], int))


@pytest.mark.parametrize("feedback", [None, lambda y: y[..., :I]], ids=["repeat", "feedback"])
def test_one_to_many(feedback):
    x = XS[:, 0]
    for steps, kind in SIZES:
        with raises(kind, "steps"):
            layer_like("stack").one_to_many(x, steps, feedback=feedback)
    with raises(ValueError, "initial_state"):
        layer_like("stack").one_to_many(x, T, feedback=feedback, initial_state=(h,))
    for bad in (np.ones([B, I + 1], np.float32), np.ones([B, I], int)):
        with pytest.raises(MISTAKE, match=r"^x(s|_t)?: expected"):
            layer_like("stack").one_to_many(bad, T, feedback=feedback)
    with raises(MISTAKE, "lenghts"):
        layer_like("stack").one_to_many(x, T, feedback=feedback, lenghts=[1, 1, 1])


def test_feedback():
    x = XS[:, 0]
    with raises(ValueError, "feedback"):
        layer_like("stack").one_to_many(x, T, feedback=lambda y: y[..., :I], lengths=[T, T, T])
    with raises(ValueError, "bidirectional"):
        layer_like("both").one_to_many(x, T, feedback=lambda y: y[..., :I])


@pytest.mark.parametrize("feedback", [lambda y: y, lambda y: None, 3], ids=["H", "None", "3"])
def test_feedback_that_makes_no_input(feedback):
    with raises(MISTAKE, "feedback"):
        layer_like("stack").one_to_many(XS[:, 0], T, feedback=feedback)


@pytest.mark.parametrize("batch_shape", [2, (2,), [2], np.array([2]), np.int64(2)])
def test_a_batch_shape_may_be_an_integer(batch_shape):
    (state,) = layer_of().initial_state(batch_shape)
    assert state.shape == (2, H)


@pytest.mark.parametrize("batch_shape", ["a", 2.5, None, -1, [2, -1], [1.0]])
def test_no_batch_shape(batch_shape):
    with raises(MISTAKE, "batch_shape"):
        layer_of().initial_state(batch_shape)


@pytest.mark.parametrize("time_major", [False, True])
def test_a_step_of_a_whole_batch_of_sequences(time_major):
    layer = layer_of(time_major=time_major)
    state = layer.initial_state(B)
    xs = XS.swapaxes(0, 1) if time_major else XS
    with pytest.raises(ValueError, match=r"x_t: expected the batch shape of the state.*call the"):
        layer.step(xs, state)
    with pytest.raises(ValueError, match=r"x_t: expected floating-point inputs .*\(list\)"):
        layer.step([[1.0, 2.0, 3.0]], state)
    with pytest.raises(ValueError, match="x_t: expected the batch shape of the state"):
        layer.step(random(B + 1, I), state)
    assert layer.step(random(B, I), state).outputs.shape == (B, H)
    assert layer.step(random(B, I), layer.initial_state()).outputs.shape == (B, H)


@pytest.mark.parametrize(
    ("option", "hint"),
    [("num_layer", "num_layers"), ("dropuot", "dropout"), ("forget_bais", "forget_bias")],
)
def test_a_mistyped_option_gets_the_nearest_name(option, hint):
    options: Any = {option: 1}
    with pytest.raises(TypeError, match=f"LSTM: .* {option!r}; did you mean {hint!r}\\?$"):
        nn.LSTM(3, 5, rngs=nnx.Rngs(0), **options)
    with pytest.raises(TypeError, match=r"does not have, 'colour'$"):
        nn.LSTM(3, 5, rngs=nnx.Rngs(0), **{"colour": 1})


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_signature_of_a_layer_shows_its_options(layer):
    parameters = inspect.signature(layer.__init__).parameters
    assert "options" not in parameters
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert {"use_bias", "kernel_init", "num_layers", "dropout", "execution"} <= defaults.keys()
    made = layer(3, 5, **defaults | {"rngs": nnx.Rngs(0)})  # each is taken, and changes nothing
    assert made.cell == layer(3, 5, rngs=nnx.Rngs(0)).cell


def test_states_of_another_layer_are_no_states_of_this_one():
    xs = jnp.ones((2, 3, 3))
    (state,) = nn.LSTM(3, 4, rngs=nnx.Rngs(0))(xs).state
    for options in ({"num_layers": 2}, {"bidirectional": True}):
        layer = nn.GRU(3, 4, rngs=nnx.Rngs(0), **options)
        for given in (state, (state,)):
            with raises(ValueError, "initial_state: expected"):
                layer(xs, initial_state=given)
    with raises(ValueError, "state: expected a tuple of 1 states"):
        nn.GRU(3, 4, rngs=nnx.Rngs(0)).step(xs[:, 0], jnp.zeros((2, 4)))


def test_feedback_starts_from_any_state_that_a_call_accepts():
    layer, x = nn.GRU(3, 3, num_layers=2, rngs=nnx.Rngs(0)), jnp.ones((2, 3))
    whole = layer.initial_state(2)
    expected = layer.one_to_many(x, 3, feedback=lambda y: y)
    for state in (layer.initial_state(), (None, whole[1]), list(whole)):
        found = layer.one_to_many(x, 3, initial_state=state, feedback=lambda y: y)
        np.testing.assert_array_equal(found.outputs, expected.outputs)
