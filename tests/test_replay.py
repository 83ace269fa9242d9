"""Replayed sequences: states at every step, stored states after resets, and a burn-in.

The reference is a Python loop over `cell.step`, one sequence at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, nn
from tests.cases import assert_close, params_of

LSTM, GRU = cells.LSTM(3, 4), cells.GRU(3, 4)
BATCH, STEPS = 2, 7


def inputs(seed=0):
    """Random inputs, with a mask and resets that both contain masked resets."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(BATCH, STEPS, 3)).astype(np.float32)
    mask = rng.random((BATCH, STEPS)) < 0.7
    resets = rng.random((BATCH, STEPS)) < 0.4
    assert (resets & ~mask).any()
    return xs, mask, resets


def states_of(cell, lead, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=(*lead, *a.shape)), jnp.float32), cell.initial_state()
    )


def looped(cell, params, xs, state, mask, resets, stored, reverse=False):
    """Runs each sequence step by step; returns the outputs and the states after all steps."""
    outputs, states = [], []
    for b in range(BATCH):
        here = jax.tree.map(lambda a: a[b], state)  # noqa: B023
        ys, ss = {}, {}
        for t in reversed(range(STEPS)) if reverse else range(STEPS):
            if resets[b, t]:
                here = jax.tree.map(lambda a: a[b, t], stored)  # noqa: B023
            ys[t] = jnp.zeros(4)
            if mask[b, t]:
                ys[t], here = cell.step(params, xs[b, t], here)
            ss[t] = here
        outputs.append(jnp.stack([ys[t] for t in range(STEPS)]))
        states.append(jax.tree.map(lambda *a: jnp.stack(a), *[ss[t] for t in range(STEPS)]))
    return jnp.stack(outputs), jax.tree.map(lambda *a: jnp.stack(a), *states)


@pytest.mark.quick("sqrt-True")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("remat", ["none", "sqrt"])
def test_stored_states_and_all_states(reverse, remat):
    xs, mask, resets = inputs()
    params, state = params_of(LSTM), states_of(LSTM, (BATCH,))
    stored = states_of(LSTM, (BATCH, STEPS), 2)

    def ours(params, xs, state, stored):
        return seqjax.unroll(
            LSTM, params, xs, state=state, mask=mask, resets=resets, reset_state=stored,
            reverse=reverse, return_all_states=True, remat=remat,
        )  # fmt: skip

    def loss(run):
        def value(*arguments):
            outputs, states = run(*arguments)
            return sum(jnp.sin(a + 1).sum() for a in jax.tree.leaves((outputs, states)))

        return jax.jit(jax.value_and_grad(value, (0, 1, 2, 3)))

    def reference(params, xs, state, stored):
        return looped(LSTM, params, xs, state, mask, resets, stored, reverse)

    arguments = params, jnp.asarray(xs), state, stored
    assert_close(jax.jit(ours)(*arguments), jax.jit(reference)(*arguments), 1e-6, 1e-6)
    assert_close(loss(ours)(*arguments), loss(reference)(*arguments), 1e-5, 1e-5)


@pytest.mark.quick()
def test_time_major_and_vmap():
    xs, mask, resets = inputs(3)
    params, stored = params_of(GRU), states_of(GRU, (BATCH, STEPS))

    def run(xs, mask, resets, stored, **options):
        return seqjax.unroll(
            GRU, params, xs, mask=mask, resets=resets, reset_state=stored, return_all_states=True,
            **options,
        )  # fmt: skip

    whole = run(xs, mask, resets, stored)
    zeros = GRU.initial_state((BATCH,))
    assert_close(tuple(whole), looped(GRU, params, xs, zeros, mask, resets, stored), 1e-6, 1e-6)
    assert_close(jax.vmap(run)(xs, mask, resets, stored), whole, 1e-6, 1e-6)
    moved = [np.moveaxis(np.asarray(a), 1, 0) for a in (xs, mask, resets, stored)]
    by_time = run(*moved, time_major=True)
    assert_close(jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), by_time), whole, 1e-6, 1e-6)


@pytest.mark.quick()
def test_the_states_of_a_stack_in_two_directions():
    layer = nn.GRU(3, 4, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
    xs, _, resets = inputs()
    lengths = np.array([5, 7])
    outputs, states = layer(xs, lengths=lengths, resets=resets, return_all_states=True)
    plain, final = layer(xs, lengths=lengths, resets=resets)
    assert_close(outputs, plain, 1e-6, 1e-6)
    for every, last in zip(states, final, strict=True):
        assert every.forward.shape == every.backward.shape == (BATCH, STEPS, 4)
        assert_close(every.forward[:, -1], last.forward, 1e-6, 1e-6)
        assert_close(every.backward[:, 0], last.backward, 1e-6, 1e-6)
    assert_close(states[1].forward[0, :5], outputs[0, :5, :4], 1e-6, 1e-6)
    # A stored state continues the sequence where it was stored.
    one_way = nn.LSTM(3, 4, num_layers=2, rngs=nnx.Rngs(1))
    outputs, states = one_way(xs, return_all_states=True)
    start = jax.tree.map(lambda a: a[:, 2], states)
    assert_close(one_way(xs[:, 3:], initial_state=start).outputs, outputs[:, 3:], 1e-6, 1e-6)


@pytest.mark.quick()
@pytest.mark.parametrize("implementation", ["scan", "fused"])
def test_no_gradient_passes_the_burn_in(implementation):
    xs, mask, resets = inputs(5)
    params, state, n = params_of(LSTM), states_of(LSTM, (BATCH,)), 3

    def ours(params, xs, state):
        return seqjax.unroll(
            LSTM, params, xs, state=state, mask=mask, resets=resets, burn_in=n,
            implementation=implementation,
        )  # fmt: skip

    def reference(params, xs, state):
        before, after = (
            {"mask": mask[:, w], "resets": resets[:, w]} for w in (slice(n), slice(n, None))
        )
        first = seqjax.unroll(LSTM, params, xs[:, :n], state=state, **before)
        outputs, state = jax.lax.stop_gradient(tuple(first))
        second = seqjax.unroll(LSTM, params, xs[:, n:], state=state, **after)
        return jnp.concatenate([outputs, second.outputs], 1), second.state

    def gradients(run):
        def loss(*arguments):
            return sum(jnp.sin(a + 1).sum() for a in jax.tree.leaves(tuple(run(*arguments))))

        return jax.jit(jax.grad(loss, (0, 1, 2)))

    arguments = params, jnp.asarray(xs), state
    plain = seqjax.unroll(LSTM, params, xs, state=state, mask=mask, resets=resets)
    assert_close(ours(*arguments), plain, 1e-6, 1e-6)
    got = gradients(ours)(*arguments)
    assert_close(got, gradients(reference)(*arguments), 1e-6, 1e-6)
    assert not np.any(got[1][:, :n]) and np.any(got[1][:, n:]) and not np.any(got[2].h)


@pytest.mark.quick()
def test_a_burn_in_of_a_stack_with_shortcuts():
    layer = nn.GRU(4, 4, num_layers=3, residual=True, norm="layer", rngs=nnx.Rngs(0))
    xs = np.random.default_rng(0).normal(size=(BATCH, STEPS, 4)).astype(np.float32)
    graph, variables = nnx.split(layer)
    n = 4

    def ours(variables, xs):
        return nnx.merge(graph, variables)(xs, burn_in=n).outputs

    def reference(variables, xs):
        layer = nnx.merge(graph, variables)
        _, state = layer(xs[:, :n])
        return layer(xs[:, n:], initial_state=jax.lax.stop_gradient(state)).outputs

    def gradients(run):
        loss = lambda *arguments: jnp.sin(run(*arguments)).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1)))(variables, jnp.asarray(xs))

    assert_close(ours(variables, xs), layer(xs).outputs, 1e-6, 1e-6)
    assert_close(ours(variables, xs)[:, n:], reference(variables, xs), 1e-6, 1e-6)
    assert_close(gradients(ours), gradients(reference), 1e-5, 1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"burn_in": -1}, "burn_in: expected an integer of at least 0"),
        ({"burn_in": 8}, "burn_in: expected at most 7, the steps of xs, got 8"),
        ({"burn_in": 2, "reverse": True}, "burn_in: expected 0 with reverse=True, got 2"),
        (
            {"return_all_states": True, "implementation": "fused"},
            "implementation: expected auto or scan with return_all_states, got fused",
        ),
        (
            {"reset_state": jnp.zeros([2, 7, 4]), "implementation": "native"},
            "implementation: expected auto or scan with a time axis in reset_state, got native",
        ),
        ({"reset_state": jnp.zeros([7, 2, 4])}, "reset_state: expected arrays of"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        seqjax.unroll(GRU, params_of(GRU), jnp.ones([BATCH, STEPS, 3]), **options)


def test_what_layers_refuse():
    layer = nn.GRU(3, 4, bidirectional=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="burn_in: expected 0 with a bidirectional layer, got 1"):
        layer(jnp.ones([2, 7, 3]), burn_in=1)
    kept = nn.Stateful(nn.GRU(3, 4, rngs=nnx.Rngs(0)), 2)
    with pytest.raises(ValueError, match="return_all_states: expected none"):
        kept(jnp.ones([2, 7, 3]), return_all_states=True)
