"""Online gradients equal backpropagation through time where exact, and SnAp-1 as published."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import seqjax
from seqjax import cells, online
from seqjax.testing._units import mixed_units
from tests.cases import (
    CASES,
    REGISTERED,
    H,
    I,
    T,
    assert_close,
    draw_like,
    inputs_of,
    mask_of,
    params_of,
    state_of,
)
from tests.online.references import gradient, step_derivatives

B = 2
DIAGONAL = [
    "indrnn", "indrnn-tanh", "lru", "lru-same", "min_gru", "min_lstm", "rg_lru-same", "s5",
    "s5-bilinear", "s5-no-pairs", "sru", "sru-same", "sru-linear", "sru-linear-same",
]  # fmt: skip
COUPLED = [
    "elman", "elman-relu", "elman-no-bias", "elman_readout-wide", "gru", "gru-no-bias", "lstm",
    "peephole_lstm", "coupled_lstm", "slstm", "slstm-heads", "slstm-exponential",
]  # fmt: skip
REFUSED = [
    "projected_lstm", "layer_norm_lstm", "cho_gru", "mgu", "rg_lru", "conv_lstm_1d", "conv_lstm_2d",
    "gru_d", "cfc", "mixed_cfc",
]  # fmt: skip


def wide(tree):
    """The arrays in float64 or complex128."""
    wider = lambda a: np.asarray(a).astype(jnp.promote_types(a.dtype, jnp.float64))  # noqa: E731
    return jax.tree.map(lambda a: jax.device_put(wider(a)), tree)


def squares(head, output, target):
    """A loss that is not linear in the output, and not 0 at padding."""
    return jnp.square(jnp.tanh(output @ head + 0.5) - target).sum(-1)


@dataclasses.dataclass
class Sample:
    """A window of a cell in float64: parameters, inputs, targets, mask, resets and a state."""

    cell: Any

    def __post_init__(self):
        (size,) = self.cell.output_shape
        rng = np.random.default_rng(5)
        self.params = wide(params_of(self.cell)), rng.normal(size=(size, 2))
        self.xs = wide(inputs_of(self.cell, (B,)))
        self.targets = jax.device_put(rng.normal(size=(B, T, 2)))
        mask = mask_of((B,), seed=1)
        mask[:, [0, 1, -1]] = True
        self.mask = jax.device_put(mask)
        self.resets = jax.device_put((np.arange(T) == 3) & (np.arange(B) == 0)[:, None])
        self.start = wide(state_of(self.cell, (B,)))
        assert not mask.all(axis=1).any()

    def state(self, method="exact"):
        made = online.initial_state(self.cell, (B,), jnp.float64, method=method)
        return made._replace(state=self.start)

    def by_unroll(self, params, **options):
        """The loss and the final state, of which `jax.grad` gives the derivative."""
        outputs, state = seqjax.unroll(
            self.cell, params[0], self.xs, state=self.start, implementation="scan", **options
        )
        losses = squares(params[1], outputs, self.targets)
        return jnp.sum(losses, where=options.get("mask")), state


@pytest.mark.quick("lru", "min_gru", "sru")
@pytest.mark.parametrize("name", DIAGONAL)
def test_exact_gradients_equal_backpropagation_through_time(name, x64):
    """With masks in the middle and NaN there, with resets, and in two windows as in one."""
    sample = Sample(CASES[name].cell)
    timing = {"mask": sample.mask, "resets": sample.resets}
    dirty_xs = jnp.where(sample.mask[..., None], sample.xs, jnp.nan)
    dirty_targets = jnp.where(sample.mask[..., None], sample.targets, jnp.inf)
    window = online.value_and_grad(sample.cell, squares)

    @jax.jit
    def both(params):
        want = jax.value_and_grad(sample.by_unroll, has_aux=True)(params, **timing)
        whole = window(params, dirty_xs, dirty_targets, sample.state(), **timing)
        state, parts = sample.state(), []
        for part in (slice(0, 2), slice(2, T)):
            *found, state = window(
                params, dirty_xs[:, part], dirty_targets[:, part], state,
                mask=sample.mask[:, part], resets=sample.resets[:, part],
            )  # fmt: skip
            parts.append(found)
        return want, whole, (jax.tree.map(jnp.add, *parts), state)

    ((value, final), bptt), whole, (parts, state) = both(sample.params)
    assert_close(whole[:2], (value, bptt), 1e-10, 1e-10)
    assert_close(whole[2].state, final, 1e-10, 1e-10)
    assert_close((*parts, state), whole, 1e-10, 1e-10)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(bptt))


@pytest.mark.quick("lru", "min_lstm")
@pytest.mark.parametrize("name", DIAGONAL)
def test_losses_on_states_learn_from_all_steps(name, x64):
    sample = Sample(CASES[name].cell)
    cell, timing = sample.cell, {"mask": sample.mask, "resets": sample.resets}
    xs = jnp.where(sample.mask[..., None], sample.xs, jnp.nan)

    def size(state):
        parts = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        return sum(jnp.real(leaf * jnp.conj(leaf)).sum() for leaf in parts)

    def by_unroll(params, xs):
        unrolled = seqjax.unroll(
            cell, params, xs, state=sample.start, return_all_states=True, **timing
        )
        return size(unrolled.state) + unrolled.outputs.sum()

    def online_loss(params, xs):
        state, total = sample.state(), 0.0
        for t in range(T):
            outputs, state = online.step(
                cell, params, xs[:, t], state, mask=sample.mask[:, t], resets=sample.resets[:, t]
            )
            total += size(state.state) + outputs.sum()
        return total

    want = jax.jit(jax.grad(by_unroll))(sample.params[0], xs)
    found, d_xs = jax.jit(jax.grad(online_loss, (0, 1)))(sample.params[0], xs)
    assert_close(found, want, 1e-9, 1e-9)
    # At the last step, the gradient of the input is exact, too.
    assert_close(d_xs[:, -1], jax.jit(jax.grad(by_unroll, 1))(sample.params[0], xs)[:, -1], 1e-9)


@pytest.mark.quick("gru")
@pytest.mark.parametrize("name", COUPLED)
def test_snap1_is_the_masked_influence_matrix(name, x64):
    sample = Sample(CASES[name].cell)
    cell, params = sample.cell, sample.params[0]
    xs, start = sample.xs[0], jax.tree.map(lambda a: a[0], sample.start)
    d_outputs = jnp.asarray(np.random.default_rng(7).normal(size=(T, *cell.output_shape)))

    def linear(head, output, target):
        del head
        return (output * target).sum(-1)

    @jax.jit
    def both(params):
        state = online.initial_state(cell, (), jnp.float64, method="snap1")._replace(state=start)
        window = online.value_and_grad(cell, linear)
        _, (found, _), _ = window((params, ()), xs, d_outputs, state)
        _, (first, _), _ = window((params, ()), xs[:1], d_outputs[:1], state)

        def loss(params, steps):
            outputs, _ = seqjax.unroll(cell, params, xs[:steps], state=start)
            return (outputs * d_outputs[:steps]).sum()

        bptt = [jax.grad(loss)(params, steps) for steps in (T, 1)]
        return [ravel_pytree(gradient)[0] for gradient in (found, first, *bptt)]

    found, first, bptt, bptt_first = both(params)
    derivatives = step_derivatives(cell, params, xs, start, d_outputs)
    assert_close(found, gradient(derivatives, H, sparse=True), 1e-10, 1e-10)
    assert_close(bptt, gradient(derivatives, H, sparse=False), 1e-10, 1e-10)
    assert_close(first, bptt_first, 1e-10, 1e-10)
    assert abs(found - bptt).max() > 1e-3  # SnAp-1 is an approximation


@pytest.mark.parametrize("name", REFUSED)
def test_cells_are_refused_only_if_a_parameter_changes_several_units(name):
    cell = CASES[name].cell
    with pytest.raises(ValueError, match=r"cell: expected .* one unit of the state each, got"):
        online.initial_state(cell, method="snap1")
    if cell.input_shape != (I,):
        return  # the state of a convolutional cell has no units, but places
    state = jax.tree.map(jnp.asarray, draw_like(cell.initial_state(), 2))
    x = jnp.asarray(inputs_of(cell, ())[0])
    h = lambda params: jax.tree.leaves(cell.step(params, x, state).state)[0]  # noqa: E731
    jacobian = jax.jit(jax.jacrev(h))(params_of(cell))
    changed = [(leaf != 0).sum(axis=0).max() for leaf in jax.tree.leaves(jacobian)]
    assert max(changed) > 1


@pytest.mark.quick("sru", "gru")
@pytest.mark.parametrize("name", DIAGONAL + COUPLED)
def test_the_jacobians_are_as_a_cell_says(name):
    cell = CASES[name].cell
    state = jax.tree.map(lambda a: a[0], state_of(cell, (1,)))
    assert mixed_units(cell, params_of(cell), jnp.asarray(inputs_of(cell, ())[0]), state) is None


def test_the_lists_above_are_complete():
    assert {CASES[name].name for name in DIAGONAL + COUPLED + REFUSED} == set(REGISTERED)
    for name in DIAGONAL:
        assert CASES[name].cell.diagonal
    for name in COUPLED:
        with pytest.raises(ValueError, match=r"method: expected 'snap1' for \w+, whose units"):
            online.initial_state(CASES[name].cell)


@pytest.mark.quick()
@pytest.mark.parametrize("method", ["exact", "snap1"])
def test_steps_make_the_window(method, x64):
    """Also with a mask and resets of one step, and without a batch axis in a state to reset to."""
    sample = Sample(CASES["min_gru" if method == "exact" else "gru"].cell)
    cell, again = sample.cell, jnp.full(H, 0.3)
    timing: dict[str, Any] = {"mask": sample.mask, "resets": sample.resets}

    @jax.jit
    def both(params):
        whole = online.value_and_grad(cell, squares)(
            params, sample.xs, sample.targets, sample.state(method), reset_state=again, **timing
        )

        def loss(params, t, state):
            output, state = online.step(
                cell, params[0], sample.xs[:, t], state,
                mask=sample.mask[:, t], resets=sample.resets[:, t], reset_state=again,
            )  # fmt: skip
            losses = squares(params[1], output, sample.targets[:, t])
            return jnp.sum(losses, where=sample.mask[:, t]), (output, state)

        state, outputs = sample.state(method), []
        total: Any = None
        for t in range(T):
            (value, (output, state)), d = jax.value_and_grad(loss, has_aux=True)(params, t, state)
            outputs.append(output)
            total = (value, d) if total is None else jax.tree.map(jnp.add, total, (value, d))
        plain = seqjax.unroll(
            cell, params[0], sample.xs, state=sample.start, reset_state=again, **timing
        )
        return whole, (*total, state), jnp.stack(outputs, 1), plain.outputs

    whole, steps, outputs, plain = both(sample.params)
    assert_close(steps, whole, 1e-10, 1e-10)
    assert_close(outputs, plain, 1e-10, 1e-10)


@pytest.mark.quick()
def test_a_stack_is_exact_at_the_top_and_without_later_steps_below(x64):
    lower, upper = cells.MinGRU(I, H), cells.MinGRU(H, H)
    params = [wide(jax.tree.map(jnp.asarray, draw_like(c.param_specs(), n, 0.4)))
              for n, c in enumerate((lower, upper))]  # fmt: skip
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, I)))
    d_outputs = jnp.asarray(np.random.default_rng(1).normal(size=(T, H)))

    def by_steps(params):
        states = [online.initial_state(cell, (), jnp.float64) for cell in (lower, upper)]
        total = 0.0
        for x, d in zip(xs, d_outputs, strict=True):
            y, states[0] = online.step(lower, params[0], x, states[0])
            y, states[1] = online.step(upper, params[1], y, states[1])
            total += (y * d).sum()
        return total

    def without_later_steps(params):
        ys = seqjax.unroll(lower, params[0], xs).outputs
        state, total = upper.initial_state((), jnp.float64), 0.0
        for y, d in zip(ys, d_outputs, strict=True):
            output, state = upper.step(params[1], y, jax.lax.stop_gradient(state))
            total += (output * d).sum()
        return total

    def bptt(params):
        ys = seqjax.unroll(lower, params[0], xs).outputs
        return (seqjax.unroll(upper, params[1], ys).outputs * d_outputs).sum()

    grads = jax.jit(lambda p: [jax.grad(f)(p) for f in (by_steps, without_later_steps, bptt)])
    found, below, whole = grads(params)
    assert_close(found[1], whole[1], 1e-10, 1e-10)
    assert_close(found[0], below[0], 1e-10, 1e-10)
    assert abs(found[0].w_ih - whole[0].w_ih).max() > 1e-3


@pytest.mark.quick()
def test_layouts_and_lengths():
    """Two batch axes, time-major, and `lengths` in place of a mask."""
    cell = cells.IndRNN(I, H, activation="tanh")
    rng = np.random.default_rng(0)
    params = params_of(cell), jnp.asarray(rng.normal(size=(H, 2)), jnp.float32)
    xs, targets = (jnp.asarray(rng.normal(size=(2, 3, T, n)), jnp.float32) for n in (I, 2))
    lengths = jnp.array([[T, 0, 3], [2, 4, 1]])
    window = online.value_and_grad(cell, squares)
    moved = [jnp.moveaxis(a, 2, 0) for a in (xs, targets)]

    @jax.jit
    def all_of(params):
        state = online.initial_state(cell, (2, 3))
        flat = online.initial_state(cell, 6)
        a = window(params, xs, targets, state, lengths=lengths)
        b = window(params, *moved, state, lengths=lengths, time_major=True)
        c = window(
            params, *(a.reshape(6, T, -1) for a in (xs, targets)), flat, lengths=lengths.ravel()
        )
        return a, b, c

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        a, b, c = all_of(params)
    assert_close(a, b)
    assert_close(a[:2], c[:2])
    assert a[2].influence[0][0].shape == (2, 3, *params[0].w_ih.shape)


@pytest.mark.quick()
@pytest.mark.parametrize("name", ["lru", "lstm"])
def test_half_precision_keeps_a_wide_influence(name):
    cell = CASES[name].cell
    params = params_of(cell), jnp.ones([H, 2])
    xs, targets = jnp.asarray(inputs_of(cell, (B,))), jnp.zeros((B, T, 2))
    window = jax.jit(online.value_and_grad(cell, lambda h, y, t: jnp.square(y @ h - t).sum(-1)))
    wide_state, state = (
        online.initial_state(cell, B, dtype, method="snap1")
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    value, gradient, _ = window(params, xs, targets, wide_state)
    half, half_gradient, state = window(params, xs.astype(jnp.bfloat16), targets, state)
    assert all(m.dtype == jnp.float32 for m in jax.tree.leaves(state.influence))
    assert all(d.dtype == jnp.float32 for d in jax.tree.leaves(half_gradient))
    assert float(half) == pytest.approx(float(value), rel=0.05)
    for a, b in zip(*map(jax.tree.leaves, (half_gradient, gradient)), strict=True):
        assert np.abs(a - b).max() < 0.06 * np.abs(b).max()


def temporary_bytes(function, cell, steps):
    """The memory that a compiled gradient needs besides its arguments and results."""
    xs = jax.ShapeDtypeStruct((steps, 4, cell.input_size), jnp.float32)
    params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), cell.param_specs())
    compiled = jax.jit(function).lower(params, xs).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.quick("exact")
@pytest.mark.parametrize("cell", [cells.MinGRU(8, 16), cells.GRU(8, 16)], ids=["exact", "snap1"])
def test_memory_does_not_depend_on_the_number_of_steps(cell):
    def by_window(params, xs):
        state = online.initial_state(cell, 4, method="snap1")
        window = online.value_and_grad(cell, lambda head, y, target: jnp.square(y).sum(-1))
        return window((params, ()), xs, (), state, time_major=True)

    def by_unroll(params, xs):
        run = lambda params: seqjax.unroll(cell, params, xs, time_major=True)  # noqa: E731
        return jax.grad(lambda params: jnp.square(run(params).outputs).sum())(params)

    few, many = (temporary_bytes(by_window, cell, steps) for steps in (20, 2000))
    assert few == many
    assert temporary_bytes(by_unroll, cell, 2000) > 5 * many


MIN_GRU: Any = cells.MinGRU(I, H)
NO_CELL: Any = "gru"
NO_FUNCTION: Any = 3
XS, TARGETS = np.ones((B, T, I), np.float32), np.ones((B, T, 2), np.float32)


def loss_of(loss_fn=squares, cell=MIN_GRU, xs=XS, targets=TARGETS, batch=B, params=None, **options):
    params = (params_of(MIN_GRU), jnp.ones([H, 2])) if params is None else params
    state = online.initial_state(cell, batch)
    return online.value_and_grad(cell, loss_fn)(params, xs, targets, state, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: online.initial_state(MIN_GRU, method="snap"), ValueError, r"method: .*snap1"),
        (lambda: online.initial_state(NO_CELL), TypeError, r"cell: expected a cell"),
        (lambda: online.initial_state(MIN_GRU, dtype=int), TypeError, r"dtype: "),
        (lambda: online.value_and_grad(MIN_GRU, NO_FUNCTION), TypeError, r"loss_fn: "),
        (lambda: loss_of(batch=3), ValueError, r"state: .* an array of \(2, 4\) for .*\(2,\)"),
        (lambda: loss_of(targets=TARGETS[:, 1:]), ValueError, r"targets: .*\(2, 6\) of xs, got"),
        (lambda: loss_of(params=params_of(MIN_GRU)), TypeError, r"params: expected a pair"),
        (
            lambda: loss_of(lambda h, y, t: squares(h, y, t).sum()),
            ValueError, r"loss_fn: expected losses of the batch shape \(2,\), got \(\)",
        ),
        (lambda: loss_of(lambda h, y, t: 1), TypeError, r"loss_fn: expected floating-point"),
        (lambda: loss_of(lengths=[T, T], mask=XS[..., 0] > 0), ValueError, r"lengths, mask:"),
        (
            lambda: online.step(MIN_GRU, params_of(MIN_GRU), XS[:, 0], MIN_GRU.initial_state(B)),
            TypeError, r"state: expected the result of seqjax.online.initial_state for MinGRU",
        ),
        (
            lambda: online.step(
                MIN_GRU, params_of(MIN_GRU), XS[:, 0], online.initial_state(MIN_GRU, B),
                mask=np.ones(3, bool),
            ),
            ValueError, r"mask: expected",
        ),
        (
            lambda: online.step(
                MIN_GRU, params_of(MIN_GRU), XS[:, 0, 1:], online.initial_state(MIN_GRU, B)
            ),
            ValueError, r"x: expected \[\.\.\., 3\]",
        ),
    ],
)  # fmt: skip
def test_mistakes(call, error, message):
    with pytest.raises(error, match=message):
        call()
