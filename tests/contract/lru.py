"""The linear recurrent unit: complex states, decays of the parameters alone, a read-out.

    λ = exp(-exp(ν) + i exp(θ))      γ = √(1 - |λ|²)
    s_t = λ ⊙ s_{t-1} + γ ⊙ (x_t B)
    y_t = Re(s_t C) + x_t D

Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De (2023), Resurrecting recurrent neural networks
for long sequences, eq. 2, 6 and 7.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells import LinearCell, ops


class LRUParams(NamedTuple):
    """Parameters: `nu, theta [H]`, `b_re, b_im [I, H]`, `c_re, c_im [H, I]`, `d [I, I]`."""

    nu: Any
    theta: Any
    b_re: Any
    b_im: Any
    c_re: Any
    c_im: Any
    d: Any


class Prepared(NamedTuple):
    """What a call needs: the eigenvalues, and matrices of which B is normalised."""

    eigenvalues: Any
    b_re: Any
    b_im: Any
    c_re: Any
    c_im: Any
    d: Any


@dataclasses.dataclass(frozen=True)
class LRU(LinearCell):
    """The linear recurrent unit, with as many outputs as inputs."""

    @property
    def output_shape(self):
        return (self.input_size,)

    def init(self, key, dtype=jnp.float32):
        sizes = self.input_size, self.hidden_size
        shapes = [(sizes[1],)] * 2 + [sizes] * 2 + [sizes[::-1]] * 2 + [(sizes[0],) * 2]
        keys = jax.random.split(key, len(shapes))
        return LRUParams(
            *(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))
        )

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        kind = jnp.complex128 if jnp.dtype(dtype) == jnp.float64 else jnp.complex64
        return jnp.zeros((*batch_shape, self.hidden_size), kind)

    def prepare(self, params):
        size = jnp.exp(-jnp.exp(params.nu))
        gamma = jnp.sqrt(1 - size**2)
        eigenvalues = size * jnp.exp(1j * jnp.exp(params.theta))
        return Prepared(eigenvalues, gamma * params.b_re, gamma * params.b_im, *params[4:])

    def project(self, p, x):
        driven = ops.matmul(x, p.b_re) + 1j * ops.matmul(x, p.b_im)
        return driven, ops.matmul(x, p.d)

    def linear_terms(self, p, gates):
        return p.eigenvalues, gates[0]

    def output(self, p, gates, state):
        return ops.matmul(state.real, p.c_re) - ops.matmul(state.imag, p.c_im) + gates[1]


def twin(cell, params, x, state):
    """One step in NumPy."""
    eigenvalues = np.exp(-np.exp(params.nu) + 1j * np.exp(params.theta))
    gamma = np.sqrt(1 - np.abs(eigenvalues) ** 2)
    state = eigenvalues * state + gamma * (x @ (params.b_re + 1j * params.b_im))
    return state, (state @ (params.c_re + 1j * params.c_im)).real + x @ params.d
