"""The fused kernel equals scan, runs when asked for, and has one product in each loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import kernels
from tests.cases import (
    CASES,
    all_cases,
    assert_close,
    draw_like,
    inputs_of,
    mask_of,
    params_of,
    registered,
    state_of,
    with_garbage,
)
from tests.conformance.test_transforms import products

BATCH = (3,)


def loss_of(case, implementation, reverse=False, noise=True):
    """A loss over outputs and state with everything on: mask, resets, noise."""
    cell, mask, resets = case.cell, mask_of(BATCH), mask_of(BATCH, seed=9)
    state = cell.initial_state(BATCH)
    options = {}
    r = cell.recurrent_input(state)
    if noise:
        options["zoneout"] = jax.tree.map(lambda s: 0.2, state)
        if r is not None:
            options["recurrent_mask"] = draw_like(r, 6)

    def loss(params, xs, state, reset_state):
        outputs, final = seqjax.unroll(
            cell, params, xs, state=state, reset_state=reset_state, mask=mask, resets=resets,
            reverse=reverse, implementation=implementation, **options,
        )  # fmt: skip
        return jnp.sin(outputs).sum() + sum(jnp.cos(s).sum() for s in jax.tree.leaves(final))

    arguments = (
        params_of(cell),
        inputs_of(cell, BATCH),
        state_of(cell, BATCH),
        state_of(cell, BATCH, 5),
    )
    return loss, arguments


def assert_same(got, want):
    """Equal to float32's rounding of sums: relative to the largest number, not to each."""
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    assert_close(got, want, atol=1e-6 * max(scale, 1.0))


@functools.cache
def gradients(case, implementation, reverse):
    loss, arguments = loss_of(case, implementation, reverse)
    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(*arguments)


@pytest.mark.parametrize("reverse", [False, True])
@all_cases
def test_values_and_gradients_equal_scan(case, reverse):
    assert_same(gradients(case, "fused", reverse), gradients(case, "scan", reverse))


@registered
def test_without_mask_or_noise(case):
    cell, params, xs = case.cell, params_of(case.cell), inputs_of(case.cell, BATCH)

    def ran(implementation):
        def loss(params, xs):
            outputs, state = seqjax.unroll(cell, params, xs, implementation=implementation)
            return jnp.square(outputs).sum(), (outputs, state)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, xs)

    assert_same(ran("fused"), ran("scan"))


@registered
def test_padding_never_reaches_a_gradient(case):
    loss, (params, xs, *states) = loss_of(case, "fused")
    _, clean = gradients(case, "fused", False)
    dirty = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(params, with_garbage(xs, mask_of(BATCH)), *states)
    assert_same(dirty, clean)


@pytest.mark.parametrize("name", ["lstm", "gru", "cho_gru", "layer_norm_lstm"])
def test_gradient_of_gradient_and_vmap(name):
    def second(implementation):
        loss, (params, *rest) = loss_of(CASES[name], implementation, noise=False)
        gradient = jax.grad(loss)
        tangent = jax.tree.map(jnp.asarray, draw_like(params, 12))

        def slope(p):
            pairs = zip(jax.tree.leaves(gradient(p, *rest)), jax.tree.leaves(tangent), strict=True)
            return sum((g * t).sum() for g, t in pairs)

        @jax.jit
        def all_three(params):
            backward = jax.grad(slope)(params)
            forward = jax.jvp(lambda p: gradient(p, *rest), (params,), (tangent,))[1]
            stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
            return backward, forward, jax.vmap(gradient, (0, None, None, None))(stacked, *rest)

        return all_three(params)

    assert_close(second("fused"), second("scan"), 1e-4, 1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "mgu"])
def test_half_precision(name, dtype):
    cell = CASES[name].cell
    xs = jnp.asarray(inputs_of(cell, BATCH), dtype)

    def gradient(implementation):
        def loss(params):
            outputs, _ = seqjax.unroll(cell, params, xs, implementation=implementation)
            return outputs.astype(jnp.float32).sum()

        return jax.grad(loss)(params_of(cell))

    got, want = gradient("fused"), gradient("scan")
    assert [g.dtype for g in got] == [w.dtype for w in want]
    scale = max(float(jnp.abs(leaf).max()) for leaf in want)
    assert_close(got, want, 20 * float(jnp.finfo(dtype).eps) * scale, 0.1)


@pytest.mark.parametrize(
    ("name", "forward", "backward"), [("elman", 1, 1), ("lstm", 1, 1), ("gru", 1, 1)]
)
def test_one_product_in_each_loop(name, forward, backward):
    cell = CASES[name].cell
    params, xs = params_of(cell), inputs_of(cell, BATCH)

    def loss(params, implementation):
        return seqjax.unroll(cell, params, xs, implementation=implementation).outputs.sum()

    count = lambda f, kernel: products(jax.make_jaxpr(lambda p: f(p, kernel))(params).jaxpr)  # noqa: E731
    assert count(loss, "fused")[1] == forward
    assert count(jax.grad(loss), "fused")[1] == forward + backward
    assert count(jax.grad(loss), "scan")[1] == forward + backward + 1  # dW inside the loop


def test_the_kernel_asked_for_runs(monkeypatch):
    ran = []
    real = kernels.KERNELS["fused"]

    def counted(*arguments, **options):
        ran.append(1)
        return real(*arguments, **options)

    monkeypatch.setitem(kernels.KERNELS, "fused", counted)
    cell = seqjax.cells.GRU(5, 6)
    xs = inputs_of(cell, (2,))
    seqjax.unroll(cell, params_of(cell), xs, implementation="fused")
    assert ran == [1]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_gradient_lowers_for_every_platform(platform):
    loss, arguments = loss_of(CASES["gru"], "fused")
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(*arguments)
    assert exported.platforms == (platform,)


def test_what_it_cannot_do_it_says():
    cell = CASES["gru"].cell
    params, xs = params_of(cell), inputs_of(cell, BATCH)
    with pytest.raises(ValueError, match=r"remat: expected auto or none.*'sqrt'"):
        seqjax.unroll(cell, params, xs, implementation="fused", remat="sqrt")
    empty = seqjax.unroll(cell, params, xs[:, :0], implementation="fused", lengths=np.zeros(3, int))
    assert empty.outputs.shape == (3, 0, 4)
