"""Bad calls: each mistake is met by an exception that names the argument and says what came."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import cells
from tests.cases import assert_close, params_of

B, T, I, H = 2, 5, 3, 4
LSTM, GRU = cells.LSTM(I, H), cells.GRU(I, H)
CONV = cells.ConvLSTM1D(I, 2, spatial_shape=6)
XS = np.ones((B, T, I), np.float32)
XS_TIME_MAJOR = XS.swapaxes(0, 1)
TRUE = np.ones((B, T), bool)
ONES = np.ones((B, H), np.float32)


class Bad(NamedTuple):
    """A mistake in one argument, and what the message must say: what was expected, what came."""

    argument: str
    given: Any
    error: type[Exception] | tuple[type[Exception], ...]
    expected: str = ""
    came: str = ""
    others: Mapping[str, Any] = MappingProxyType({})


def rows(table):
    """Parametrises a test over mistakes, each with an id that tells them apart."""
    return pytest.mark.parametrize(
        "bad", table, ids=[f"{b.argument}-{b.came or type(b.given).__name__}" for b in table]
    )


def assert_raises(bad, call):
    """The exception is of the right type; its message starts with the argument's name."""
    with pytest.raises(bad.error) as caught:
        call()
    message = str(caught.value)
    assert re.match(rf"[\w, ]*\b{bad.argument}\b[\w, ]*: ", message), message
    for part in ("expected", bad.expected, bad.came):
        assert part in message, message
    assert len(message) < 1000  # not the data


def call(**changes):
    """A good call but for the changes."""
    given: dict[str, Any] = {"cell": GRU, "xs": XS} | changes
    if "params" not in given:
        given["params"] = params_of(given["cell"])
    cell, params, xs = (given.pop(name) for name in ("cell", "params", "xs"))
    return seqjax.unroll(cell, params, xs, **given)


P = params_of(LSTM)
EITHER = (TypeError, ValueError)

INPUTS = [
    Bad("xs", np.ones((B, T, 4), np.float32), ValueError, "[..., T, 3] for input_size=3", "5, 4)"),
    Bad("xs", np.float32(1), ValueError, "[..., T, 3]", "()"),
    Bad("xs", 1.0, ValueError, "[..., T, 3]", "()"),
    Bad("xs", np.ones(I, np.float32), ValueError, "[..., T, 3]", "(3,)"),
    Bad("xs", np.ones((B, T, I), int), TypeError, "floating-point", "int"),
    Bad("xs", np.ones((B, T, I), bool), TypeError, "floating-point", "bool"),
    Bad("xs", np.ones((B, T, I), np.complex64), TypeError, "floating-point", "complex64"),
    Bad("xs", np.full((B, T, I), None), TypeError, "floating-point", "object"),
    Bad("xs", np.full((B, T, I), "one"), TypeError, "floating-point"),
    Bad("xs", "one", TypeError, "floating-point"),
    Bad("xs", None, EITHER, "", "None"),
    Bad("xs", [XS, XS], EITHER),
    Bad("xs", {"x": XS}, EITHER, "", "x"),
    Bad("xs", XS.tolist(), EITHER),
    Bad("xs", np.zeros((100, 50, I)).tolist(), EITHER),
    Bad("xs", np.ones((B, T, I, 1)), ValueError, "[T, ..., 3]", "3, 1)", {"time_major": True}),
    Bad("xs", np.ones((B, T, 7, I)), ValueError, "[..., T, 6, 3]", "7, 3)", {"cell": CONV}),
    Bad("xs", np.ones((B, T, 6, 2)), ValueError, "[..., T, 6, 3]", "6, 2)", {"cell": CONV}),
    Bad("xs", np.ones((6, I)), ValueError, "[..., T, 6, 3]", "(6, 3)", {"cell": CONV}),
]

STEPS = [
    Bad("lengths", [6, 1], ValueError, "0 to 5", "1 to 6"),
    Bad("lengths", jnp.array([6, 1]), ValueError, "0 to 5", "to 6"),
    Bad("lengths", np.array([2**32 + 1, 1], np.uint64), ValueError, "0 to 5", "4294967297"),
    Bad("lengths", [-1, 1], ValueError, "0 to 5", "-1"),
    Bad("lengths", np.array([1.0, 1.0]), TypeError, "integers", "float64"),
    Bad("lengths", [1.0, 1.0], TypeError, "integers", "float"),
    Bad("lengths", np.array([True, True]), TypeError, "integers", "bool"),
    Bad("lengths", [None, 1], TypeError, "integers", "[None, 1]"),
    Bad("lengths", "ab", TypeError, "integers", "str"),
    Bad("lengths", [[1], [1, 2]], EITHER, "integers"),
    Bad("lengths", 3, ValueError, "(2,)", "()"),
    Bad("lengths", np.int32(3), ValueError, "(2,)", "got ()"),
    Bad("lengths", [1, 1, 1], ValueError, "(2,)", "(3,)"),
    Bad("lengths", [[1], [1]], ValueError, "(2,)", "(2, 1)"),
    Bad("mask", np.ones((B, T), np.float32), TypeError, "bool", "float32"),
    Bad("mask", np.ones((B, T), np.int32), TypeError, "bool", "int32"),
    Bad("mask", [[1] * T] * B, TypeError, "bool", "int"),
    Bad("mask", True, EITHER, "(2, 5)", "()"),
    Bad("mask", [[True], [True, False]], EITHER),
    Bad("mask", TRUE[:, 1:], ValueError, "(2, 5)", "(2, 4)"),
    Bad("mask", TRUE[0], ValueError, "(2, 5)", "(5,)"),
    Bad("mask", TRUE[..., None], ValueError, "(2, 5)", "(2, 5, 1)"),
    Bad("mask", TRUE.T, ValueError, "(2, 5)", "(5, 2)"),
    Bad("mask", TRUE, ValueError, "(5, 2)", "(2, 5)", {"time_major": True, "xs": XS_TIME_MAJOR}),
    Bad("lengths", [1, 1], ValueError, "one of them", "both", {"mask": TRUE}),
    Bad("resets", np.ones((B, T)), TypeError, "bool", "float64"),
    Bad("resets", np.ones((B, T), np.uint8), TypeError, "bool", "uint8"),
    Bad("resets", False, EITHER, "(2, 5)", "()"),
    Bad("resets", TRUE[:, 1:], ValueError, "(2, 5)", "(2, 4)"),
    Bad("resets", TRUE.T, ValueError, "(2, 5)", "(5, 2)"),
]  # fmt: skip

STATE_MISTAKES: list[tuple[Any, ...]] = [
    (LSTM, ONES, ValueError, "LSTMState(h=(2, 4), c=(2, 4))", "got (2, 4)"),
    (LSTM, (ONES, ONES), ValueError, "LSTMState", "((2, 4), (2, 4))"),
    (LSTM, jax.tree.map(lambda s: None, LSTM.initial_state()), ValueError, "LSTMState", "c=None"),
    (LSTM, LSTM.initial_state((3,)), ValueError, "h=(2, 4)", "h=(3, 4)"),
    (LSTM, LSTM.initial_state((1,)), ValueError, "h=(2, 4)", "h=(1, 4)"),
    (GRU, LSTM.initial_state((2,)), ValueError, "(2, 4)", "LSTMState"),
    (GRU, np.ones((B, 5), np.float32), ValueError, "(2, 4)", "(2, 5)"),
    (GRU, ONES[0, 0], ValueError, "(2, 4)", "()"),
    (GRU, ONES.astype(int), TypeError, "float", "int"),
    (GRU, ONES.astype(bool), TypeError, "float", "bool"),
    (GRU, ONES.astype(np.complex64), TypeError, "float", "complex64"),
    (GRU, np.full((B, H), None), TypeError, "float", "object"),
    (GRU, "zeros", TypeError, "float", "str"),
]

STATES = [
    Bad(name, given, error, expected, came, {"cell": cell})
    for name in ("state", "reset_state")
    for cell, given, error, expected, came in STATE_MISTAKES
]

PARAMETER_MISTAKES: list[tuple[Any, ...]] = [
    (LSTM, params_of(GRU), ValueError, "w_ih=(3, 16)", "w_ih=(3, 12)"),
    (LSTM, params_of(cells.LSTM(I, 5)), ValueError, "w_ih=(3, 16)", "w_ih=(3, 20)"),
    (LSTM, params_of(cells.PeepholeLSTM(I, H)), ValueError, "LSTMParams", "p_i=(4,)"),
    (cells.CoupledLSTM(I, H), P, ValueError, "w_ih=(3, 12)", "w_ih=(3, 16)"),
    (LSTM, P._replace(b=None), ValueError, "b=(16,)", "b=None"),
    (cells.LSTM(I, H, use_bias=False), P, ValueError, "b=None", "b=(16,)"),
    (LSTM, P._asdict(), ValueError, "LSTMParams", "'w_ih': (3, 16)"),
    (LSTM, {"w_ih": P.w_ih}, ValueError, "LSTMParams", "{'w_ih'"),
    (LSTM, tuple(P), ValueError, "LSTMParams", "((3, 16)"),
    (LSTM, None, ValueError, "LSTMParams", "None"),
    (LSTM, P.w_ih, ValueError, "LSTMParams", "got (3, 16)"),
    (LSTM, "params", EITHER, "", "params"),
    (LSTM, LSTM, EITHER, "", "LSTM"),
    (LSTM, P._replace(b="zeros"), EITHER, "", "zeros"),
    (LSTM, jax.random.key(0), EITHER, "", "()"),
    (LSTM, jax.tree.map(lambda a: a.astype(int), P), TypeError, "float", "int"),
    (LSTM, jax.tree.map(lambda a: a.astype(complex), P), TypeError, "float", "complex"),
]

PARAMETERS = [
    Bad("params", given, error, expected, came, {"cell": cell})
    for cell, given, error, expected, came in PARAMETER_MISTAKES
]

OPTIONS = [
    Bad("cell", cells.LSTM, TypeError, "cells.GRU(3, 5)", "class LSTM", {"params": P}),
    Bad("cell", "lstm", TypeError, "cells.GRU(3, 5)", "str", {"params": P}),
    Bad("cell", None, TypeError, "cells.GRU(3, 5)", "NoneType", {"params": P}),
    Bad("implementation", "fussed", ValueError, "auto", "fussed"),
    Bad("implementation", 5, EITHER, "auto", "5"),
    Bad("execution", "scan", TypeError, "seqjax.Execution", "scan"),
    Bad("remat", "all", ValueError, "none, chunk, sqrt, log", "all"),
    Bad("remat", True, EITHER, "none, chunk, sqrt, log", "True"),
    Bad("unroll", 0, ValueError, "positive integer", "0"),
    Bad("unroll", -1, ValueError, "positive integer", "-1"),
    Bad("unroll", 2.0, TypeError, "positive integer", "2.0"),
    Bad("unroll", True, TypeError, "positive integer", "True"),
    Bad("unroll", "2", TypeError, "positive integer", "'2'"),
    Bad("reverse", "no", TypeError, "bool", "no"),
    Bad("reverse", np.array([True, False]), EITHER, "bool"),
    Bad("time_major", "no", TypeError, "bool", "no"),
    Bad("time_major", np.array([True, False]), EITHER, "bool"),
    Bad("recurrent_mask", np.ones((B, 5)), ValueError, "(2, 4)", "(2, 5)"),
    Bad("recurrent_mask", np.ones((B, T, H)), ValueError, "(2, 4)", "(2, 5, 4)"),
    Bad("recurrent_mask", LSTM.initial_state((B,)), EITHER, "(2, 4)"),
    Bad("recurrent_mask", ONES.astype(np.complex64), TypeError, "", "complex64"),
    Bad("recurrent_mask", "half", TypeError),
    Bad("recurrent_mask", 1.0, ValueError, "None", "MinGRU", {"cell": cells.MinGRU(I, H)}),
    Bad("zoneout", 0.1, ValueError, "structure of the state", "0.1", {"cell": LSTM}),
    Bad("zoneout", (0.1, 0.2), ValueError, "structure of the state", "0.2", {"cell": LSTM}),
    Bad("zoneout", {"h": 0.1, "c": 0.1}, ValueError, "structure", "'h'", {"cell": LSTM}),
    Bad("zoneout", np.zeros((50, T, H)).tolist(), EITHER),
    Bad("zoneout", ONES, ValueError, "(2, 5, 4)", "(2, 4)"),
    Bad("zoneout", np.ones((B, T, 1)), ValueError, "(2, 5, 4)", "(2, 5, 1)"),
    Bad("zoneout", "0.1", TypeError, "fraction", "0.1"),
    Bad("zoneout", 1j, TypeError, "fraction"),
    Bad("zoneout", 1.5, ValueError, "0", "1.5"),
    Bad("zoneout", -0.1, ValueError, "0", "-0.1"),
    Bad("zoneout", np.nan, ValueError, "0", "nan"),
    Bad("zoneout", np.full((B, T, H), 2.0), ValueError, "0", "2.0"),
]


@rows(INPUTS + STEPS + STATES + PARAMETERS + OPTIONS)
def test_bad_call_of_unroll(bad):
    assert_raises(bad, lambda: call(**{bad.argument: bad.given}, **bad.others))


def cell_of(cls, **others):
    return {"cls": cls} | others


SIZES = [
    Bad(name, given, error, "positive integer", repr(given))
    for name in ("input_size", "hidden_size")
    for given, error in [
        (0, ValueError), (-1, ValueError), (2.5, TypeError), (4.0, TypeError), ("4", TypeError),
        (True, TypeError), (np.True_, TypeError), (None, TypeError), ((4,), TypeError),
    ]
]  # fmt: skip

CONV_1D, CONV_2D = {"cls": cells.ConvLSTM1D}, {"cls": cells.ConvLSTM2D}

CONSTRUCTORS = SIZES + [
    Bad("activation", "tan", ValueError, "tanh, relu", "tan", cell_of(cells.Elman)),
    Bad("activation", None, EITHER, "tanh, relu", "None", cell_of(cells.ElmanReadout)),
    Bad("activation", 3, EITHER, "tanh, relu", "3", cell_of(cells.IndRNN)),
    Bad("kernel_init", "he", ValueError, "glorot_uniform", "he"),
    Bad("kernel_init", None, EITHER, "glorot_uniform", "None"),
    Bad("recurrent_init", "ortho", ValueError, "orthogonal", "ortho"),
    Bad("bias_init", 0.0, EITHER, "zeros", "0.0"),
    Bad("use_bias", False, ValueError, "True with forget_bias", "False", {"forget_bias": 1.0}),
    Bad("use_bias", False, ValueError, "True with", "Fals", {"chrono": 9}),
    Bad("use_bias", False, ValueError, "True with chrono", "Fal", {"cls": cells.GRU, "chrono": 9}),
    Bad("forget_bias", "one", TypeError, "number", "one"),
    Bad("forget_bias", None, TypeError, "number", "None"),
    Bad("forget_bias", np.ones(H), TypeError, "number"),
    Bad("chrono", 1, ValueError, "at least 2", "1"),
    Bad("chrono", 0, ValueError, "at least 2", "0", cell_of(cells.GRU)),
    Bad("chrono", np.nan, ValueError, "a finite number", "nan"),
    Bad("chrono", np.inf, ValueError, "", "inf"),
    Bad("chrono", "10", TypeError, "", "10"),
    Bad("proj_size", 0, ValueError, "positive integer", "0", cell_of(cells.ProjectedLSTM)),
    Bad("proj_size", 2.5, TypeError, "positive integer", "2.5", cell_of(cells.ProjectedLSTM)),
    Bad("output_size", -2, ValueError, "positive integer", "-2", cell_of(cells.ElmanReadout)),
    Bad("output_size", "2", TypeError, "positive integer", "'2'", cell_of(cells.ElmanReadout)),
    Bad("epsilon", 0, ValueError, "positive number", "0", cell_of(cells.LayerNormLSTM)),
    Bad("epsilon", np.nan, ValueError, "a finite number", "nan", cell_of(cells.LayerNormLSTM)),
    Bad("epsilon", "small", TypeError, "number", "small", cell_of(cells.LayerNormLSTM)),
    Bad("padding", "same", ValueError, "SAME, VALID", "same", CONV_1D),
    Bad("padding", "CAUSAL", ValueError, "SAME, VALID", "CAUSAL", CONV_1D),
    Bad("padding", 1, EITHER, "SAME, VALID", "1", CONV_2D),
    Bad("spatial_shape", (4,), ValueError, "2 sizes or one", "(4,)", CONV_2D),
    Bad("spatial_shape", (4, 4), ValueError, "1 size", "(4, 4)", CONV_1D),
    Bad("spatial_shape", 0, ValueError, "positive integer", "0", CONV_1D),
    Bad("spatial_shape", (4, -4), ValueError, "positive integer", "-4", CONV_2D),
    Bad("spatial_shape", 2.5, TypeError, "positive integer", "2.5", CONV_1D),
    Bad("spatial_shape", 2, ValueError, "VALID", "(2,)", CONV_1D | {"padding": "VALID"}),
    Bad("kernel_size", (3, 3, 3), ValueError, "2 sizes or one", "(3, 3, 3)", CONV_2D),
    Bad("kernel_size", 0, ValueError, "positive integer", "0", CONV_1D),
    Bad("stride", 0, ValueError, "positive integer", "0", CONV_1D),
]


@rows(CONSTRUCTORS)
def test_bad_constructor(bad):
    options = {"cls": cells.LSTM, "input_size": I, "hidden_size": H, bad.argument: bad.given}
    options.update(bad.others)
    assert_raises(bad, lambda: options.pop("cls")(**options))


@rows(
    [
        Bad("key", 0, TypeError, "random key", "0"),
        Bad("key", None, TypeError, "random key", "None"),
        Bad("key", jax.random.split(jax.random.key(0)), EITHER, "random key", "(2,)"),
        Bad("dtype", jnp.int32, EITHER, "floating-point", "int32"),
        Bad("dtype", "float33", EITHER, "floating-point", "float33"),
    ]
)
@pytest.mark.parametrize("cell", [LSTM, CONV], ids=["dense", "conv"])
def test_bad_call_of_init(cell, bad):
    options = {"key": jax.random.key(0), bad.argument: bad.given}
    assert_raises(bad, lambda: cell.init(**options))


@pytest.mark.parametrize("init", ["orthogonal", "glorot_uniform"])
def test_an_initialiser_of_matrices_for_biases(init):
    bad = Bad("bias_init", init, ValueError, "(16,)")
    assert_raises(bad, lambda: cells.LSTM(I, H, bias_init=init).init(jax.random.key(0)))


def test_numpy_integers_are_integers():
    two, three, four = map(np.int64, (2, 3, 4))
    cell = cells.LSTM(three, np.uint8(H))  # type: ignore[arg-type]
    assert cell == LSTM and hash(cell) == hash(LSTM)
    assert type(cell.input_size) is int and type(cell.hidden_size) is int
    projected = cells.ProjectedLSTM(I, H, proj_size=two)  # type: ignore[arg-type]
    assert projected == cells.ProjectedLSTM(I, H, proj_size=2)
    assert type(projected.proj_size) is int
    conv = cells.ConvLSTM2D(I, H, spatial_shape=[four, 5])  # type: ignore[arg-type]
    assert conv == cells.ConvLSTM2D(I, H, spatial_shape=(4, 5)) and hash(conv)
    assert_close(call(unroll=two), call())
    assert_close(call(reverse=np.True_), call(reverse=True))


def test_lists_are_good_enough_for_lengths_masks_and_resets():
    want = call(lengths=np.array([5, 2]))
    assert_close(call(lengths=[5, 2]), want)
    assert_close(call(lengths=(5, 2)), want)
    assert_close(call(mask=[[True] * 5, [True] * 2 + [False] * 3]), want)
    assert_close(call(xs=XS[0], lengths=2), call(xs=XS[0], lengths=np.int8(2)))
    resets = [[False, True] + [False] * 3] * 2
    assert_close(call(resets=resets), call(resets=np.array(resets)))


def masked(lengths):
    return np.arange(T) < np.clip(lengths, 0, T)[:, None]


@pytest.mark.parametrize(
    "lengths",
    [
        np.array([T + 5, -3]),
        np.array([-128, 127], np.int8),
        np.array([255, 2], np.uint8),
        np.array([2**32 - 1, 2**31], np.uint32),  # negative as int32
        np.array([-(2**31), 2**31 - 1], np.int32),
    ],
    ids=lambda lengths: f"{lengths.dtype}",
)
def test_lengths_out_of_range_are_clamped_under_tracing(lengths):
    want = call(mask=masked(lengths.astype(np.int64)))
    assert_close(jax.jit(lambda n: call(lengths=n))(lengths), want)
    one = jax.vmap(lambda x, n: call(xs=x, lengths=n))
    assert_close(one(XS, lengths), want)


def test_64_bit_lengths_out_of_range_are_clamped_under_tracing(x64):
    lengths = np.array([2**32 + 1, -(2**32) + 1])
    got = jax.jit(lambda n: seqjax.sequences.lengths_to_mask(n, T))(lengths)
    np.testing.assert_array_equal(got, masked(lengths))


def test_a_list_of_traced_lengths():
    got = jax.jit(lambda n: call(lengths=[n, 3]))(2)
    assert_close(got, call(lengths=[2, 3]))


@rows([bad for bad in STEPS if bad.came not in ("1 to 6", "to 6", "4294967297", "-1")])
def test_what_does_not_depend_on_data_raises_under_tracing_too(bad):
    others = dict(bad.others)
    xs = others.pop("xs", XS)
    traced = jax.jit(lambda xs: call(xs=xs, **{bad.argument: bad.given}, **others))
    assert_raises(bad, lambda: traced(xs))


def test_traced_masks_and_resets_of_the_wrong_dtype_raise():
    for name in ("mask", "resets"):
        bad = Bad(name, None, TypeError, "bool", "float32")
        run = jax.jit(lambda m, name=name: call(**{name: m}))
        assert_raises(bad, lambda run=run: run(np.ones((B, T), np.float32)))


def test_a_cell_that_cannot_be_hashed_is_named():
    cell = cells.Elman(I, H, activation=Unhashable())
    bad = Bad("cell", cell, TypeError, "hashable")
    assert_raises(bad, lambda: call(cell=cell, params=cells.Elman(I, H).init(jax.random.key(0))))


class Unhashable:
    """An activation that has equality without a hash, as a non-frozen dataclass would."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x):
        return x


def test_a_masked_array_is_named():
    with pytest.raises(TypeError, match=r"xs: .* got a masked array of shape \(2, 5, 3\); fill"):
        seqjax.unroll(GRU, params_of(GRU), np.ma.array(XS, mask=True))
