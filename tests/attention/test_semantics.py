"""What padding, neighbours in a batch and dtypes may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import attention as attentions
from tests.attention.cases import (
    BATCH,
    MASK,
    M,
    Q,
    S,
    T,
    all_cases,
    inputs_of,
    params_of,
    reference,
    registered,
    run,
    with_garbage,
)
from tests.cases import assert_close


@pytest.mark.quick("additive-3", "monotonic-3", "multi_head-3")
@pytest.mark.parametrize("front", [0, 3])
@registered
def test_more_padding_changes_nothing(case, front):
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    want = run(case.attention, params, queries, memory, MASK)
    more = [(0, 0), (front, 5 - front)]
    longer = np.pad(memory, [*more, (0, 0)], constant_values=np.nan)
    contexts, weights, states = run(case.attention, params, queries, longer, np.pad(MASK, more))
    inner = slice(front, front + S)
    got = contexts, weights[..., inner], jax.tree.map(lambda a: a[..., inner], states)
    assert_close(got, want, 1e-6, 1e-6)
    assert_close(jnp.abs(weights).sum(), jnp.abs(want[1]).sum(), 1e-5, 1e-6)


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_a_row_alone_is_what_it_is_in_a_batch(case):
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    want = run(case.attention, params, queries, memory, MASK)
    for row in (0, 2, 3):
        got = run(case.attention, params, queries[:, row], memory[row], MASK[row])
        assert_close(got, jax.tree.map(lambda a, row=row: a[:, row], want), 1e-6, 1e-6)


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_any_number_of_batch_axes(case):
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    want = run(case.attention, params, queries, memory, MASK)
    fold = lambda a, axis: a.reshape(*a.shape[:axis], 2, 3, *a.shape[axis + 1 :])  # noqa: E731
    got = run(case.attention, params, fold(queries, 1), fold(memory, 0), fold(MASK, 0))
    assert_close(got, jax.tree.map(lambda a: fold(a, 1), want), 1e-6, 1e-6)


@pytest.mark.quick("additive", "monotonic", "multi_head", "mocha-options")
@all_cases
def test_garbage_in_padding_changes_nothing(case):
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    want = run(case.attention, params, queries, memory, MASK)
    got = run(case.attention, params, queries, with_garbage(memory, MASK), MASK)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    assert_close(got, want, 0, 0)


@registered
def test_nothing_of_padding_is_kept(case):
    params, (_, memory) = params_of(case.attention), inputs_of(case)
    clean = case.attention.precompute(params, memory, mask=MASK)
    dirty = case.attention.precompute(params, with_garbage(memory, MASK), mask=MASK)
    assert_close(dirty, clean, 0, 0)
    assert (np.asarray(clean.mask) == MASK).all()


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_no_positions_at_all(case):
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    contexts, weights, _ = run(case.attention, params, queries, memory[:, :0], MASK[:, :0])
    assert weights.shape == (T, *BATCH, 0)
    assert (contexts == 0).all()


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_half_precision(case):
    half_params = len(case.name) % 2  # half of the mechanisms each: float32 master weights, or not
    dtype = jnp.float16 if half_params else jnp.bfloat16
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    rounded = jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, queries, memory))
    if half_params:
        params = rounded[0]
    with jax.numpy_dtype_promotion("strict"):
        got = run(case.attention, params, *rounded[1:], MASK)
    contexts, weights, states = got
    assert contexts.dtype == dtype
    assert weights.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(states))
    params, queries, memory = jax.tree.map(lambda a: a.astype(jnp.float32), rounded)
    tolerance = 20 * float(jnp.finfo(dtype).eps)
    assert_close(got, reference(case, params, queries, memory, MASK), tolerance, tolerance)


@pytest.mark.quick("*-bfloat16")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@registered
def test_memory_decides_the_dtype(case, dtype):
    """A float32 query does not make a bfloat16 memory's keys wider, nor the other way round."""
    attention, params = case.attention, params_of(case.attention)
    queries, memory = inputs_of(case)
    shape = jax.ShapeDtypeStruct(memory.shape, dtype)
    prepared = jax.eval_shape(attention.precompute, params, shape, mask=MASK)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((prepared.keys, prepared.values)))
    for query in (queries[0], queries[0].astype(jnp.bfloat16)):
        got = jax.eval_shape(
            lambda p, q, m: attention.attend(p, q, m, attention.initial_state(m)),
            params,
            query,
            prepared,
        )
        assert got.context.dtype == dtype
        assert got.weights.dtype == jnp.float32


@pytest.mark.quick("monotonic")
@pytest.mark.parametrize("name", ["location_aware", "monotonic", "mocha", "coverage"])
def test_a_given_state_keeps_its_dtype(name):
    attention = attentions.ATTENTIONS[name](Q, M)
    params = params_of(attention)
    memory = attention.precompute(params, jnp.ones([S, M]))
    state = attention.initial_state(memory).astype(jnp.bfloat16)
    attended = attention.attend(params, jnp.ones(Q), memory, state)
    assert attended.state.dtype == jnp.bfloat16
    assert attended.weights.dtype == jnp.float32


@pytest.mark.quick("additive", "monotonic", "multi_head")
@registered
def test_states_are_what_the_next_step_takes(case):
    """Step by step equals in one go: nothing but the state is carried."""
    params, (queries, memory) = params_of(case.attention), inputs_of(case)
    want = run(case.attention, params, queries, memory, MASK)
    prepared = case.attention.precompute(params, memory, mask=MASK)
    state = case.attention.initial_state(prepared)
    attend = jax.jit(case.attention.attend)
    for t in range(T):
        attended = attend(params, queries[t], prepared, state)
        state = attended.state
        assert_close(tuple(attended), jax.tree.map(lambda a, t=t: a[t], want), 1e-6, 1e-6)
