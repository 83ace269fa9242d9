"""Many to one: each direction's output where it has seen the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import cells
from tests import references
from tests.cases import assert_close, inputs_of, mask_of, with_garbage
from tests.nn.helpers import (
    LENGTHS,
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
    time_first,
)

# A hole in the middle, padding on the left, no real step.
HOLES = np.array([[1, 0, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
MASKS = {"lengths": REAL, "holes": HOLES, "all real": np.ones((B, T), bool)}
MODES = ["concat", "sum", "mean", "mul", "none"]


def at_end(values, mask, *, last):
    """The last or the first real step of each row, zeros where there is none."""
    picked = np.zeros((len(mask), *values.shape[2:]))
    for row, real in enumerate(mask):
        if real.any():
            steps = np.flatnonzero(real)
            picked[row] = values[row, steps[-1 if last else 0]]
    return picked


def given(which):
    return dict(lengths=LENGTHS) if which == "lengths" else dict(mask=MASKS[which])


@pytest.mark.quick("lstm-*")
@pytest.mark.parametrize("which", MASKS)
@pytest.mark.parametrize("name", ["elman", "lstm", "conv_lstm_1d"])
def test_one_direction(name, which):
    classes = {"elman": cells.Elman, "lstm": cells.LSTM, "conv_lstm_1d": cells.ConvLSTM1D}
    layer = make(classes[name](I, H), num_layers=2, residual=True, learned_initial_state=True)
    mask, xs = MASKS[which], inputs_of(layer.cell, (B,), T)
    resets = resets_of((B,), T)
    found = run(
        layer, with_garbage(xs, mask), resets=resets, return_sequences=False, **given(which)
    )
    outputs, state = oracle(name, layer, xs, mask=mask, resets=resets)
    assert_close(found, (at_end(outputs, mask, last=True), state), 1e-5, 1e-5)


@pytest.mark.quick("concat", "none")
@pytest.mark.parametrize("mode", MODES)
def test_both_directions(mode):
    residual = mode in ("concat", "sum", "none")
    width = 2 * H if mode == "concat" else H
    layer = make(cells.GRU(width, H), bidirectional=True, merge_mode=mode, residual=residual)
    xs = random(B, T, width)
    for which in ("lengths", "holes"):
        mask = MASKS[which]
        # The twin's residual connection would be added before the ends are picked.
        pairs = [(layer.layers[0].forward, False), (layer.layers[0].backward, True)]
        ran = [
            references.unroll(
                "gru",
                each.cell,
                float64(each.params),
                xs,
                mask=mask,
                initial_state=np.zeros(H),
                reverse=reverse,
            )
            for each, reverse in pairs
        ]
        ends = [at_end(ran[0][0], mask, last=True), at_end(ran[1][0], mask, last=False)]
        want = tuple(ends) if mode == "none" else references.merge(ends, mode)
        if residual and mode != "none":
            want = want + at_end(xs, mask, last=True)
        found = run(layer, with_garbage(xs, mask), mask=mask, return_sequences=False)
        assert_close(found, (want, ((ran[0][1], ran[1][1]),)), 1e-5, 1e-5)


def test_the_layers_before_the_last_give_sequences():
    layer = make(cells.LSTM(I, H), num_layers=2, bidirectional=True, merge_mode="none")
    xs, mask = random(B, T, I), mask_of((B,), T)
    (forward, backward), state = oracle("lstm", layer, xs, mask=mask)
    want = (at_end(forward, mask, last=True), at_end(backward, mask, last=False))
    found = run(layer, with_garbage(xs, mask), mask=mask, return_sequences=False)
    assert_close(found, (want, state), 1e-5, 1e-5)


@pytest.mark.quick("batch1")
@pytest.mark.parametrize("batch", [(), (2, 3), (3, 3)])
def test_layouts_and_batch_axes(batch):
    layer = make(cells.GRU(I, H), bidirectional=True)
    turned = make(cells.GRU(I, H), bidirectional=True, time_major=True)
    xs = random(*batch, T, I)
    lengths = np.random.default_rng(8).integers(0, T + 1, batch)
    mask = np.arange(T) < lengths[..., None]
    want = run(layer, with_garbage(xs, mask), lengths=lengths, return_sequences=False)
    assert want.outputs.shape == (*batch, 2 * H)
    # One row at a time.
    rows, real = np.reshape(xs, (-1, T, I)), np.reshape(mask, (-1, T))
    flat = run(layer, rows, mask=real, return_sequences=False).outputs
    assert_close(np.reshape(want.outputs, (-1, 2 * H)), flat)
    found = run(
        turned,
        time_first(with_garbage(xs, mask), len(batch)),
        mask=time_first(mask, len(batch)),
        return_sequences=False,
    )
    assert_close(found, want)


def test_a_state_that_outlives_all_padding_gives_no_output():
    """A sequence without real steps has no output, whatever state it starts from."""
    layer = make(cells.GRU(I, H), learned_initial_state=True)
    found = layer(random(B, T, I), lengths=[0, 0, 0], return_sequences=False)
    assert not found.outputs.any() and found.state[0].any()


def test_gradient_is_finite_and_zero_at_padding():
    layer = make(cells.Elman(I, H), num_layers=2, bidirectional=True, norm="layer")

    @jit
    def gradients(layer, xs):
        loss = lambda layer, xs: jnp.square(  # noqa: E731
            layer(xs, mask=HOLES, return_sequences=False).outputs
        ).sum()
        return jax.grad(loss, (0, 1))(layer, xs)

    xs = random(B, T, I)
    found = gradients(layer, with_garbage(xs, HOLES))
    assert_finite(found)
    assert (np.asarray(found[1])[~HOLES] == 0).all()
    assert (np.asarray(found[1])[HOLES] != 0).all()
    assert_close(found, gradients(layer, xs))
