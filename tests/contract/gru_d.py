"""The GRU-D: values that are missing, and time between them.

    γ_x = exp(-max(0, δ_t ⊙ w_x + b_x))      γ_h = exp(-max(0, δ_t W_h + b_h))
    x̂ = m_t x_t + (1 - m_t) (γ_x x_last + (1 - γ_x) x̄)      h' = γ_h ⊙ h_{t-1}
    r, z = σ(x̂ W_r + h' U_r + m_t V_r + b_r), σ(x̂ W_z + h' U_z + m_t V_z + b_z)
    n = tanh(x̂ W_n + (r ⊙ h') U_n + m_t V_n + b_n)
    h_t = (1 - z) ⊙ h' + z ⊙ n

Che, Purushotham, Cho, Sontag, Liu (2018), Recurrent neural networks for multivariate time series
with missing values, eq. 10-18; x̄ is zero, since inputs are standardised.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells import Cell, Role, ops


class GRUDParams(NamedTuple):
    """Parameters: `w [I, 3H]`, `u [H, 2H]`, `u_n [H, H]`, `v [I, 3H]`, `b [3H]`, decays."""

    w: Any
    u: Any
    u_n: Any
    v: Any
    b: Any
    w_x: Any
    b_x: Any
    w_h: Any
    b_h: Any


class GRUDState(NamedTuple):
    """The hidden state `[..., H]`, and the last value seen of each feature `[..., I]`."""

    h: Any
    last: Any


@dataclasses.dataclass(frozen=True)
class GRUD(Cell):
    """Inputs are `{"x", "seen", "elapsed"}`, each `[..., I]`; `seen` is 0 or 1."""

    @property
    def input_shape(self):
        return {name: (self.input_size,) for name in ("elapsed", "seen", "x")}

    def init(self, key, dtype=jnp.float32):
        i, h = self.input_size, self.hidden_size
        shapes = (i, 3 * h), (h, 2 * h), (h, h), (i, 3 * h), (3 * h,), (i,), (i,), (i, h), (h,)
        keys = jax.random.split(key, len(shapes))
        return GRUDParams(
            *(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))
        )

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return GRUDState(
            jnp.zeros((*batch_shape, self.hidden_size), dtype),
            jnp.zeros((*batch_shape, self.input_size), dtype),
        )

    def state_roles(self):
        return GRUDState(Role(held=True, learned=True), Role(held=False, learned=False))

    def project(self, p, x):
        decay_x = jnp.exp(-jax.nn.relu(ops.scaled(p.w_x, x["elapsed"]) + p.b_x))
        decay_h = jnp.exp(-jax.nn.relu(ops.affine(x["elapsed"], p.w_h, p.b_h)))
        terms = ops.split(ops.affine(x["seen"], p.v, p.b), 3)
        return (*terms, None, x["x"], x["seen"], decay_x, decay_h)

    def arrive(self, p, projected, state):
        return state._replace(h=projected[-1] * state.h)

    def recurrent_input(self, state):
        return state.h

    def recur(self, p, r):
        q_r, q_z = ops.split(ops.matmul(r, p.u), 2)
        return q_r, q_z, None, r, None, None, None, None

    def update(self, p, gates, state):
        z_r, z_z, z_n, r_in, x, seen, decay_x, _ = gates
        last = seen * x + (1 - seen) * state.last
        known = seen * x + (1 - seen) * decay_x * state.last
        p_r, p_z, p_n = ops.split(ops.matmul(known, p.w), 3)
        r, z = jax.nn.sigmoid(z_r + p_r), jax.nn.sigmoid(z_z + p_z)
        n = jnp.tanh(z_n + p_n + ops.matmul(r * r_in, p.u_n))
        return GRUDState((1 - z) * state.h + z * n, last)


def twin(cell, params, x, state):
    """One step in NumPy."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    seen, elapsed, value = x["seen"], x["elapsed"], x["x"]
    decay_x = np.exp(-np.maximum(0, elapsed * params.w_x + params.b_x))
    h = np.exp(-np.maximum(0, elapsed @ params.w_h + params.b_h)) * state.h
    known = seen * value + (1 - seen) * decay_x * state.last
    p = known @ params.w + seen @ params.v + params.b
    q = h @ params.u
    size = cell.hidden_size
    r = sigmoid(p[:size] + q[:size])
    z = sigmoid(p[size : 2 * size] + q[size:])
    n = np.tanh(p[2 * size :] + (r * h) @ params.u_n)
    h = (1 - z) * h + z * n
    return GRUDState(h, seen * value + (1 - seen) * state.last), h
