"""Every mechanism under JAX's transformations, and what its program looks like."""

import jax
import jax.numpy as jnp
import pytest

from tests.attention.cases import (
    MASK,
    attend_steps,
    inputs_of,
    params_of,
    registered,
    run,
)
from tests.cases import assert_close

# Products in `precompute`, once a sentence, and in `attend`, once a step. In `attend` there are one
# for the scores (none where a hidden layer's tanh is summed), one for the context, and those of the
# query; the location-aware mechanism also convolves and projects its previous weights.
PRODUCTS = {
    "additive": (1, 2), "normed_additive": (1, 2), "dot": (0, 2), "scaled_dot": (0, 2),
    "general": (1, 2), "concat": (1, 2), "local_p": (1, 3), "location_aware": (1, 4),
    "monotonic": (1, 2), "mocha": (2, 3), "coverage": (1, 2), "multi_head": (2, 4),
}  # fmt: skip


def products(jaxpr):
    """How many products a jaxpr has, those of its parts among them."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            count += 1
        for sub in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
        ):
            if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                count += products(getattr(sub, "jaxpr", sub))
    return count


@registered
def test_keys_are_projected_once(case):
    attention, params, (queries, memory) = (
        case.attention,
        params_of(case.attention),
        inputs_of(case),
    )
    before = products(jax.make_jaxpr(attention.precompute)(params, memory, mask=MASK).jaxpr)
    prepared = attention.precompute(params, memory, mask=MASK)
    state = attention.initial_state(prepared)
    step = products(jax.make_jaxpr(attention.attend)(params, queries[0], prepared, state).jaxpr)
    assert (before, step) == PRODUCTS[case.name]


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_a_step_does_not_read_the_weights_of_the_keys(case):
    """Parameters that made the keys have no gradient through a step on a memory that is given."""
    attention, params, (queries, memory) = (
        case.attention,
        params_of(case.attention),
        inputs_of(case),
    )
    prepared = attention.precompute(params, memory, mask=MASK)

    def of_keys(params):
        return sum(
            k.sum() for k in jax.tree.leaves(attention.precompute(params, memory, mask=MASK)[:2])
        )

    def of_step(params):
        state = attention.initial_state(prepared)
        attended = attention.attend(params, queries[0], prepared, state)
        return (attended.context**2).sum() + (attended.weights**2).sum()

    gradients = jax.jit(lambda p: (jax.grad(of_keys)(p), jax.grad(of_step)(p)))(params)
    for making, using in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert (making * using == 0).all()


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_vmap(case):
    attention, params, (queries, memory) = (
        case.attention,
        params_of(case.attention),
        inputs_of(case),
    )
    want = run(attention, params, queries, memory, MASK)
    each = jax.vmap(
        lambda q, m, k: attend_steps(attention, params, q, m, k), in_axes=(1, 0, 0), out_axes=1
    )
    assert_close(jax.jit(each)(queries, memory, MASK), want, 1e-6, 1e-6)


@pytest.mark.quick("additive", "monotonic")
@registered
def test_without_jit(case):
    attention, params = case.attention, params_of(case.attention)
    queries, memory = inputs_of(case)
    want = run(attention, params, queries, memory, MASK)
    prepared = attention.precompute(params, memory, mask=MASK)
    got = attention.attend(params, queries[0], prepared, attention.initial_state(prepared))
    assert_close(tuple(got), jax.tree.map(lambda a: a[0], want), 1e-6, 1e-6)


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_all_steps_at_once_where_nothing_is_carried(case):
    """What a decoder does whose queries are all known: queries in parallel over one memory."""
    attention, params, (queries, memory) = (
        case.attention,
        params_of(case.attention),
        inputs_of(case),
    )
    prepared = attention.precompute(params, memory, mask=MASK)
    state = attention.initial_state(prepared)
    if jax.tree.leaves(state):
        return
    got = jax.vmap(lambda q: attention.attend(params, q, prepared, state))(queries)
    assert_close(tuple(got), run(attention, params, queries, memory, MASK), 1e-6, 1e-6)


@pytest.mark.quick("additive", "monotonic")
@registered
def test_one_trace_for_equal_mechanisms(case):
    traces = []

    def step(attention, params, query, memory, state):
        traces.append(attention)
        return attention.attend(params, query, memory, state)

    jitted = jax.jit(step, static_argnums=0)
    again = type(case.attention)(case.attention.query_size, case.attention.memory_size)
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    prepared = case.attention.precompute(params, memory, mask=MASK)
    state = case.attention.initial_state(prepared)
    for attention in (case.attention, again):
        _, _, state = jitted(attention, params, queries[0], prepared, state)
    assert len(traces) == 1


@pytest.mark.quick("additive-tpu", "mocha-tpu", "multi_head-cuda")
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@registered
def test_lowers_for_every_platform(case, platform):
    def loss(params, queries, memory):
        contexts, weights, _ = attend_steps(case.attention, params, queries, memory, MASK)
        return (contexts**2).sum() + (weights**2).sum()

    gradient = jax.jit(jax.value_and_grad(loss))
    arguments = (params_of(case.attention), *map(jnp.asarray, inputs_of(case)))
    assert jax.export.export(gradient, platforms=[platform])(*arguments).platforms == (platform,)
