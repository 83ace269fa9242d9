"""Gradients of every cell: against differences of the NumPy twin, and untouched by padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from tests import references
from tests.cases import (
    CASES,
    PICKED,
    REGISTERED,
    T,
    assert_close,
    assert_same,
    conformant,
    draw_like,
    hold_of,
    inputs_of,
    kernels_of,
    mask_of,
    params_of,
    picked,
    reference,
    state_of,
    with_garbage,
)

BATCH = (3,)


def loss_of(outputs, state, weights):
    """A random linear function of everything that comes out."""
    leaves = zip(jax.tree.leaves((outputs, state)), jax.tree.leaves(weights), strict=True)
    return sum((leaf * weight).sum().real for leaf, weight in leaves)


@functools.cache
def problem(case, reverse=False):
    """A loss over all outputs and the final state, with everything on, and its arguments."""
    cell = case.cell
    state = state_of(cell, BATCH)
    r = cell.recurrent_input(state)
    fixed = {
        "mask": mask_of(BATCH),
        "resets": mask_of(BATCH, seed=9),
        "recurrent_mask": None if r is None else draw_like(r, 6),
        "zoneout": hold_of(cell, 0.2),
        "reverse": reverse,
    }
    arguments = params_of(cell), inputs_of(cell, BATCH), state, state_of(cell, BATCH, 5)
    shapes = jax.eval_shape(lambda: tuple(case.unroll(*arguments[:2])))
    weights = draw_like(shapes, 10)

    def loss(params, xs, state, reset_state, **options):
        ran = case.unroll(params, xs, state=state, reset_state=reset_state, **fixed, **options)
        return loss_of(ran.outputs, ran.state, weights)

    return loss, jax.jit(jax.grad(loss, (0, 1, 2, 3))), arguments, fixed, weights


@functools.cache
def gradients(case, reverse=False):
    _, gradient, arguments, *_ = problem(case, reverse)
    return gradient(*arguments)


BACKWARD = [
    pytest.param(case, True, id=f"{id}-reverse", marks=() if id in PICKED else pytest.mark.slow)
    for id, case in REGISTERED.items()
]
FORWARD = [pytest.param(case, False, id=id) for id, case in CASES.items()]


@pytest.mark.quick("lstm", "min_gru")
@pytest.mark.parametrize(("case", "reverse"), FORWARD + BACKWARD)
def test_gradient_equals_differences_of_the_numpy_twin(case, reverse):
    case = case._replace(kernel="scan")
    *_, arguments, fixed, weights = problem(case, reverse)
    ours = gradients(case, reverse)
    direction = draw_like(arguments, 11, dtype=np.float64)
    size = 1e-6

    def at(sign):
        params, xs, state, reset_state = jax.tree.map(
            lambda a, d: references.wide(a) + sign * size * d, arguments, direction
        )
        ran = reference(case, params, xs, initial_state=state, reset_state=reset_state, **fixed)
        return loss_of(ran[0], ran[1], weights)

    slope = (at(1) - at(-1)) / (2 * size)
    along = sum(
        (references.wide(g) * d).sum().real  # JAX gives ∂/∂x - i ∂/∂y of a complex number
        for g, d in zip(jax.tree.leaves(ours), jax.tree.leaves(direction), strict=True)
    )
    scale = sum(float(np.abs(g).sum()) for g in jax.tree.leaves(ours))
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(along, slope, rtol=1e-4, atol=1e-6 * scale)
    for other in kernels_of(case):
        assert_same(gradients(other, reverse), ours)


@pytest.mark.quick("lstm-fused", "lstm-native", "min_gru-associative")
@conformant
def test_padding_never_reaches_a_gradient(case):
    _, gradient, (params, xs, *states), fixed, _ = problem(case)
    dirty = gradient(params, with_garbage(xs, fixed["mask"]), *states)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(dirty))
    assert_same(dirty, gradients(case))
    assert (np.asarray(dirty[1])[~fixed["mask"]] == 0).all()


@pytest.mark.quick("lstm-fused", "lstm-native", "min_gru-associative")
@conformant
def test_the_state_of_a_row_without_steps_reaches_no_gradient(case):
    """Not even NaN, as in an unused row of a replay buffer. The row keeps its state."""
    params, xs, state = params_of(case.cell), inputs_of(case.cell, (2,)), state_of(case.cell, (2,))
    inexact = lambda a: jnp.issubdtype(a.dtype, jnp.inexact)  # noqa: E731
    broken = jax.tree.map(lambda a: a.at[1].set(jnp.nan) if inexact(a) else a, state)

    resets = jnp.arange(T) == 2

    def loss(params, state, resets=None):
        ran = case.unroll(params, xs, state=state, lengths=jnp.array([T, 0]), resets=resets)
        return ran.outputs.sum(), ran.state

    run = jax.jit(jax.grad(loss, has_aux=True))
    (gradient, final), (want, _) = run(params, broken), run(params, state)
    assert_close(gradient, want)
    assert_same(jax.tree.map(lambda a: a[1], final), jax.tree.map(lambda a: a[1], broken))
    # A reset acts at a masked step, too.
    (gradient, final), (want, right) = (
        run(params, s, jnp.stack([resets] * 2)) for s in (broken, state)
    )
    assert_close((gradient, final), (want, right))


@pytest.mark.quick()
@picked
def test_remat_changes_nothing(case):
    loss, _, arguments, *_ = problem(case)
    got = jax.jit(jax.grad(lambda *a: loss(*a, remat="sqrt"), (0, 1, 2, 3)))(*arguments)
    assert_close(got, gradients(case), 1e-5, 1e-5)


SEGMENTED = [("sqrt", steps) for steps in (1, 3, 4, 11, 16)] + [("log", 40), ("log", 300)]


@pytest.mark.quick("sqrt-11-False", "log-40-True")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("remat", "steps"), SEGMENTED)
def test_segments_of_any_number_of_steps(remat, steps, reverse):
    cell = seqjax.cells.GRU(3, 4)
    params, xs = params_of(cell), inputs_of(cell, (2,), steps)

    @functools.partial(jax.jit, static_argnames="remat")
    def run(params, remat):
        def loss(params):
            ran = seqjax.unroll(cell, params, xs, reverse=reverse, remat=remat)
            return jnp.square(ran.outputs).sum() + ran.state.sum(), ran

        return jax.value_and_grad(loss, has_aux=True)(params)

    assert_close(run(params, remat), run(params, "none"), 1e-5, 1e-5)


def test_unrolled_iterations_change_nothing():
    cell = seqjax.cells.LSTM(3, 4)
    params, xs = params_of(cell), inputs_of(cell, (2,))
    assert_close(seqjax.unroll(cell, params, xs, unroll=4), seqjax.unroll(cell, params, xs))
    assert T % 4  # with a rest
