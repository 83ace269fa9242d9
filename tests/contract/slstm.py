"""The sLSTM: exponential gates with a scale of their own, heads, and group norm.

    [z_i z_f z_z z_o] = x_t W + h_{t-1} R + b      (R has a block for each head)
    m_t = max(log σ(z_f) + m_{t-1}, z_i)
    i, f = exp(z_i - m_t), exp(log σ(z_f) + m_{t-1} - m_t)
    c_t, n_t = f c_{t-1} + i tanh(z_z), f n_{t-1} + i
    h_t = σ(z_o) c_t / n_t      y_t = g ⊙ GroupNorm(h_t)

Beck et al. (2024), xLSTM: extended long short-term memory, eq. 8-17.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells import Cell, Role, ops

EPSILON = 1e-5


class SLSTMParams(NamedTuple):
    """Parameters: `w [I, 4H]`, `r [N, D, 4D]` for N heads of D units, `b [4H]`, `gain [H]`."""

    w: Any
    r: Any
    b: Any
    gain: Any


class SLSTMState(NamedTuple):
    """The state, `[..., H]` each; c and n are in units of exp(m)."""

    h: Any
    c: Any
    n: Any
    m: Any


@dataclasses.dataclass(frozen=True)
class SLSTM(Cell):
    """The scalar LSTM with `heads` heads."""

    heads: int = 2

    def init(self, key, dtype=jnp.float32):
        width = self.hidden_size // self.heads
        columns = 4 * self.hidden_size
        shapes = (self.input_size, columns), (self.heads, width, 4 * width), (columns,)
        keys = jax.random.split(key, 3)
        w, r, b = (jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))
        return SLSTMParams(w, r, b, jnp.ones(self.hidden_size, dtype))

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        zeros = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        scale = jnp.full(
            (*batch_shape, self.hidden_size), -1e30, jnp.promote_types(dtype, "float32")
        )
        return SLSTMState(zeros, zeros, zeros, scale)

    def state_roles(self):
        scaled = Role(held=False, learned=False)  # c and n have a meaning only together with m
        return SLSTMState(Role(held=True, learned=True), scaled, scaled, scaled)

    def project(self, p, x):
        return ops.split(ops.affine(x, p.w, p.b), 4)

    def recurrent_input(self, state):
        return state.h

    def recur(self, p, r):
        heads = r.reshape(*r.shape[:-1], self.heads, -1)
        product = jnp.einsum(
            "...nd,ndk->...nk", heads.astype(p.r.dtype), p.r,
            preferred_element_type=ops.accumulator_dtype(p.r.dtype),
        )  # fmt: skip
        return tuple(q.reshape(r.shape) for q in ops.split(product, 4))

    def update(self, p, gates, state):
        z_i, z_f, z_z, z_o = gates
        kept = jax.nn.log_sigmoid(z_f) + state.m
        m = jnp.maximum(kept, z_i)
        i, f = jnp.exp(z_i - m), jnp.exp(kept - m)
        c, n = f * state.c + i * jnp.tanh(z_z), f * state.n + i
        return SLSTMState(jax.nn.sigmoid(z_o) * c / n, c, n, m)

    def output(self, p, gates, state):
        heads = state.h.reshape(*state.h.shape[:-1], self.heads, -1)
        centred = heads - heads.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPSILON)
        return ops.scaled(p.gain, normed.reshape(state.h.shape))


def twin(cell, params, x, state):
    """One step in NumPy."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    heads = np.split(state.h, cell.heads)
    blocks = [np.split(h @ r, 4) for h, r in zip(heads, params.r, strict=True)]
    recurrent = np.concatenate([np.concatenate(gate) for gate in zip(*blocks, strict=True)])
    z_i, z_f, z_z, z_o = np.split(x @ params.w + params.b + recurrent, 4)
    kept = np.log(sigmoid(z_f)) + state.m
    m = np.maximum(kept, z_i)
    c = np.exp(kept - m) * state.c + np.exp(z_i - m) * np.tanh(z_z)
    n = np.exp(kept - m) * state.n + np.exp(z_i - m)
    h = sigmoid(z_o) * c / n
    parts = [(v - v.mean()) / np.sqrt(v.var() + EPSILON) for v in np.split(h, cell.heads)]
    return SLSTMState(h, c, n, m), params.gain * np.concatenate(parts)
