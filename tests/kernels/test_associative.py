"""The associative kernel: time in parallel equals the loop, and refuses what is not linear."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import seqjax
from seqjax.cells import MinGRU
from tests.cases import CASES, assert_close, draw_like, inputs_of, mask_of, params_of, state_of
from tests.kernels.test_fused import walk

BATCH = (2, 3)


@dataclasses.dataclass(frozen=True)
class Readout(MinGRU):
    """A linear cell whose output is not its state, and reads the gates."""

    def linear_terms(self, p, gates):
        return jnp.tanh(gates[0]), gates[1]

    def output(self, p, gates, state):
        return jnp.concatenate([gates[1] * state, jnp.square(state)], axis=-1)

    @property
    def output_shape(self):
        return (2 * self.hidden_size,)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hold", ["none", "number", "drawn"])
@pytest.mark.parametrize("cell", [CASES["min_lstm"].cell, Readout(3, 4)], ids=["min_lstm", "own"])
@pytest.mark.quick("own-drawn-False")
def test_equals_the_loop_with_everything_on(cell, hold, reverse):
    params, xs, start = params_of(cell), inputs_of(cell, BATCH), state_of(cell, BATCH)
    mask, resets = mask_of(BATCH), mask_of(BATCH, seed=9)
    zoneout = {
        "none": None,
        "number": 0.3,
        "drawn": draw_like(xs[..., :1] * start[:, :, None], 4) > 0,
    }

    def ran(implementation):
        def loss(params, xs, start, back):
            outputs, state = seqjax.unroll(
                cell, params, xs, state=start, reset_state=back, mask=mask, resets=resets,
                zoneout=zoneout[hold], reverse=reverse, implementation=implementation,
            )  # fmt: skip
            return jnp.sin(outputs).sum() + jnp.cos(state).sum(), (outputs, state)

        back = state_of(cell, BATCH, 7)
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(
            params, xs, start, back
        )

    assert_close(ran("associative"), ran("scan"), 1e-5, 1e-5)


@pytest.mark.quick()
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_passes_a_reset(reverse):
    """Neither NaN of a step nor of the start, in values, and none of the start in gradients."""
    cell = CASES["min_gru"].cell
    params, start = params_of(cell), state_of(cell, (2,))
    xs = jnp.asarray(inputs_of(cell, (2,)))
    steps = xs.shape[1]
    before, cut = (steps - 2, steps - 3) if reverse else (1, 2)
    resets = jnp.zeros((2, steps), bool).at[0, cut].set(True)
    xs = xs.at[0, before].set(jnp.nan)

    def outputs(implementation, xs=xs, start=start, resets=resets):
        return seqjax.unroll(
            cell, params, xs, state=start, resets=resets, reverse=reverse,
            implementation=implementation,
        ).outputs  # fmt: skip

    found, expected = outputs("associative"), outputs("scan")
    assert jnp.array_equal(jnp.isnan(found), jnp.isnan(expected))
    assert jnp.isnan(found[0]).any() and jnp.isfinite(found[0]).any()
    assert_close(jnp.nan_to_num(found), jnp.nan_to_num(expected), 1e-5, 1e-5)

    infinite = jnp.asarray(start).at[0].set(jnp.inf)
    first = jnp.zeros((2, steps), bool).at[0, steps - 1 if reverse else 0].set(True)

    def loss(params, implementation):
        ran = seqjax.unroll(
            cell, params, inputs_of(cell, (2,)), state=infinite, resets=first, reverse=reverse,
            implementation=implementation,
        )  # fmt: skip
        return jnp.sin(ran.outputs).sum()

    gradients = [jax.grad(loss)(params, name) for name in ("associative", "scan")]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))
    assert_close(gradients[0], gradients[1], 1e-5, 1e-5)


def test_there_is_no_loop():
    cell = CASES["min_gru"].cell
    params = params_of(cell)
    run = lambda xs: seqjax.unroll(cell, params, xs, implementation="associative")  # noqa: E731
    names = {e.primitive.name for e in walk(jax.make_jaxpr(run)(inputs_of(cell, BATCH)).jaxpr)}
    assert not names & {"scan", "while"}


def test_other_cells_are_refused():
    cell = CASES["gru"].cell
    message = r"implementation: 'associative' runs cells with linear_terms, got GRU; use 'scan'"
    with pytest.raises(ValueError, match=message):
        seqjax.unroll(cell, params_of(cell), inputs_of(cell, BATCH), implementation="associative")
