"""Independent references of online gradients: dense influence matrices, by `cell.step` alone."""

import jax
import jax.numpy as jnp
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


def dense_gradient(cell, params, xs, state, d_outputs, *, sparse):
    """The gradient of Σ_t <d_outputs_t, y_t> for one sequence, by the whole influence matrix.

    With `sparse`, entries are set to 0 after each step, as SnAp-1 says: the matrix keeps, for each
    parameter, the units that it changed in a single step from the start. A unit is a column of all
    arrays of the state.
    """
    theta, to_params = ravel_pytree(params)
    width = cell.hidden_size

    def new_state(theta, vector, x):
        return real(cell.step(to_params(theta), x, state_of(vector, state)).state)

    def output(theta, before, after, x):
        """The output, in which the state after the step counts as a variable of its own."""
        p = cell.prepare(to_params(theta))
        r = cell.recurrent_input(state_of(before, state))
        slots = cell.project(p, x)
        if r is not None:
            slots = tuple(
                b if a is None else a if b is None else a + b
                for a, b in zip(slots, cell.recur(p, r), strict=True)
            )
        return cell.output(p, slots, state_of(after, state))

    vector = real(state)
    influence = jnp.zeros((vector.size, theta.size))
    gradient = jnp.zeros_like(theta)
    pattern = None
    for x, d in zip(xs, d_outputs, strict=True):
        at_once, carry = jax.jacrev(new_state, (0, 1))(theta, vector, x)
        if pattern is None:
            changed = (at_once != 0).reshape(-1, width, theta.size).any(axis=0)
            pattern = jnp.tile(changed, (vector.size // width, 1))
        after = at_once + carry @ influence
        if sparse:
            after = jnp.where(pattern, after, 0)
        new = new_state(theta, vector, x)
        _, pull = jax.vjp(lambda *a, x=x: output(*a, x), theta, vector, new)
        d_theta, d_before, d_after = pull(d)
        gradient += d_theta + d_before @ influence + d_after @ after
        vector, influence = new, after
    return to_params(gradient), pattern
