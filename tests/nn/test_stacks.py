"""Stacks and directions of every cell: against NumPy float64, with random parameters and states."""

import functools
import warnings

import jax
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, nn
from seqjax.nn import Bidirectional
from tests.cases import (
    CASES,
    REGISTERED,
    assert_close,
    draw_like,
    inputs_of,
    mask_of,
    registered,
    with_garbage,
)
from tests.nn.helpers import (
    REAL,
    B,
    H,
    I,
    T,
    assert_finite,
    float64,
    jit,
    make,
    oracle,
    random,
    resets_of,
    run,
    states_of,
    time_first,
    weights_of,
)

MERGE_MODES = ["concat", "sum", "mean", "mul", "none"]
CLOSE = dict(atol=1e-5, rtol=1e-5)


@functools.cache
def stack(case):
    """A bidirectional stack of two layers, the second with a residual connection, and inputs."""
    layer = make(
        case.cell, num_layers=2, bidirectional=True, residual=True, learned_initial_state=True
    )
    return layer, inputs_of(case.cell, (B,), T)


@pytest.mark.quick("lstm", "conv_lstm_1d")
@registered
def test_bidirectional_stack_equals_numpy(case):
    layer, xs = stack(case)
    mask, resets, state = mask_of((B,), T), resets_of((B,), T), states_of(layer, (B,))
    options = dict(mask=mask, resets=resets, initial_state=state)
    found = run(layer, with_garbage(xs, mask), **options)
    assert_close(found, oracle(case.name, layer, xs, **options), **CLOSE)
    assert (np.asarray(found.outputs)[~mask] == 0).all()


@pytest.mark.quick("lstm", "min_gru", "conv_lstm_1d")
@registered
def test_padding_and_length_0(case):
    layer, xs = stack(case)
    options = dict(mask=REAL, resets=np.zeros_like(REAL), initial_state=layer.initial_state((B,)))
    found = run(layer, with_garbage(xs, REAL), **options)
    assert_close(found, oracle(case.name, layer, xs, **options), **CLOSE)
    assert (np.asarray(found.outputs)[~REAL] == 0).all()
    # Length 0: the initial state, to the bit.
    own = jax.tree.leaves(layer.initial_state())
    for final, initial in zip(jax.tree.leaves(found.state), own, strict=True):
        assert (final[2] == initial).all()
    assert own[0].any()  # learned; other arrays of a state may not be


@pytest.mark.quick("lstm", "conv_lstm_1d")
@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "min_gru", "conv_lstm_1d"])
def test_a_sequence_alone_equals_itself_in_a_padded_batch(name):
    layer, xs = stack(REGISTERED[name])
    options = dict(resets=np.zeros_like(REAL), initial_state=layer.initial_state((B,)))
    batch = run(layer, with_garbage(xs, REAL), mask=REAL, **options)
    alone = run(layer, xs[1, :2])
    inside = jax.tree.map(lambda a: np.asarray(a)[1], tuple(batch))
    assert_close((inside[0][:2], inside[1]), tuple(alone))


def weighted(results, weights):
    """A random linear function of everything that comes out, so that everything has a gradient."""
    leaves = zip(jax.tree.leaves(results), jax.tree.leaves(weights), strict=True)
    return sum((leaf * weight).sum() for leaf, weight in leaves)


# Cells of each kind; the gradient of every cell alone is in the conformance suite.
@pytest.mark.quick("gru")
@pytest.mark.parametrize("name", ["projected_lstm", "gru", "min_lstm"])
def test_gradient_of_a_bidirectional_stack(name):
    layer, xs = stack(REGISTERED[name])
    mask, resets, state = mask_of((B,), T), resets_of((B,), T), states_of(layer, (B,))
    weights = draw_like(jax.eval_shape(lambda: tuple(layer(xs))), 10)

    def loss(layer, xs, state):
        found = tuple(layer(xs, initial_state=state, mask=mask, resets=resets))
        return weighted(found, weights)

    garbage = with_garbage(xs, mask)
    found = jit(jax.grad(loss, (0, 1, 2)))(layer, garbage, state)
    assert_finite(found)
    assert (np.asarray(found[1])[~mask] == 0).all()

    # Along a random direction, against differences of the twin, which never reads padding.
    arguments = (weights_of(layer), layer.initial_state(), xs, state)
    ours = (weights_of(found[0]), found[0].initial_state(), *found[1:])
    direction = draw_like(arguments, 11, dtype=np.float64)
    size = 1e-6

    def at(sign):
        moved, fresh, inputs, start = jax.tree.map(
            lambda a, d: a + sign * size * d, float64(arguments), direction
        )
        options = dict(weights=moved, initial_state=start, reset_state=fresh)
        return weighted(oracle(name, layer, inputs, mask=mask, resets=resets, **options), weights)

    slope = (at(1) - at(-1)) / (2 * size)
    leaves = zip(jax.tree.leaves(ours), jax.tree.leaves(direction), strict=True)
    along = sum((np.asarray(g, np.float64) * d).sum() for g, d in leaves)
    scale = sum(float(np.abs(g).sum()) for g in jax.tree.leaves(ours))
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(along, slope, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("mode", MERGE_MODES)
def test_merge_modes(mode):
    # As wide as two directions together, so that a layer in between has a residual connection.
    width = 2 * H if mode in ("concat", "none") else H
    layer = make(
        cells.LSTM(width, H), num_layers=2, bidirectional=True, merge_mode=mode, residual=True
    )
    xs, mask = random(B, T, width), mask_of((B,), T)
    found = run(layer, with_garbage(xs, mask), mask=mask)
    outputs, state = oracle("lstm", layer, xs, mask=mask)
    if mode == "none":
        assert isinstance(found.outputs, Bidirectional)
        # The twin adds what layers in between give, joined by "concat"; a layer leaves a pair as
        # it is.
        first = slice(0, 1)
        inner, _ = oracle("lstm", layer, xs, only=first, mask=mask, merge_mode="concat")
        outputs = tuple(np.asarray(outputs) - np.split(inner, 2, axis=-1))
    assert_close(found, (outputs, state), **CLOSE)
    for leaf in jax.tree.leaves(found.outputs):
        assert layer.output_size == leaf.shape[-1]
        assert (np.asarray(leaf)[~mask] == 0).all()


@pytest.mark.quick("lstm-batch?")
@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("lstm", ()),
        ("lstm", (2, 3)),
        ("elman_readout-wide", (3, 3)),
        ("projected_lstm-3", (3, 3)),
        ("conv_lstm_1d-valid", (3, 3)),
    ],
)
def test_any_number_of_batch_axes(name, batch):
    name, cell, _ = CASES[name]
    layer = make(cell, num_layers=2, bidirectional=True, merge_mode="sum", residual=True)
    xs, resets = inputs_of(cell, batch, T), resets_of(batch, T)
    lengths = np.random.default_rng(8).integers(0, T + 1, batch)
    garbage = with_garbage(xs, np.arange(T) < lengths[..., None])
    found = run(layer, garbage, lengths=lengths, resets=resets)
    assert_close(found, oracle(name, layer, xs, lengths=lengths, resets=resets), **CLOSE)
    # Square batches may not mix their axes up.
    assert found.outputs.shape == (*batch, T, *cell.output_shape)


@pytest.mark.quick("gru")
@pytest.mark.parametrize("name", ["gru", "conv_lstm_1d"])
def test_time_major_is_the_same_transposed(name):
    cell, batch = seqjax.CELLS[name](I, H), (2, 3)
    options = dict(num_layers=2, bidirectional=True, residual=True, merge_mode="mean")
    layer, turned = make(cell, **options), make(cell, time_major=True, **options)
    xs, mask, resets = inputs_of(cell, batch, T), mask_of(batch, T), resets_of(batch, T)
    state = states_of(layer, batch)
    want = run(layer, xs, mask=mask, resets=resets, initial_state=state)
    given = time_first(dict(mask=mask, resets=resets), 2)
    found = run(turned, time_first(with_garbage(xs, mask), 2), initial_state=state, **given)
    assert_close(found, (time_first(want.outputs, 2), want.state))


def test_lengths_of_a_time_major_layer():
    layer = make(cells.GRU(I, H), num_layers=2, bidirectional=True, time_major=True)
    xs, lengths = random(2, 3, T, I), np.array([[T, 1, 0], [2, T, 3]])
    outputs, state = oracle("gru", layer, xs, lengths=lengths)
    found = run(layer, time_first(xs, 2), lengths=lengths)
    assert_close(found, (time_first(outputs, 2), state), **CLOSE)


@pytest.mark.quick("concat")
@pytest.mark.parametrize("mode", MERGE_MODES)
def test_empty_time_and_empty_batch(mode):
    layer = make(
        cells.LSTM(I, H), num_layers=2, bidirectional=True, merge_mode=mode,
        learned_initial_state=True,
    )  # fmt: skip
    no_time = layer(np.zeros((2, 0, I), np.float32), lengths=[0, 0], resets=np.zeros((2, 0), bool))
    last = jax.tree.leaves(no_time.outputs)
    assert all(leaf.shape == (2, 0, layer.output_size) for leaf in last)
    assert_close(no_time.state, layer.initial_state((2,)), 0, 0)
    no_batch = layer(np.zeros((0, T, I), np.float32), lengths=[])
    assert all(leaf.shape == (0, T, layer.output_size) for leaf in jax.tree.leaves(no_batch[0]))
    assert no_batch.state[1].backward.c.shape == (0, H)
    for xs in (np.zeros((2, 0, I), np.float32), np.zeros((0, T, I), np.float32)):
        ends = layer(xs, return_sequences=False).outputs
        for leaf in jax.tree.leaves(ends):
            assert leaf.shape == (len(xs), layer.output_size) and not leaf.any()


# Masked steps between the rows.
@pytest.mark.quick("2")
@pytest.mark.parametrize("gap", [0, 2])
def test_packed_rows_equal_separate_rows(gap):
    layer = make(cells.LSTM(I, H), num_layers=2, bidirectional=True, learned_initial_state=True)
    rows, second = random(2, 4, I), 4 + gap
    steps = second + 2
    packed = np.full((1, steps, I), np.nan, np.float32)
    packed[0, :4], packed[0, second:] = rows[0], rows[1, :2]
    mask = ~np.isnan(packed[..., 0])
    resets = np.arange(steps)[None] == second
    found = run(layer, packed, mask=mask, resets=resets)
    want = run(layer, rows, lengths=np.array([4, 2]))
    assert_close(found.outputs[0, :4], want.outputs[0], **CLOSE)
    assert_close(found.outputs[0, second:], want.outputs[1, :2], **CLOSE)
    # The forward direction ends in the last row, the backward one in the first.
    for packed_state, state in zip(found.state, want.state, strict=True):
        for ours, theirs, row in zip(packed_state, state, (1, 0), strict=True):
            assert_close(ours, jax.tree.map(lambda s, r=row: s[r : r + 1], theirs), **CLOSE)


def test_structure_of_states():
    both = make(cells.LSTM(I, H), num_layers=2, bidirectional=True)
    for state in (both.initial_state((B,)), run(both, random(B, T, I)).state):
        assert type(state) is tuple and len(state) == 2
        for each in state:
            assert type(each) is Bidirectional
            assert type(each.forward) is type(each.backward) is cells.LSTMState
            assert each.forward.h.shape == each.backward.c.shape == (B, H)
    one = make(cells.GRU(I, H), num_layers=3)
    for state in (one.initial_state((B,)), run(one, random(B, T, I)).state):
        assert type(state) is tuple and [s.shape for s in state] == [(B, H)] * 3
    assert isinstance(run(one, random(B, T, I)), seqjax.Unrolled)


def test_the_last_outputs_are_the_final_states():
    layer = make(cells.LSTM(I, H), num_layers=2, bidirectional=True, merge_mode="none")
    outputs, state = run(layer, random(B, T, I))
    assert (outputs.forward[:, -1] == state[1].forward.h).all()
    assert (outputs.backward[:, 0] == state[1].backward.h).all()


@pytest.mark.quick("lstm")
@pytest.mark.parametrize("name", ["lstm", "min_gru"])
def test_chunks_with_carried_state_equal_the_whole(name):
    layer = make(seqjax.CELLS[name](I, H), num_layers=2, residual=True)
    xs, mask, resets = random(B, 6, I), mask_of((B,), 6), resets_of((B,), 6)
    whole = run(layer, xs, mask=mask, resets=resets)
    state, outputs = layer.initial_state((B,)), []
    for part in (slice(0, 3), slice(3, 6)):
        options = dict(mask=mask[:, part], resets=resets[:, part], initial_state=state)
        found, state = run(layer, xs[:, part], **options)
        outputs.append(np.asarray(found))
    assert_close(whole, (np.concatenate(outputs, 1), state))


def test_a_given_state_is_where_each_direction_starts():
    layer = make(cells.GRU(I, H), bidirectional=True, merge_mode="none")
    xs, state = random(B, T, I), states_of(layer, (B,))
    zero = layer.initial_state((B,))
    base, both = run(layer, xs, initial_state=zero), run(layer, xs, initial_state=state)
    mixed = (Bidirectional(state[0].forward, zero[0].backward),)
    found = run(layer, xs, initial_state=mixed)
    assert_close(found.outputs, Bidirectional(both.outputs.forward, base.outputs.backward))
    assert_close(found.state[0].backward, base.state[0].backward)


def test_implementation_and_remat_are_passed_on():
    layer = make(cells.GRU(I, H), num_layers=2)
    xs = random(2, T, I)
    want = layer(xs)
    for options in (
        dict(implementation="scan"),
        dict(remat="log"),
        dict(remat="sqrt"),
        dict(memory_budget=10**6),
    ):
        assert_close(layer(xs, **options), want)
    for name in ("implementation", "remat"):
        with pytest.raises(ValueError, match=name):
            layer(xs, **{name: "unknown"})


def test_options_without_effect_give_a_warning():
    with pytest.warns(UserWarning, match="^LSTM: dropout acts between layers"):
        nn.LSTM(I, H, dropout=0.5, rngs=nnx.Rngs(0))
    for cell, options in (
        (cells.GRU(I, H), {}),
        (cells.GRU(H, H), {"bidirectional": True}),
        (cells.GRU(H, H), {"bidirectional": True, "merge_mode": "none"}),
    ):
        with pytest.warns(UserWarning, match="^Recurrent: residual adds inputs to outputs"):
            layer = make(cell, residual=True, **options)
        assert not any(part.adds_inputs for part in layer.layers)


def test_no_warning_where_some_layer_adds_its_inputs():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cell, options, adds in (
            (cells.GRU(I, H), {"num_layers": 2, "dropout": 0.5}, [False, True]),
            (cells.GRU(H, H), {"num_layers": 1, "dropout": 0.5}, [True]),
            (cells.GRU(2 * H, H), {"bidirectional": True}, [True]),
            (cells.GRU(H, H), {"bidirectional": True, "merge_mode": "sum"}, [True]),
            (cells.GRUD(H, H), {}, [True]),
        ):
            layer = make(cell, residual=True, **options)
            assert [part.adds_inputs for part in layer.layers] == adds
