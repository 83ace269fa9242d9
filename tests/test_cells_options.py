"""Cells as configurations: values that compare, hash and print; their options; how they draw."""

import dataclasses
import functools
import inspect
import itertools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import cells
from seqjax.cells import initializers, ops
from tests.cases import (
    CASES,
    I,
    all_cases,
    assert_close,
    inputs_of,
    params_of,
    reference,
    registered,
)

OPTIONS: list[tuple[Any, dict[str, Any]]] = [
    (cells.Elman, {"activation": "relu"}),
    (cells.Elman, {"use_bias": False}),
    (cells.ElmanReadout, {"output_size": 2}),
    (cells.LSTM, {"forget_bias": 1.0}),
    (cells.LSTM, {"chrono": 20.0}),
    (cells.PeepholeLSTM, {"kernel_init": "lecun_normal"}),
    (cells.CoupledLSTM, {"recurrent_init": "identity"}),
    (cells.ProjectedLSTM, {"proj_size": 1}),
    (cells.LayerNormLSTM, {"epsilon": 0.1}),
    (cells.GRU, {"bias_init": "torch_uniform"}),
    (cells.ChoGRU, {"chrono": 9}),
    (cells.IndRNN, {"activation": "tanh"}),
    (cells.LRU, {"output_size": 2}),
    (cells.LRU, {"r_min": 0.5}),
    (cells.RGLRU, {"num_heads": 2}),
    (cells.RGLRU, {"max_decay": 0.95}),
    (cells.SLSTM, {"forget_gate": "exponential"}),
    (cells.SLSTM, {"head_norm": True}),
    (cells.SLSTM, {"forget_init": "zeros"}),
    (cells.S5, {"output_size": 2}),
    (cells.S5, {"discretization": "bilinear", "output_size": 3}),
    (cells.GRUD, {"means": 0.5}),
    (cells.CfC, {"mode": "pure"}),
    (cells.CfC, {"backbone_layers": 0}),
    (cells.MixedCfC, {"activation": "relu"}),
    (cells.SRU, {"use_peephole": False}),
    (cells.SRU, {"highway_bias": -2.0}),
    (cells.ConvLSTM1D, {"kernel_size": 2}),
    (cells.ConvLSTM1D, {"padding": "VALID"}),
    (cells.ConvLSTM2D, {"spatial_shape": (3, 5)}),
    (cells.ConvLSTM2D, {"stride": (2, 1)}),
]

options = pytest.mark.parametrize(
    ("cls", "given"), OPTIONS, ids=[f"{cls.__name__}-{next(iter(given))}" for cls, given in OPTIONS]
)


def softsign(x):
    return x / (1 + abs(x))


def normal(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)


# Values.


@options
def test_equality_and_hash(cls, given):
    cell = cls(3, 4, **given)
    assert cell == cls(3, 4, **given) and hash(cell) == hash(cls(3, 4, **given))
    assert cell != cls(3, 4) and cell != cls(3, 6, **given) and cell != cls(2, 4, **given)
    assert len({cell, cls(3, 4, **given), cls(3, 4)}) == 2


def test_cells_of_different_classes_differ():
    built = [cls(3, 4) for cls in seqjax.CELLS.values()]
    for one, other in itertools.combinations(built, 2):
        assert one != other
    assert len(set(built)) == len(built)


@options
def test_replace(cls, given):
    assert dataclasses.replace(cls(3, 4), **given) == cls(3, 4, **given)
    wider = dataclasses.replace(cls(3, 4, **given), input_size=7)
    assert wider.input_size == 7 and wider == cls(7, 4, **given)
    with pytest.raises(ValueError, match=r"hidden_size: expected a positive integer, got 0"):
        dataclasses.replace(cls(3, 4), hidden_size=0)


def test_what_follows_from_a_size_is_part_of_the_value():
    # Filled in once, so replacing the size alone keeps it.
    assert cells.ProjectedLSTM(3, 8) == cells.ProjectedLSTM(3, 8, proj_size=4)
    assert cells.ElmanReadout(3, 8) == cells.ElmanReadout(3, 8, output_size=8)
    assert cells.ConvLSTM2D(3, 4) == cells.ConvLSTM2D(3, 4, spatial_shape=(8, 8), stride=(1, 1))
    assert cells.ProjectedLSTM(3, 1).output_shape == (1,)


@options
def test_repr_names_the_options_and_can_be_evaluated(cls, given):
    cell = cls(3, 4, **given)
    text = repr(cell)
    assert text.startswith(f"{cls.__name__}(input_size=3, hidden_size=4, ")
    for name in given:
        assert f"{name}={getattr(cell, name)!r}" in text
    assert eval(text, vars(cells)) == cell


@all_cases
def test_pickle(case):
    copy = pickle.loads(pickle.dumps(case.cell))
    assert copy == case.cell and hash(copy) == hash(case.cell)


def test_pickle_of_callables():
    cell = cells.Elman(3, 4, activation=softsign, kernel_init=normal)
    assert pickle.loads(pickle.dumps(cell)) == cell


def test_cells_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        cells.LSTM(3, 4).hidden_size = 5  # type: ignore[misc]


@registered
def test_only_sizes_are_positional(case):
    cls: Any = type(case.cell)
    kinds = [p.kind for p in inspect.signature(cls).parameters.values()]
    assert kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
    assert set(kinds[2:]) == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError, match=r"positional"):
        cls(3, 4, True)
    with pytest.raises(TypeError, match=r"bias"):
        cls(3, 4, bias=True)


def test_cells_are_static_arguments_of_jit():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(cell, params, xs):
        traces.append(cell)
        return seqjax.unroll(cell, params, xs).outputs

    for make in (lambda: cells.LSTM(3, 4), lambda: cells.Elman(3, 4, activation=softsign)):
        first, second = run(make(), params_of(make()), xs()), run(make(), params_of(make()), xs())
        assert_close(first, second, 0, 0)
    assert len(traces) == 2


def xs():
    return inputs_of(cells.LSTM(3, 4), (2,))


# Functions as options.


@pytest.mark.quick("sin-indrnn", "softsign-elman")
@pytest.mark.parametrize("name", ["elman", "elman_readout", "indrnn"])
@pytest.mark.parametrize("activation", [softsign, np.sin], ids=["softsign", "sin"])
def test_an_activation_of_ones_own(name, activation):
    jax_activation = jnp.sin if activation is np.sin else activation
    cls: Any = seqjax.CELLS[name]
    cell, twin = cls(3, 4, activation=jax_activation), cls(3, 4, activation=activation)
    params = params_of(cell)
    got = seqjax.unroll(cell, params, xs())
    assert_close(got, reference(CASES[name]._replace(cell=twin), params, xs()))
    gradient = jax.grad(lambda p: jnp.square(seqjax.unroll(cell, p, xs()).outputs).sum())(params)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_activations_by_name():
    z = jnp.linspace(-3, 3, 7)
    want = {
        "tanh": np.tanh(z),
        "relu": np.maximum(z, 0),
        "identity": z,
        "sigmoid": 1 / (1 + np.exp(-z)),
    }
    assert set(want) == set(ops.ACTIVATIONS)
    for name, values in want.items():
        cell = cells.Elman(1, 1, activation=name, use_bias=False)
        params = cells.ElmanParams(jnp.ones((1, 1)), jnp.zeros((1, 1)), None)
        assert_close(seqjax.unroll(cell, params, z[:, None]).outputs[:, 0], values)


BIASES = {"b", "b_hn", "b_y", "b_dh", "b_dx", "b_out", "lstm_b"}


def initialisers_of(cell):
    return [field.name for field in dataclasses.fields(cell) if field.name.endswith("_init")]


@pytest.mark.parametrize("option", ["kernel_init", "recurrent_init", "bias_init"])
@registered
@pytest.mark.quick("lstm-*", "cho_gru-recurrent_init", "conv_lstm_1d-recurrent_init")
def test_an_initialiser_of_ones_own(case, option):
    shapes = []
    if not hasattr(case.cell, option):
        pytest.skip(f"{case.name} has no option {option}")

    def init(key, shape, dtype):
        shapes.append(shape)
        return jnp.full(shape, 7, dtype)

    fill: dict[str, Any] = dict.fromkeys(initialisers_of(case.cell), "zeros") | {option: init}
    if option == "bias_init" and "forget_init" in fill:
        fill["forget_init"] = init  # the biases of one gate have an initialiser of their own
    cell = dataclasses.replace(case.cell, **fill)
    params = {k: v for k, v in cell.init(key())._asdict().items() if v is not None}
    expected = {
        "kernel_init": {"w_ih", "w_hy", "w_hr", "w_g", "w_mh", "w_out", "lstm_w_ih"},
        "recurrent_init": {"w_hh", "w_hf", "w_hn", "lstm_w_hh"},
        "bias_init": BIASES - {"lstm_b"},  # to which the bias of a forget gate is added
    }[option] & set(params)
    assert {name for name, value in params.items() if (value == 7).all()} == expected
    # One gate at a time: the blocks are as wide as the state, as the output, or as a layer inside.
    widths = {cell.hidden_size, cell.output_shape[-1], getattr(cell, "backbone_units", 0)}
    widths |= {cell.input_size} if case.name == "gru_d" else set()
    assert all(shape[-1] in widths for shape in shapes)
    if option == "bias_init" and case.name == "mixed_cfc":
        expected |= {"lstm_b"}
    total = sum(params[name].size for name in expected)
    assert sum(int(np.prod(shape)) for shape in shapes) == total


@pytest.mark.quick("orthogonal", "identity", "glorot_uniform")
@pytest.mark.parametrize("name", sorted(initializers.INITIALIZERS))
def test_initialisers_by_name(name):
    cell = cells.LSTM(3, 4, kernel_init=name, recurrent_init=name)
    params = cell.init(jax.random.key(0))
    assert_close(params.w_ih[:, :4].shape, (3, 4), 0, 0)
    for block in jnp.split(params.w_hh, 4, axis=1):
        match name:
            case "zeros" | "ones":
                assert (block == (name == "ones")).all()
            case "identity":
                assert_close(block, np.eye(4), 0, 0)
            case "power_law":
                assert_close(block[:, [0, 3]], np.tile([5.0, -7.0], (4, 1)), 1e-6)
            case "orthogonal":
                assert_close(block.T @ block, np.eye(4), 1e-5)
            case _:
                assert len(np.unique(block)) == 16
                assert abs(block).max() < (0.5 if name == "torch_uniform" else 2.5)


def test_scale_of_the_normal_initialisers():
    for name, deviation in [("lecun_normal", 300**-0.5), ("glorot_normal", 200**-0.5)]:
        w = cells.GRU(300, 100, kernel_init=name).init(jax.random.key(0)).w_ih
        np.testing.assert_allclose(w.std(), deviation, rtol=0.02)  # of one gate's [I, H]


# Drawing.


def redrawn(case):
    """The cell with every weight drawn from a continuous distribution."""
    return dataclasses.replace(case.cell, **dict.fromkeys(initialisers_of(case.cell), normal))


CONSTANT = (
    "gain_x",
    "gain_h",
    "gain_c",
    "bias_c",
    "p_i",
    "p_f",
    "p_o",
    "lambda_re",
    "lambda_im",
    "w_tau",
    "a",
)


def weights(params):
    return {k: v for k, v in params._asdict().items() if k not in CONSTANT and v is not None}


@pytest.mark.quick("lstm", "conv_lstm_1d")
@registered
def test_drawing_depends_on_the_key_alone(case):
    one, again = (weights(redrawn(case).init(jax.random.key(1))) for _ in range(2))
    other = weights(redrawn(case).init(jax.random.key(2)))
    assert_close(one, again, 0, 0)
    for name, value in one.items():
        assert (value != other[name]).any()


@pytest.mark.quick("elman", "lstm", "projected_lstm", "gru", "conv_lstm_2d", "min_lstm")
@all_cases
def test_no_two_weights_share_a_draw(case):
    if not getattr(case.cell, "conj_pairs", True):
        pytest.skip("conjugate states begin with conjugate weights")
    if isinstance(case.cell, cells.Decay):
        pytest.skip("it draws nothing itself")
    values = np.concatenate(
        [np.ravel(leaf) for leaf in weights(redrawn(case).init(key())).values()]
    )
    assert len(np.unique(values)) > 0.99 * len(values)  # float32 has few enough to meet by chance


@pytest.mark.quick("lstm", "conv_lstm_1d")
@registered
def test_different_gates_get_different_draws(case):
    params = weights(redrawn(case).init(key()))
    for value in params.values():
        gates = value.shape[-1] // case.cell.hidden_size
        for one, other in itertools.combinations(np.split(value, max(gates, 1), -1), 2):
            assert not np.isclose(one, other).any()


def key():
    return jax.random.key(0)


@pytest.mark.quick("lstm", "conv_lstm_1d")
@registered
def test_raw_keys(case):
    raw = case.cell.init(jax.random.PRNGKey(5))
    assert_close(raw, case.cell.init(jax.random.key(5)), 0, 0)
    assert_close(raw, case.cell.init(np.array([0, 5], np.uint32)), 0, 0)


@pytest.mark.quick("lstm")
@pytest.mark.parametrize("name", ["lstm", "cho_gru", "conv_lstm_1d"])
def test_many_cells_at_once(name):
    cell, keys = CASES[name].cell, jax.random.split(key(), 3)
    many = jax.jit(jax.vmap(cell.init))(keys)
    for n in range(3):
        assert_close(jax.tree.map(lambda a, n=n: a[n], many), cell.init(keys[n]), 1e-5)


@all_cases
@pytest.mark.quick("lstm", "min_gru", "conv_lstm_2d*")
def test_parameters_and_states_may_be_donated(case):
    # XLA refuses to take one buffer twice, as where two parameters are the same array of zeros.
    for tree in (case.cell.init(key()), case.cell.initial_state((2,))):
        pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]
        assert len(set(pointers)) == len(pointers), jax.tree.map(jnp.shape, tree)


@pytest.mark.quick("lstm", "gru", "conv_lstm_1d")
@pytest.mark.parametrize(
    "name", [name for name, cls in sorted(seqjax.CELLS.items()) if hasattr(cls, "use_bias")]
)
def test_without_biases(name):
    cls: Any = seqjax.CELLS[name]
    cell, with_zeros = cls(3, 4, use_bias=False), cls(3, 4)
    params = cell.init(key())._asdict()
    biases = BIASES & set(params)
    assert biases and all(params[n] is None for n in biases)
    given = {n: v for n, v in params.items() if v is not None}
    zeros = with_zeros.init(key())._replace(**given)
    if name not in ("slstm", "mixed_cfc"):  # whose forget gates begin with other biases than zero
        assert not any(getattr(zeros, n).any() for n in biases)
    zeros = zeros._replace(**{n: jnp.zeros_like(getattr(zeros, n)) for n in biases})
    inputs = inputs_of(cell, (2,))
    bare = type(zeros)(**params)
    assert_close(seqjax.unroll(cell, bare, inputs), seqjax.unroll(with_zeros, zeros, inputs))


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm", "coupled_lstm", "layer_norm_lstm"])
@pytest.mark.parametrize("given", [{"forget_bias": 1.0}, {"chrono": 10}])
def test_biases_asked_for_where_there_are_none(name, given):
    cls: Any = seqjax.CELLS[name]
    with pytest.raises(ValueError, match=r"use_bias: expected True with forget_bias or chrono"):
        cls(3, 4, use_bias=False, **given)


def test_forget_bias_is_added_to_what_was_drawn():
    plain = cells.CoupledLSTM(3, 4, bias_init="torch_uniform")
    moved = dataclasses.replace(plain, forget_bias=2.0)
    before, after = (np.asarray(cell.init(key()).b) for cell in (plain, moved))
    assert_close(after - before, np.array([2.0] * 4 + [0.0] * 8), 1e-6)


def test_chrono_of_the_coupled_lstm_has_no_input_gate_to_set():
    f, g, o = np.split(np.asarray(cells.CoupledLSTM(3, 64, chrono=100).init(key()).b), 3)
    assert (f >= 0).all() and 4 < f.max() <= np.log(99) and not g.any() and not o.any()


def test_epsilon_is_used():
    small, large = cells.LayerNormLSTM(3, 4), cells.LayerNormLSTM(3, 4, epsilon=10.0)
    params = params_of(small)
    assert not np.allclose(*(seqjax.unroll(c, params, xs()).outputs for c in (small, large)))
    want = reference(CASES["layer_norm_lstm"]._replace(cell=large), params, xs())
    assert_close(seqjax.unroll(large, params, xs()), want)


# Shapes.


@pytest.mark.quick("elman_readout", "lstm", "min_gru", "conv_lstm_1d")
@registered
def test_shapes_that_a_cell_declares(case):
    for batch in [(), (2,), (2, 3), (0,)]:
        state = case.cell.initial_state(batch, jnp.bfloat16)
        for leaf in jax.tree.leaves(state):
            assert leaf.shape[: len(batch)] == batch
            if case.name not in ("slstm", "lru", "rg_lru", "s5", "gru_d"):  # whose states are wider
                assert leaf.dtype == jnp.bfloat16
            else:
                assert leaf.dtype == jnp.bfloat16 or jnp.finfo(leaf.dtype).bits == 32
            assert not leaf.any()
    x = jnp.zeros((2, *case.cell.input_shape))
    output, new = case.cell.step(params_of(case.cell), x, case.cell.initial_state((2,)))
    assert output.shape == (2, *case.cell.output_shape)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, case.cell.initial_state((2,)))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, case.cell.initial_state(2))
    with pytest.raises(TypeError, match="batch_shape: expected"):
        case.cell.initial_state("2")


@pytest.mark.quick("given3-*", "given11-*")
@pytest.mark.parametrize(
    ("given", "output"),
    [
        ({"spatial_shape": 8}, (8,)),
        ({"spatial_shape": 8, "stride": 2}, (4,)),
        ({"spatial_shape": 9, "stride": 2}, (5,)),
        ({"spatial_shape": 8, "stride": 3, "kernel_size": 2}, (3,)),
        ({"spatial_shape": 8, "padding": "VALID"}, (6,)),
        ({"spatial_shape": 8, "padding": "VALID", "stride": 2}, (3,)),
        ({"spatial_shape": 9, "padding": "VALID", "stride": 2}, (4,)),
        ({"spatial_shape": 5, "padding": "VALID", "kernel_size": 5}, (1,)),
        ({"spatial_shape": 2, "stride": 5}, (1,)),
        ({"spatial_shape": (6, 5)}, (6, 5)),
        ({"spatial_shape": (6, 5), "stride": (2, 1)}, (3, 5)),
        ({"spatial_shape": (6, 5), "kernel_size": (2, 5), "padding": "VALID"}, (5, 1)),
        ({"spatial_shape": (6, 5), "padding": "VALID", "stride": 2}, (2, 2)),
    ],
)
def test_shapes_of_convolutional_cells(given, output):
    cls = cells.ConvLSTM2D if isinstance(given["spatial_shape"], tuple) else cells.ConvLSTM1D
    cell = cls(3, 2, **given)
    assert cell.input_shape == (*np.atleast_1d(given["spatial_shape"]), 3)
    assert cell.output_shape == (*output, 2)
    params = params_of(cell)
    ran = seqjax.unroll(cell, params, inputs_of(cell, (2,), 3))
    assert ran.outputs.shape == (2, 3, *output, 2)
    assert ran.state.h.shape == ran.state.c.shape == (2, *output, 2)
    above = cell.stacked_on(2)
    assert above.input_shape == cell.output_shape and above.output_shape == cell.output_shape
    assert above.kernel_size == cell.kernel_size
    seqjax.unroll(above, params_of(above), ran.outputs)


@all_cases
def test_stacked_on(case):
    above = case.cell.stacked_on(case.cell.output_shape[-1])
    assert type(above) is type(case.cell) and above.hidden_size == case.cell.hidden_size
    assert above.input_size == case.cell.output_shape[-1]
    assert len(above.input_shape) == len(case.cell.output_shape)
    if not above.reads_elapsed:
        assert above.input_shape == case.cell.output_shape
    assert above.output_shape == case.cell.output_shape
    assert case.cell.input_size == I  # as it was
    for field in dataclasses.fields(above):
        if field.name not in (
            "input_size", "spatial_shape", "stride", "padding", "means", "cell"
        ):  # fmt: skip
            assert getattr(above, field.name) == getattr(case.cell, field.name)


@pytest.mark.parametrize("name", ["proj_size", "output_size"])
def test_an_output_wider_than_the_state(name):
    cell: Any = {"proj_size": cells.ProjectedLSTM, "output_size": cells.ElmanReadout}[name]
    cell = cell(3, 4, **{name: 9})
    assert seqjax.unroll(cell, params_of(cell), xs()).outputs.shape[-1] == 9


def test_irnn_takes_options_and_scale():
    cell = cells.Elman.irnn(3, 4, scale=0.5, use_bias=False)
    params = cell.init(key())
    assert params.b is None
    assert_close(params.w_hh, 0.5 * np.eye(4), 0, 0)
    assert cells.Elman.irnn(3, 4) == cells.Elman.irnn(3, 4)


def scaled_cells():
    return [
        cells.Elman.irnn(3, 4, scale=0.5),
        cells.LSTM(3, 4, recurrent_init=initializers.Orthogonal(0.5)),
        cells.LSTM(3, 4, recurrent_init=initializers.Identity(0.5)),
        cells.LSTM(3, 4, bias_init=initializers.TorchUniform(4)),
        cells.LSTM(3, 4, bias_init=initializers.Chrono(9)),
    ]


@pytest.mark.parametrize("index", range(5))
def test_our_initialisers_with_arguments_are_values_too(index):
    one, other = scaled_cells()[index], scaled_cells()[index]
    assert one == other and hash(one) == hash(other)  # or each instance is traced anew
    assert pickle.loads(pickle.dumps(one)) == one


def test_drawn_arrays_have_the_dtype_and_the_shape_that_was_asked_for():
    ones = lambda key, shape, dtype: jnp.full(shape, 1)  # noqa: E731
    params = cells.GRU(3, 4, bias_init=ones, kernel_init=ones).init(jax.random.key(0), jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    for option in ("kernel_init", "bias_init"):
        for one in (jnp.ones(1), jnp.ones((3, 4), complex)):
            options: dict[str, Any] = {option: lambda key, shape, dtype, one=one: one}
            cell = cells.LSTM(3, 4, **options)
            with pytest.raises(ValueError, match=f"{option}: expected an initialiser"):
                cell.init(jax.random.key(0))
