"""What `unroll` means, for every cell: against NumPy float64, one sequence and step at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from tests import references
from tests.cases import (
    CASES,
    T,
    all_conformant,
    assert_close,
    conformant,
    draw_like,
    hold_of,
    inputs_of,
    mask_of,
    params_of,
    picked,
    reference,
    registered,
    state_of,
    with_garbage,
)

BATCH = (2, 3)
LENGTHS = np.array([T, 4, 0])


def test_every_registered_cell_has_a_numpy_twin():
    cells = {*seqjax.CELLS, "decay"}  # `Decay` wraps another cell, so it has no name of its own
    assert set(references.REFERENCES) == cells
    assert {case.name for case in CASES.values()} == cells


@functools.cache
def everything(case):
    """Every argument of a run, so that one program serves several laws."""
    cell, state = case.cell, state_of(case.cell, BATCH)
    r = cell.recurrent_input(state)
    noise = None
    if r is not None:
        noise = 2.0 * (np.random.default_rng(6).random(r.shape) < 0.5).astype(np.float32)
    return {
        "state": state,
        "reset_state": state_of(cell, BATCH, 7),
        "mask": mask_of(BATCH),
        "resets": np.random.default_rng(5).random((*BATCH, T)) < 0.3,
        "recurrent_mask": noise,
        "zoneout": hold_of(case.cell, 0.3),
    }


def host(tree):
    """Arrays of NumPy, so that indexing compiles nothing."""
    return jax.tree.map(np.asarray, tree)


def check(case, xs, **options):
    """Run a case, compare it with its NumPy twin, and return what it gave."""
    params, mask = params_of(case.cell), options.get("mask")
    given = xs if mask is None else with_garbage(xs, mask)
    got = case.unroll(params, given, **options)
    options["initial_state"] = options.pop("state", None)
    assert isinstance(got, seqjax.Unrolled)
    assert_close(got, reference(case, params, xs, **options))
    return got


@pytest.mark.parametrize("reverse", [False, True])
@all_conformant
@pytest.mark.quick(
    "elman-scan-False",
    "elman_readout-scan-False",
    "gru-scan-False",
    "cho_gru-scan-False",
    "mgu-scan-False",
    "indrnn-scan-False",
    "min_gru-scan-False",
    "lstm-scan-False",
    "*_lstm-scan-False",
    "conv_lstm_?d-scan-False",
    "conv_lstm_1d-fused-False",
    "lstm-fused-True",
    "lstm-native-True",
    "min_gru-associative-True",
)
def test_masks_resets_states_and_noise(case, reverse):
    options = everything(case)
    xs, mask, state = inputs_of(case.cell, BATCH), options["mask"], options["state"]
    got = host(check(case, xs, reverse=reverse, **options))
    assert (got.outputs[~mask] == 0).all()
    # Without a real step the initial state comes back, to the bit.
    options = options | {"resets": np.zeros_like(mask), "reverse": reverse}
    alone = case.unroll(params_of(case.cell), xs, **options)
    pairs = zip(jax.tree.leaves(host(alone.state)), jax.tree.leaves(host(state)), strict=True)
    assert all((final[-1, -1] == initial[-1, -1]).all() for final, initial in pairs)


@all_conformant
@pytest.mark.quick("lstm-native", "min_gru-associative", "conv_lstm_1d-scan")
def test_nothing_but_inputs(case):
    check(case, inputs_of(case.cell, (3,)))


@conformant
@pytest.mark.quick("lstm-*", "elman_readout-*", "min_gru-*", "conv_lstm_1d-*")
def test_chunks_with_carried_state_equal_the_whole(case):
    params, xs, options = params_of(case.cell), inputs_of(case.cell, BATCH), everything(case)
    run = functools.partial(case.unroll, params, xs)
    whole = host(run(**options))
    mask, resets, early = options["mask"], options["resets"], np.arange(T) < 3
    a = host(run(**options | {"mask": mask & early, "resets": resets & early}))
    later = {"mask": mask & ~early, "resets": resets & ~early, "state": a.state}
    b = host(run(**options | later))
    assert_close(whole, (a.outputs + b.outputs, b.state))


@pytest.mark.quick("lstm-fused-*", "min_gru-associative-resets")
@pytest.mark.parametrize("name", ["mask", "resets", "recurrent_mask", "zoneout", "state"])
@picked
def test_each_argument_alone(case, name):
    value = everything(case)[name]
    if value is not None:
        check(case, inputs_of(case.cell, BATCH), reverse=True, **{name: value})


@pytest.mark.quick("lstm-fused-*", "min_gru-associative-True", "conv_lstm_1d-fused-False")
@pytest.mark.parametrize("reverse", [False, True])
@picked
def test_lengths(case, reverse):
    state = state_of(case.cell, (3,))
    xs = inputs_of(case.cell, (3,))
    garbage = with_garbage(xs, np.arange(T) < LENGTHS[:, None])
    params = params_of(case.cell)
    got = case.unroll(params, garbage, state=state, lengths=LENGTHS, reverse=reverse)
    want = reference(case, params, xs, initial_state=state, lengths=LENGTHS, reverse=reverse)
    assert_close(got, want)


@pytest.mark.quick("lstm-fused", "conv_lstm_1d-fused")
@picked
def test_a_sequence_alone_equals_itself_in_a_padded_batch(case):
    cell, params = case.cell, params_of(case.cell)
    xs = inputs_of(cell, (3,))
    batch = host(case.unroll(params, xs, lengths=LENGTHS, reverse=True))
    for row, length in enumerate(LENGTHS):
        # "native" asks for at least one step; without any, the default stands in.
        runs = case if length else case._replace(kernel="auto")
        alone = runs.unroll(params, xs[row, :length], reverse=True)
        inside = (batch.outputs[row, :length], jax.tree.map(lambda s, r=row: s[r], batch.state))
        assert_close(inside, tuple(alone))


@pytest.mark.quick("lstm-fused", "min_gru-associative")
@picked
def test_reverse_is_the_reversed_short_sequence(case):
    cell, params = case.cell, params_of(case.cell)
    xs = jnp.asarray(inputs_of(cell, (3,)))
    backward = case.unroll(params, xs, lengths=LENGTHS, reverse=True)
    flipped = case.unroll(params, seqjax.sequences.reverse(xs, lengths=LENGTHS), lengths=LENGTHS)
    outputs = seqjax.sequences.reverse(flipped.outputs, lengths=LENGTHS)
    assert_close(tuple(backward), (outputs, flipped.state))


@pytest.mark.quick("lstm-fused", "min_gru-associative")
@picked
def test_packed_rows_equal_separate_rows(case):
    cell, params = case.cell, params_of(case.cell)
    xs = inputs_of(cell, ())
    resets = np.arange(T) == 4
    packed = case.unroll(params, xs, resets=resets)
    first = host(case.unroll(params, xs[:4]))
    second = host(case.unroll(params, xs[4:]))
    assert_close(packed.outputs, np.concatenate([first.outputs, second.outputs]))
    assert_close(packed.state, second.state)
    # In reverse a reset acts before step t of the order in which steps are processed.
    packed = case.unroll(params, xs, resets=np.arange(T) == 3, reverse=True)
    first = host(case.unroll(params, xs[:4], reverse=True))
    second = host(case.unroll(params, xs[4:], reverse=True))
    assert_close(packed.outputs, np.concatenate([first.outputs, second.outputs]))
    assert_close(packed.state, first.state)


@pytest.mark.quick("lstm-fused", "min_gru-associative")
@picked
def test_resets_put_back_the_reset_state_not_the_carried_one(case):
    cell, params = case.cell, params_of(case.cell)
    xs, carried, fresh = inputs_of(cell, (2,)), state_of(cell, (2,)), state_of(cell, (), 7)
    resets = np.zeros((2, T), bool)
    resets[:, 0] = True
    zero = case.unroll(params, xs, state=carried, resets=resets)
    assert_close(zero, case.unroll(params, xs))
    learned = case.unroll(params, xs, state=carried, resets=resets, reset_state=fresh)
    assert_close(learned, case.unroll(params, xs, state=fresh))


@conformant
@pytest.mark.quick("lstm-fused", "min_gru-associative")
def test_empty_time_and_empty_batch(case):
    case.needs(np.float32, steps=0)
    cell, params, state = case.cell, params_of(case.cell), state_of(case.cell, (2,))
    no_time = case.unroll(params, inputs_of(cell, (2,), 0), state=state, lengths=[0, 0])
    assert no_time.outputs.shape == (2, 0, *cell.output_shape)
    assert_close(no_time.state, state, 0, 0)
    no_batch = case.unroll(params, inputs_of(cell, (0,)), lengths=[])
    assert no_batch.outputs.shape == (0, T, *cell.output_shape)
    assert jax.tree.leaves(no_batch.state)[0].shape[0] == 0


@pytest.mark.quick("lstm-fused")
@picked
def test_short_chunks_equal_the_whole(case):
    cell, params = case.cell, params_of(case.cell)
    xs, mask, resets = inputs_of(cell, (3,)), mask_of((3,)), mask_of((3,), seed=9)
    whole = case.unroll(params, xs, mask=mask, resets=resets)
    a = case.unroll(params, xs[:, :3], mask=mask[:, :3], resets=resets[:, :3])
    b = case.unroll(params, xs[:, 3:], state=a.state, mask=mask[:, 3:], resets=resets[:, 3:])
    assert_close(whole, (np.concatenate([host(a.outputs), host(b.outputs)], 1), b.state))


@pytest.mark.quick("lstm", "min_gru", "conv_lstm_1d")
@registered
def test_stepping_equals_the_sequence(case):
    cell, params = case.cell, params_of(case.cell)
    xs, state = inputs_of(cell, (3,)), cell.initial_state((3,))
    whole = host(case.unroll(params, xs))
    step = jax.jit(cell.step)
    for t in range(T):
        output, state = step(params, xs[:, t], state)
        assert_close(output, whole.outputs[:, t])
    assert_close(state, whole.state)


@pytest.mark.quick("lstm-fused")
@picked
def test_time_major_is_the_same_transposed(case):
    cell, params = case.cell, params_of(case.cell)
    xs, mask, resets = inputs_of(cell, BATCH), mask_of(BATCH), mask_of(BATCH, seed=9)
    want = case.unroll(params, xs, mask=mask, resets=resets)
    first = lambda a: np.moveaxis(a, 2, 0)  # noqa: E731
    got = case.unroll(params, first(xs), mask=first(mask), resets=first(resets), time_major=True)
    assert_close(got, (first(np.asarray(want.outputs)), want.state))
    lengths = np.full(BATCH, 2)
    got = case.unroll(params, first(xs), lengths=lengths, time_major=True)
    want = case.unroll(params, xs, lengths=lengths)
    assert_close(got, (first(np.asarray(want.outputs)), want.state))


@registered
def test_no_recurrent_mask_without_a_recurrent_product(case):
    if everything(case)["recurrent_mask"] is None:
        with pytest.raises(ValueError, match=r"recurrent_mask.*no recurrent product"):
            case.unroll(params_of(case.cell), inputs_of(case.cell, (3,)), recurrent_mask=1.0)


@conformant
@pytest.mark.quick("lstm-fused", "min_gru-associative")
def test_zoneout_that_is_drawn(case):
    state = state_of(case.cell, BATCH)
    drawn = draw_like(jax.tree.map(lambda s: np.zeros((*BATCH, T, *s.shape[2:])), state), 8)
    options = everything(case)
    leaves, structure = jax.tree.flatten(options["zoneout"], is_leaf=lambda hold: hold is None)
    drawn = [
        None if hold is None else a > 0.5
        for hold, a in zip(leaves, jax.tree.leaves(drawn), strict=True)
    ]
    options = options | {"zoneout": jax.tree.unflatten(structure, drawn)}
    check(case, inputs_of(case.cell, BATCH), **options)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integer_dtypes_of_lengths(dtype):
    case = CASES["gru"]
    params, xs = params_of(case.cell), inputs_of(case.cell, (3,))
    want = case.unroll(params, xs, lengths=LENGTHS)
    assert_close(case.unroll(params, xs, lengths=LENGTHS.astype(dtype)), want, 0, 0)


def test_long_lengths_in_a_narrow_dtype():
    case = CASES["elman"]
    xs = inputs_of(case.cell, (1,), 300)
    got = case.unroll(params_of(case.cell), xs, lengths=np.array([255], np.uint8))
    assert (got.outputs[0, 254] != 0).any() and (got.outputs[0, 255:] == 0).all()


def test_lengths_beyond_the_steps_are_clamped_under_jit():
    case = CASES["lstm"]
    params, xs = params_of(case.cell), inputs_of(case.cell, (2,))
    run = jax.jit(lambda lengths: case.unroll(params, xs, lengths=lengths))
    want = case.unroll(params, xs, lengths=np.array([T, 0]))
    assert_close(run(np.array([T + 5, -3])), want)


def test_a_state_without_batch_axes_starts_every_sequence():
    case = CASES["lstm"]
    cell, params, learned = case.cell, params_of(case.cell), state_of(case.cell, ())
    xs = inputs_of(cell, BATCH)
    got = case.unroll(params, xs, state=learned)
    tiled = jax.tree.map(lambda s: jnp.broadcast_to(s, (*BATCH, *s.shape)), learned)
    assert_close(got, reference(case, params, xs, initial_state=tiled))
