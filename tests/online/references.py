"""Independent references of online gradients: dense influence matrices, by `cell.step` alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def real(tree):
    """All numbers of a pytree in one real vector."""
    leaves = [
        part
        for leaf in jax.tree.leaves(tree)
        for part in ([leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf])
    ]
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


def state_of(vector, like):
    """The state that `real` made a vector of."""
    leaves, structure = jax.tree.flatten(like)
    found = []
    for leaf in leaves:
        size = leaf.size
        part, vector = vector[:size].reshape(leaf.shape), vector[size:]
        if jnp.iscomplexobj(leaf):
            part = part + 1j * vector[:size].reshape(leaf.shape)
            vector = vector[size:]
        found.append(part)
    return jax.tree.unflatten(structure, found)


@functools.partial(jax.jit, static_argnums=0)
def step_derivatives(cell, params, xs, start, d_outputs):
    """The derivatives of each step of one sequence, with respect to all parameters and states.

    Returns ∂s_t/∂θ [T, S, P], ∂s_t/∂s_{t-1} [T, S, S], and those of <d_t, y_t> with respect to θ
    [T, P], s_{t-1} [T, S] and s_t [T, S], where s_t counts as a variable of its own.
    """
    theta, to_params = ravel_pytree(params)

    def new_state(theta, vector, x):
        return real(cell.step(to_params(theta), x, state_of(vector, start)).state)

    def output(theta, before, after, x):
        p = cell.prepare(to_params(theta))
        r = cell.recurrent_input(state_of(before, start))
        slots = cell.project(p, x)
        if r is not None:
            slots = tuple(
                b if a is None else a if b is None else a + b
                for a, b in zip(slots, cell.recur(p, r), strict=True)
            )
        return cell.output(p, slots, state_of(after, start))

    def one(before, step):
        x, d = step
        after = new_state(theta, before, x)
        _, pull = jax.vjp(lambda p, a, b: output(p, a, b, x), theta, before, after)
        return after, (*jax.jacrev(new_state, (0, 1))(theta, before, x), *pull(d))

    return jax.lax.scan(one, real(start), (xs, d_outputs))[1]


def gradient(derivatives, width, *, sparse):
    """The gradient as one vector, by the whole influence matrix in NumPy.

    With `sparse`, entries are set to 0 after each step, as SnAp-1 says: for each parameter, the
    matrix keeps the units that the parameter changes in a single step. A unit is a column of all
    arrays of the state, `width` of them.
    """
    at_once, carry, *d_losses = map(np.asarray, derivatives)
    changed = (at_once != 0).any(axis=0).reshape(-1, width, at_once.shape[-1]).any(axis=0)
    kept = np.tile(changed, (at_once.shape[1] // width, 1)) | (not sparse)
    influence, total = np.zeros(at_once.shape[1:]), np.zeros(at_once.shape[-1])
    for at_once_t, carry_t, d_theta, d_before, d_after in zip(
        at_once, carry, *d_losses, strict=True
    ):
        before, influence = influence, kept * (at_once_t + carry_t @ influence)
        total += d_theta + d_before @ before + d_after @ influence
    return total
