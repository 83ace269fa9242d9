"""Cells that read the elapsed time: missing values, silent steps, the authors' code, options."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import cells, traces
from seqjax.cells import (
    GRU,
    GRUD,
    LRU,
    LSTM,
    SLSTM,
    CfC,
    CfCParams,
    Decay,
    MinGRU,
    MixedCfC,
    MixedCfCParams,
)
from seqjax.testing import check_cell
from tests.cases import CASES, assert_close, draw_like, inputs_of, mask_of, params_of, reference

GOLDEN = Path(__file__).resolve().parent / "golden" / "cfc"


def golden(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Configuration, values and derivatives of a file of `golden/generate_cfc.py`."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    config = json.loads(str(arrays.pop("config")))
    return config, *({key: pair[i] for key, pair in arrays.items()} for i in (0, 1))


def ours(cell: CfC, theirs: dict[str, np.ndarray], forget: float) -> Any:
    """The parameters of a cell, or their derivatives, from those of ncps."""
    heads = ["ff1"] if cell.mode == "pure" else ["ff1", "ff2", "time_a", "time_b"]
    weights, biases = [], []
    layers = [f"backbone.{2 * n}" for n in range(cell.backbone_layers)]
    for names in [*([layer] for layer in layers), heads]:
        weights.append(np.concatenate([theirs[f"rnn_cell.{n}.weight"].T for n in names], 1))
        biases.append(np.concatenate([theirs[f"rnn_cell.{n}.bias"] for n in names]))
    pure = (theirs["rnn_cell.w_tau"][0], theirs["rnn_cell.A"][0]) if cell.mode == "pure" else None
    first, *hidden = weights[:-1] or weights
    params: Any = CfCParams
    cfc = params(
        first[: cell.input_size], first[cell.input_size :], biases[0],
        np.stack(hidden) if hidden else None, np.stack(biases[1:-1]) if hidden else None,
        *((weights[-1], biases[-1]) if layers else (None, None)), *(pure or (None, None)),
    )  # fmt: skip
    if "lstm.input_map.weight" not in theirs:
        return jax.tree.map(jnp.asarray, cfc)

    def by_gate(array):  # theirs are g, i, f, o
        g, i, f, o = np.split(array, 4, axis=-1)
        return np.concatenate([i, f, g, o], -1)

    b = by_gate(theirs["lstm.input_map.bias"])
    b[cell.hidden_size : 2 * cell.hidden_size] += forget
    w_ih, w_hh = (by_gate(theirs[f"lstm.{n}_map.weight"].T) for n in ("input", "recurrent"))
    return jax.tree.map(jnp.asarray, MixedCfCParams(w_ih, w_hh, b, *cfc))


@pytest.mark.parametrize("name", ["default", "no_gate", "pure", "deep", "shallow", "mixed"])
@pytest.mark.quick("default")
def test_a_cfc_equals_the_authors_code(name):
    config, values, derivatives = golden(name)
    mixed = name == "mixed"
    cell = (MixedCfC if mixed else CfC)(**config)

    @jax.jit
    def run(params, xs, elapsed, start):
        outputs, state = seqjax.unroll(cell, params, xs, elapsed=elapsed, state=start)
        last = state if mixed else (state,)
        loss = (outputs * derivatives["output"]).sum()
        for leaf, key in zip(last, ("h_n", "c_n"), strict=False):
            loss += (leaf * derivatives[key]).sum()
        return loss, (outputs, *last)

    start, wanted_state = values["h_0"], derivatives["h_0"]
    if mixed:
        pair: Any = cells.LSTMState
        start = pair(start, values["c_0"])
        wanted_state = pair(wanted_state, derivatives["c_0"])
    (_, found), gradients = jax.value_and_grad(run, (0, 1, 2, 3), has_aux=True)(
        ours(cell, values, 1.0), values["input"], values["elapsed"], start
    )
    results = ["output", "h_n", "c_n"][: 3 if mixed else 2]
    assert_close(found, [values[key] for key in results], 1e-5, 1e-5)
    wanted = (
        ours(cell, derivatives, 0.0),
        derivatives["input"],
        derivatives["elapsed"],
        wanted_state,
    )
    assert_close(gradients, wanted, 2e-5, 2e-5)


@pytest.mark.parametrize(
    "cell",
    [
        GRUD(3, 4, means=(0.5, -1.0, 2.0)), CfC(3, 4, backbone_units=5),
        CfC(3, 4, mode="pure", backbone_layers=0), MixedCfC(3, 4, backbone_units=5),
        Decay(LSTM(3, 4)), Decay(SLSTM(3, 4)), Decay(MinGRU(3, 4)), Decay(LRU(3, 4)),
    ],
    ids=["gru_d", "cfc", "cfc-pure", "mixed_cfc", "lstm", "slstm", "min_gru", "lru"],
)  # fmt: skip
@pytest.mark.quick()
def test_every_law(cell):
    check_cell(cell)


# Missing values.


@pytest.mark.parametrize("name", ["gru_d", "gru_d-means", "decay-gru", "decay-lstm"])
@pytest.mark.quick("gru_d-means", "decay-lstm")
def test_float64_with_missing_values_equals_the_twin(name, x64):
    case = CASES[name]
    params = draw_like(case.cell.param_specs(), 1, 0.4, np.float64)
    xs = inputs_of(case.cell, (3,), 9).astype(np.float64)
    assert np.isnan(xs).any()
    options: Any = {"mask": mask_of((3,), 9), "resets": mask_of((3,), 9, seed=9)}
    start = case.cell.initial_state((3,), jnp.float64)
    found = case.unroll(params, xs, state=start, **options)
    assert_close(found, reference(case, params, xs, **options), 1e-13, 1e-13)


@pytest.mark.quick()
@pytest.mark.parametrize("name", ["gru_d-means", "decay-lstm"])
def test_missing_values_have_no_effect_on_gradients(name):
    """The gradient is finite, is that of finite differences, and is 0 at a missing value."""
    case = CASES[name]
    params, xs, mask = params_of(case.cell), inputs_of(case.cell, (3,)), mask_of((3,))

    @jax.jit
    def loss(params, xs):
        outputs, state = case.unroll(params, xs, mask=mask)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves((outputs, state)))

    of_params, of_xs = jax.jit(jax.grad(loss, (0, 1)))(params, xs)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((of_params, of_xs)))
    assert not np.asarray(of_xs)[np.isnan(xs)].any() and np.asarray(of_xs).any()
    if name == "gru_d-means":
        way = draw_like(params, 5)

        def moved(step):
            return jax.tree.map(lambda a, d: np.asarray(a, np.float64) + step * d, params, way)

        def by_twin(params):
            outputs, state = reference(case, params, xs, mask=mask)
            return sum(np.sin(leaf).sum() for leaf in [outputs, *state])

        slope = (by_twin(moved(1e-5)) - by_twin(moved(-1e-5))) / 2e-5
        pairs = zip(jax.tree.leaves(of_params), jax.tree.leaves(way), strict=True)
        found = sum(float((g * d).sum()) for g, d in pairs)
        assert found == pytest.approx(slope, rel=1e-3)


def test_the_state_of_a_gru_d_by_hand():
    cell = GRUD(2, 3, means=(0.0, 20.0))
    nan = np.nan
    xs = np.array([[3.0, nan], [nan, nan], [nan, 5.0], [nan, nan]], np.float32)
    elapsed = np.array([0.0, 2.0, 0.5, 1.0])
    states = seqjax.unroll(cell, params_of(cell), xs, elapsed=elapsed, return_all_states=True).state
    assert_close(states.last, np.array([[3, 20], [3, 20], [3, 5], [3, 5]]), 0)
    assert_close(states.since, np.array([[0, 0], [2, 2], [2.5, 0], [3.5, 1]]), 0)


# Silent gaps.


@pytest.mark.parametrize("inner", [GRU(3, 4), LSTM(3, 4), SLSTM(3, 4), MinGRU(3, 4), LRU(3, 4)])
@pytest.mark.quick()
def test_a_silent_gap_may_be_split(inner):
    """Two steps without observations equal one step with the sum of their times."""
    cell = Decay(inner)
    params, xs = params_of(cell), inputs_of(GRU(3, 4), (2,), 4)
    xs[:, 2] = np.nan
    split = np.insert(xs, 2, np.nan, axis=1)
    one, two = np.array([0.0, 1.0, 2.0, 0.5]), np.array([0.0, 1.0, 0.7, 1.3, 0.5])

    # A cell whose output reads the input, such as an LRU, reads 0 at both of the silent steps.
    @jax.jit
    def run(params, xs, elapsed):
        def loss(params):
            times = jnp.broadcast_to(elapsed, xs.shape[:2])
            outputs, state = seqjax.unroll(cell, params, xs, elapsed=times)
            return (outputs[:, -2:] ** 2).sum(), (outputs, state)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, whole), of_whole = run(params, xs, one)
    (_, parts), of_parts = run(params, split, two)
    assert_close(np.delete(parts[0], 2, axis=1), whole[0], 2e-6)
    assert_close(parts[1], whole[1], 2e-6)
    assert_close(of_parts, of_whole, 1e-5, 1e-5)
    # The state has moved: to zero, and by more in a longer gap.
    (_, longer), _ = run(params, xs, one * 2)
    assert float(abs(np.asarray(longer[0] - whole[0])).max()) > 1e-3


def test_the_time_since_an_observation_adds_up_in_a_gru_d():
    cell = GRUD(3, 4)
    params, xs = params_of(cell), inputs_of(GRU(3, 4), (), 3)
    xs[1] = np.nan
    run = lambda xs, elapsed: seqjax.unroll(cell, params, xs, elapsed=elapsed).state  # noqa: E731
    one = run(xs[:2], np.array([0.0, 2.0]))
    two = run(np.insert(xs[:2], 1, np.nan, axis=0), np.array([0.0, 0.7, 1.3]))
    assert_close((two.last, two.since), (one.last, one.since), 1e-6)


def test_a_partly_missing_input_is_not_silent():
    """It must be filled; a result without NaN would hide that."""
    cell = Decay(GRU(3, 4))
    x = np.array([np.nan, 1.0, 1.0, 0.5], np.float32)
    assert np.isnan(cell.step(params_of(cell), x, cell.initial_state()).outputs).any()


def test_a_negative_rate_does_not_decay():
    cell = Decay(LSTM(3, 4))
    params = params_of(cell)
    params = params._replace(rates=jax.tree.map(lambda rate: -abs(rate), params.rates))
    silent = np.full((1, 4), np.nan, np.float32)
    silent[:, -1] = 9.0
    start = cell.initial_state()._replace(c=jnp.ones(4), h=-jnp.ones(4))
    assert_close(seqjax.unroll(cell, params, silent, state=start).state, start, 0)


@pytest.mark.quick()
def test_arrays_that_are_no_hidden_units_do_not_decay():
    cell = Decay(SLSTM(3, 4))
    rates = cell.init(jax.random.key(0)).rates
    assert rates.h.shape == (4,) and (rates.c, rates.n, rates.m) == (None, None, None)
    silent = np.array([np.nan] * 3 + [2.0], np.float32)
    start = jax.tree.map(lambda leaf: leaf + 2.0, cell.initial_state())
    _, state = cell.step(cell.init(jax.random.key(0)), silent, start)
    assert_close(state, start._replace(h=2.0 * np.exp(-0.2) * np.ones(4)), 1e-6)


def test_an_opaque_cell_stays_opaque():
    class Opaque(GRU):
        opaque = True

    assert Decay(Opaque(3, 4)).opaque and not Decay(GRU(3, 4)).opaque


def test_a_stack_keeps_the_wrapper_and_its_options():
    cell = Decay(GRU(3, 4), rate=0.5).stacked_on(7)
    assert cell == Decay(GRU(7, 4), rate=0.5) and cell.input_shape == (8,)
    assert GRUD(2, 4, means=(1.0, 2.0)).stacked_on(4) == GRUD(4, 4)


# Parameters and gates.


@pytest.mark.quick()
def test_initial_parameters():
    params = GRUD(10, 400).init(jax.random.key(0))
    assert 0 <= params.w_dh.min() < 0.01 and 0.09 < params.w_dh.max() <= 0.1
    assert params.w_dx.min() >= 0 and 0.5 < params.w_dx.max() <= 1
    rates = Decay(LSTM(3, 4), rate=0.25).init(jax.random.key(0)).rates
    assert_close(tuple(rates), (np.full(4, 0.25), np.full(4, 0.25)), 0)
    deep = CfC(3, 4, backbone_layers=2, backbone_units=5).init(jax.random.key(0))
    assert deep.w_hidden.shape == (1, 5, 5) and deep.w_hh.shape == (4, 5)
    assert deep.w_out.shape == (5, 16)
    assert abs(deep.w_out).max() > 0.7  # each head is drawn as a matrix of its own
    pure = CfC(3, 4, mode="pure").init(jax.random.key(0))
    assert pure.w_out.shape == (128, 4) and pure.a.all() and not pure.w_tau.any()
    assert MixedCfC(3, 4).init(jax.random.key(0)).lstm_b[4:8].tolist() == [1.0] * 4


@pytest.mark.quick()
def test_gates():
    cell: Any
    xs = inputs_of(MixedCfC(3, 4), (2,))
    cell = MixedCfC(3, 4, backbone_units=5)
    params = params_of(cell)
    found = traces.cell_gates(cell, params, xs)
    assert list(found) == ["lstm_i", "lstm_f", "lstm_g", "lstm_o", "f", "g", "tau"]
    outputs = seqjax.unroll(cell, params, xs).outputs
    tau = found["tau"]
    assert_close((1 - tau) * found["f"] + tau * found["g"], outputs, 1e-5)
    again = traces.cell_gates(cell, params, xs[..., :-1], elapsed=xs[..., -1])
    assert_close(again, found, 0)
    # In reverse, the gates read the time to the next step.
    options: Any = {"lengths": np.array([6, 3]), "reverse": True}
    found = traces.cell_gates(cell, params, xs, **options)
    tau, outputs = found["tau"], seqjax.unroll(cell, params, xs, **options).outputs
    assert_close((1 - tau) * found["f"] + tau * found["g"], outputs, 1e-5)
    cell = GRUD(3, 4)
    assert list(traces.cell_gates(cell, params_of(cell), inputs_of(cell, (2,)))) == ["r", "z", "n"]
    wrapped = Decay(GRU(3, 4))
    params, xs = params_of(wrapped), inputs_of(GRU(3, 4), (2,))
    now = np.concatenate([xs, np.zeros_like(xs[..., :1])], -1)
    assert_close(
        traces.cell_gates(wrapped, params, now), traces.cell_gates(GRU(3, 4), params.cell, xs), 1e-6
    )


ANY_GRUD: Any = GRUD
ANY_CFC: Any = CfC
ANY_DECAY: Any = Decay


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ANY_GRUD(3, 4, means=(1.0, 2.0)),
            "means: expected one number or 3 of them",
        ),
        (lambda: ANY_GRUD(3, 4, means=np.inf), "means: expected a finite number, got inf"),
        (lambda: ANY_GRUD(3, 4, means=("a", 1.0, 2.0)), "means: expected a number"),
        (lambda: ANY_CFC(3, 4, mode="fast"), "mode: expected"),
        (lambda: ANY_CFC(3, 4, activation="sin"), "activation: expected"),
        (lambda: ANY_CFC(3, 4, backbone_layers=-1), "backbone_layers: expected"),
        (lambda: ANY_CFC(3, 4, backbone_units=0), "backbone_units: expected"),
        (lambda: ANY_DECAY(GRU), "cell: expected a cell such as"),
        (lambda: ANY_DECAY(GRUD(3, 4)), "cell: expected a cell that reads vectors and no time"),
        (
            lambda: ANY_DECAY(cells.ConvLSTM1D(3, 4)),
            "cell: expected a cell that reads vectors and no",
        ),
        (lambda: ANY_DECAY(GRU(3, 4), rate=0.0), "rate: expected a positive number, got 0.0"),
        (lambda: ANY_DECAY(GRU(3, 4), rate="1"), "rate: expected a number"),
        (lambda: cells.make_cell(Decay(GRU(3, 4)), 3, 4), "cell: expected a cell that reads no"),
        (lambda: cells.make_cell(GRUD, 3, 4), "cell: expected a cell that reads no time, got GRUD"),
        (lambda: cells.make_cell("gru_d", 3, 4), "cell: expected one of"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
