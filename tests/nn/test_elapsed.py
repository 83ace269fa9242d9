"""`elapsed` in `unroll`, layers, steps, streams, windows and exported programs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, export, nn
from seqjax._elapsed import between_steps
from seqjax.streaming import Session
from tests import references
from tests.cases import CASES, assert_close, inputs_of, mask_of, params_of
from tests.nn.helpers import B, H, I, T, jit, make, oracle, resets_of, run, states_of

GRUD, CFC, DECAY = cells.GRUD(I, H), cells.CfC(I, H, backbone_units=5), cells.Decay(cells.GRU(I, H))


def parted(cell, steps=T):
    """Random features, some of which are missing for a GRU-D, and elapsed times."""
    xs = inputs_of(cell, (B,), steps)
    return xs[..., :-1], xs[..., -1]


def test_unroll_appends_the_time():
    xs, elapsed = parted(GRUD)
    params, whole = params_of(GRUD), inputs_of(GRUD, (B,), T)
    want = seqjax.unroll(GRUD, params, whole)
    assert_close(seqjax.unroll(GRUD, params, xs, elapsed=elapsed), want, 0)
    assert_close(seqjax.unroll(GRUD, params, xs, elapsed=jnp.asarray(elapsed)), want, 0)
    first = seqjax.unroll(GRUD, params, np.moveaxis(xs, 1, 0), elapsed=elapsed.T, time_major=True)
    assert_close(np.moveaxis(np.asarray(first.outputs), 0, 1), want.outputs, 1e-6)
    whole[..., -1] = np.arange(T)
    want = seqjax.unroll(GRUD, params, whole).outputs
    integers = seqjax.unroll(GRUD, params, xs, elapsed=np.tile(np.arange(T), (B, 1))).outputs
    assert_close(integers, want, 0)
    linen: Any = nn.LinenRecurrent(GRUD).apply(
        {"params": {k: v for k, v in params._asdict().items()}}, xs, elapsed=elapsed
    )
    assert_close(linen.outputs, seqjax.unroll(GRUD, params, xs, elapsed=elapsed).outputs, 0)


def test_the_time_between_the_steps_of_a_reverse_run():
    """The gap of the next real step; 0 at the end and across a reset, even at a masked step."""
    elapsed = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, np.nan])
    mask: Any = np.array([True, True, False, True, True, False])
    assert between_steps(elapsed[:5]).tolist() == [1, 2, 3, 4, 0]
    found = np.asarray(between_steps(elapsed, mask=mask))
    assert found[mask].tolist() == [1, 3, 4, 0]
    for reset, wanted in [
        (0, [0, 3, 4, 0]),
        (1, [1, 0, 4, 0]),
        (2, [1, 0, 4, 0]),
        (3, [1, 3, 0, 0]),
    ]:
        resets: Any = jnp.arange(6) == reset
        found = np.asarray(between_steps(elapsed, mask=mask, resets=resets))
        assert found[mask].tolist() == wanted
    assert between_steps(jnp.zeros((2, 0))).shape == (2, 0)
    # Time-major, where a row is a column.
    both = jnp.stack([elapsed, elapsed[::-1]], 1)
    columns = between_steps(both, mask=jnp.stack([mask, mask[::-1]], 1), axis=0)
    assert np.asarray(columns)[mask, 0].tolist() == [1, 3, 4, 0]


@pytest.mark.quick()
def test_a_reverse_run_is_a_run_of_the_reversed_sequence():
    xs, elapsed = parted(DECAY)
    params, lengths = params_of(DECAY), np.array([T, 3, 0])
    found = seqjax.unroll(DECAY, params, xs, elapsed=elapsed, lengths=lengths, reverse=True)
    for row, length in enumerate(lengths):
        gaps = np.concatenate([[0.0], elapsed[row, 1:length][::-1]])[:length]
        alone = seqjax.unroll(DECAY, params, xs[row, :length][::-1], elapsed=gaps)
        assert_close(found.outputs[row, :length][::-1], alone.outputs, 1e-6)
        assert_close(found.state[row], alone.state, 1e-6)


@pytest.mark.parametrize(("cell", "name"), [(GRUD, "gru_d"), (DECAY, "decay")])
@pytest.mark.quick()
def test_every_layer_of_a_bidirectional_stack_reads_the_time(cell, name):
    """With masks in the middle, resets and residual connections, against the twin."""
    layer = make(cell, num_layers=3, bidirectional=True, residual=True)
    xs, elapsed = parted(cell)
    mask, resets, state = mask_of((B,), T), resets_of((B,), T), states_of(layer, (B,))
    garbage = np.where(mask, elapsed, np.nan)
    found = run(layer, xs, elapsed=garbage, mask=mask, resets=resets, initial_state=state)
    whole = np.concatenate([xs, elapsed[..., None]], -1)
    want = oracle(name, layer, whole, mask=mask, resets=resets, initial_state=state)
    assert_close(found, want, 1e-5, 1e-5)
    raw = run(layer, whole, mask=mask, resets=resets, initial_state=state)
    assert_close(raw, want, 1e-5, 1e-5)


@pytest.mark.quick()
def test_a_missing_value_adds_nothing_to_a_residual_connection():
    cell = cells.GRUD(H, H)
    layer, plain = make(cell, residual=True), make(cell)
    xs, elapsed = parted(cell)
    found = run(layer, xs, elapsed=elapsed).outputs
    want = run(plain, xs, elapsed=elapsed).outputs + np.nan_to_num(xs)
    assert_close(found, want, 1e-6)


@pytest.mark.quick()
def test_input_dropout_leaves_the_time_alone():
    layer = make(CFC, input_dropout=0.9)
    xs, elapsed = np.zeros((1, T, I), np.float32), parted(CFC)[1][:1]
    now = layer(xs, elapsed=elapsed, rngs=jax.random.key(0)).outputs
    assert_close(now, layer(xs, elapsed=elapsed, deterministic=True).outputs, 1e-6)


@pytest.mark.quick()
def test_steps_and_streams_carry_what_was_observed():
    layer = make(GRUD, num_layers=2)
    xs, elapsed = parted(GRUD)
    whole = run(layer, xs, elapsed=elapsed)
    session, state = Session(layer, capacity=2), None
    for row in (0, 1):
        session.open(row)
    step = jit(lambda layer, x, gap, state: layer.step(x, state, elapsed=gap))
    state = layer.initial_state(B)
    for t in range(T):
        output, state = step(layer, xs[:, t], elapsed[:, t], state)
        assert_close(output, whole.outputs[:, t], 1e-5)
        # In a stream the time is the last feature.
        inputs = {row: np.append(xs[row, t], elapsed[row, t]) for row in (0, 1)}
        outputs = session.step(inputs)
        assert_close(outputs[1], whole.outputs[1, t], 1e-5)
    assert_close(state, whole.state, 1e-5)
    assert_close(session.state(1)[0].last, whole.state[0].last[1], 1e-6)
    chunks = Session(layer, capacity=1)
    chunks.open("all")
    fed = chunks.feed({"all": np.concatenate([xs[0], elapsed[0, :, None]], -1)})
    assert_close(fed["all"], whole.outputs[0], 1e-5)


@pytest.mark.quick()
def test_windows_that_overlap():
    layer = make(DECAY)
    xs, elapsed = parted(DECAY, 6)
    whole = run(layer, xs, elapsed=elapsed).outputs
    stateful = nn.Stateful(layer, B)
    first = stateful(xs[:, :4], elapsed=elapsed[:, :4], stride=2).outputs
    second = stateful(xs[:, 2:], elapsed=elapsed[:, 2:]).outputs
    assert_close(first, whole[:, :4], 1e-5)
    assert_close(second, whole[:, 2:], 1e-5)


@pytest.mark.slow
def test_an_exported_program_reads_the_time_as_the_last_feature():
    layer = make(DECAY, bidirectional=True)
    xs = inputs_of(DECAY, (B,), T)
    lengths = np.array([T, 2, 1], np.int32)
    program = export.export_layer(layer, state=False, platforms=["cpu"])
    want = run(layer, xs[..., :-1], elapsed=xs[..., -1], lengths=lengths)
    assert_close(program(xs, lengths)["outputs"], want.outputs, 1e-5)


@pytest.mark.quick()
def test_half_precision_and_one_output_per_sequence():
    layer = make(CFC, dtype=jnp.bfloat16)
    xs, elapsed = parted(CFC)
    found = layer(xs, elapsed=elapsed, lengths=np.array([T, 2, 0]), return_sequences=False)
    assert found.outputs.dtype == jnp.bfloat16 and found.outputs.shape == (B, H)
    exact = make(CFC)(xs, elapsed=elapsed, lengths=np.array([T, 2, 0]), return_sequences=False)
    assert_close(found.outputs, exact.outputs, 0.05, 0.05)


@pytest.mark.quick()
def test_named_layers():
    layer: Any = nn.CfC(3, 4, mixed_memory=True, mode="no_gate", rngs=nnx.Rngs(0))
    assert layer.cell == cells.MixedCfC(3, 4, mode="no_gate")
    assert nn.CfC(3, 4, activation="relu", rngs=nnx.Rngs(0)).cell == cells.CfC(
        3, 4, activation="relu"
    )
    layer = nn.GRUD(3, 4, num_layers=2, means=(1.0, 2.0, 3.0), rngs=nnx.Rngs(0))
    assert layer.cell.means == (1.0, 2.0, 3.0) and layer.layers[1].forward.cell.means == 0.0


XS, GAPS = np.ones((2, 5, I), np.float32), np.ones((2, 5), np.float32)


@pytest.mark.parametrize(
    ("cell", "xs", "elapsed", "message"),
    [
        (
            cells.GRU(I, H),
            XS,
            GAPS,
            "elapsed: expected None for GRU, which reads no time; wrap the",
        ),
        (
            GRUD,
            XS,
            None,
            r"elapsed: expected the time since the previous step, \[..., T\], for GRUD",
        ),
        (GRUD, XS, GAPS[:, :4], r"elapsed: expected the shape \(2, 5\), got \(2, 4\)"),
        (
            GRUD,
            np.ones((2, 5, I + 1)),
            GAPS,
            r"xs: expected \[..., T, 3\] beside elapsed, or .* last feature, got",
        ),
        (
            GRUD,
            np.ones((2, 5, I + 2)),
            None,
            r"xs: expected \[..., T, 3\] beside elapsed, or \[..., T, 4\] with the time",
        ),
        (GRUD, XS, "soon", "elapsed: expected numbers"),
        (GRUD, XS, GAPS > 0, "elapsed: expected numbers, got dtype bool"),
    ],
)
def test_errors(cell, xs, elapsed, message):
    params = cell.init(jax.random.key(0))
    layer = nn.Recurrent(cell, params=[params])
    with pytest.raises((TypeError, ValueError), match=message):
        seqjax.unroll(cell, params, xs, elapsed=elapsed)
    with pytest.raises((TypeError, ValueError), match=message):
        layer(xs, elapsed=elapsed)


def test_errors_of_a_step_and_hints():
    layer: Any = nn.Recurrent(GRUD, params=[params_of(GRUD)])
    with pytest.raises(ValueError, match=r"elapsed: expected .* previous step, \[...\], for GRUD"):
        layer.step(XS[:, 0])
    with pytest.raises(ValueError, match=r"x_t: expected \[..., 3\] beside .* got \(2, 4\)"):
        layer.step(np.ones((2, 4), np.float32), elapsed=GAPS[:, 0])
    with pytest.raises(TypeError, match=r"timespans.*use elapsed"):
        layer(XS, timespans=GAPS)


def test_the_twin_of_a_reverse_run_reads_turned_times():
    """The references' rule, by hand, since the tests of conformance rely on it."""
    xs = np.array([[[7.0, 0.0], [7.0, 1.0], [7.0, 2.0], [7.0, 3.0]]])
    turned = references.turned_times(
        xs, np.array([[True, False, True, True]]), np.array([[False, False, True, False]])
    )
    assert turned[0, [0, 2, 3], 1].tolist() == [2.0, 0.0, 0.0]
    assert "gru_d" in CASES


@pytest.mark.parametrize("time", [np.nan, np.inf])
def test_a_time_that_is_not_finite_is_an_error_at_real_steps_only(time):
    gaps = GAPS.copy()
    gaps[1, 3] = time
    params, hint = params_of(GRUD), r".* pandas' diff\(\), put 0" if np.isnan(time) else "$"
    with pytest.raises(ValueError, match=rf"elapsed: .* got {time} at \(1, 3\){hint}"):
        seqjax.unroll(GRUD, params, XS, elapsed=gaps)
    with pytest.raises(ValueError, match=rf"elapsed: .* got {time} at \(1,\)"):
        make(GRUD).step(XS[:, 3], elapsed=gaps[:, 3])
    seqjax.unroll(GRUD, params, XS, elapsed=gaps, lengths=[5, 3])


def test_a_negative_time_is_an_error_at_real_steps_only():
    gaps = GAPS.copy()
    gaps[1, 3] = -2.0
    layer = make(GRUD)
    params = params_of(GRUD)
    message = r"elapsed: expected finite times of at least 0, got -2.0 at \(1, 3\)"
    for options in ({}, {"lengths": [5, 4]}, {"mask": np.ones((2, 5), bool)}):
        with pytest.raises(ValueError, match=message):
            seqjax.unroll(GRUD, params, XS, elapsed=gaps, **options)
        with pytest.raises(ValueError, match=message):
            layer(XS, elapsed=gaps, **options)
    with pytest.raises(ValueError, match=r"got -2.0 at \(3, 1\)"):
        seqjax.unroll(GRUD, params, XS.swapaxes(0, 1), elapsed=gaps.T, time_major=True)
    with pytest.raises(ValueError, match=r"elapsed: .* got -2.0 at \(1,\)"):
        layer.step(XS[:, 3], elapsed=gaps[:, 3])
    padded = np.where(gaps < 0, 0, gaps)
    for options in ({"lengths": [5, 3]}, {"mask": gaps >= 0}):
        found, expected = (layer(XS, elapsed=e, **options).outputs for e in (gaps, padded))
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(TypeError, match=r"elapsed: expected real numbers, got dtype complex64"):
        layer(XS, elapsed=GAPS.astype(np.complex64))


def test_a_time_that_the_dtype_cannot_hold_is_an_error_that_names_the_time():
    layer, gaps = make(GRUD, dtype=jnp.float16), GAPS.copy()
    gaps[1, 3] = 1e5
    joined = np.concatenate([XS, gaps[..., None]], -1)
    message = r"elapsed: expected at most 65504.0, the largest float16, got 100000.0 at \(1"
    for xs, elapsed in ((XS, gaps), (joined, None)):
        with pytest.raises(ValueError, match=message + r", 3\); choose a larger unit of time"):
            layer(xs, elapsed=elapsed)
        with pytest.raises(ValueError, match=message + r",\)"):
            layer.step(xs[:, 3], elapsed=None if elapsed is None else elapsed[:, 3])
        assert layer(xs, elapsed=elapsed, lengths=[5, 3]).outputs.dtype == jnp.float16
    with pytest.raises(ValueError, match=message):
        make(GRUD)(XS.astype(np.float16), elapsed=gaps)
    assert make(GRUD)(XS, elapsed=gaps).outputs.dtype == jnp.float32


def test_the_time_keeps_the_dtype_of_the_layer_and_not_of_the_inputs():
    """A layer with `dtype=float32` reads float32 times beside half-precision inputs."""
    layer, narrow, gaps = make(GRUD, dtype=jnp.float32), XS.astype(jnp.bfloat16), GAPS.copy()
    gaps[:] = 1.001
    want = make(GRUD)(narrow.astype(np.float32), elapsed=gaps)
    assert_close(layer(narrow, elapsed=gaps).outputs, want.outputs, 1e-7)
    first = layer.step(narrow[:, 0], elapsed=gaps[:, 0]).outputs
    assert_close(first, want.outputs[:, 0], 1e-7)
