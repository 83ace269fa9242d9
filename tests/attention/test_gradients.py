"""Gradients of every mechanism against differences of its NumPy twin."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import (
    MASK,
    all_cases,
    attend_steps,
    inputs_of,
    params_of,
    reference,
    registered,
    with_garbage,
)
from tests.cases import assert_close, draw_like


def loss_of(attended, weights):
    """A random linear function of everything that comes out."""
    leaves = zip(jax.tree.leaves(attended), jax.tree.leaves(weights), strict=True)
    return sum((leaf * weight).sum() for leaf, weight in leaves)


@functools.cache
def problem(case):
    """The gradient's function, its arguments, the loss's weights, and the loss."""
    attention = case.attention
    arguments = (params_of(attention), *inputs_of(case))

    def attended(params, queries, memory):
        return attend_steps(attention, params, queries, memory, MASK)

    weights = draw_like(jax.eval_shape(attended, *arguments), 10)

    def loss(*arguments):
        return loss_of(attended(*arguments), weights)

    return jax.jit(jax.grad(loss, (0, 1, 2))), arguments, weights, loss


@pytest.mark.quick("additive", "monotonic", "multi_head")
@all_cases
def test_gradient_equals_differences_of_the_numpy_twin(case):
    gradient, arguments, weights, _ = problem(case)
    ours = gradient(*arguments)
    direction = draw_like(arguments, 11, dtype=np.float64)
    size = 1e-6

    def at(sign):
        params, queries, memory = jax.tree.map(
            lambda a, d: np.asarray(a, np.float64) + sign * size * d, arguments, direction
        )
        return loss_of(reference(case, params, queries, memory, MASK), weights)

    slope = (at(1) - at(-1)) / (2 * size)
    along = loss_of(jax.tree.map(lambda g: np.asarray(g, np.float64), ours), direction)
    scale = sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(ours))
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(along, slope, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.quick("additive", "monotonic", "multi_head")
@all_cases
def test_padding_never_reaches_a_gradient(case):
    gradient, (params, queries, memory), *_ = problem(case)
    clean = gradient(params, queries, memory)
    dirty = gradient(params, queries, with_garbage(memory, MASK))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(dirty))
    assert_close(dirty, clean)
    assert (np.asarray(dirty[2])[~MASK] == 0).all()
    assert (np.asarray(dirty[1])[:, ~MASK.any(-1)] == 0).all()


@pytest.mark.quick("additive", "monotonic", "multi_head")
@all_cases
def test_every_parameter_matters(case):
    """A weight on which nothing depends would be a mistake that the twin might share."""
    attention = case.attention
    if getattr(attention, "mode", "soft") == "hard":
        return  # its probabilities move in steps
    gradient, arguments, *_ = problem(case)
    params = gradient(*arguments)[0]
    if getattr(attention, "chunk_width", 0) == 1:
        params = params.monotonic  # a softmax over one position
    assert all(float(jnp.abs(leaf).max()) > 1e-7 for leaf in jax.tree.leaves(params))


@pytest.mark.quick("additive")
@registered
def test_forward_mode_equals_reverse_mode(case):
    gradient, arguments, _, loss = problem(case)
    tangent = draw_like(arguments, 12)
    _, slope = jax.jit(lambda a, t: jax.jvp(loss, a, t))(arguments, tangent)
    np.testing.assert_allclose(slope, loss_of(gradient(*arguments), tangent), rtol=1e-4, atol=1e-5)
