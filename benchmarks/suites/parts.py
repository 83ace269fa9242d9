"""Suite `parts`: the time of each piece of an LSTM's gradient alone, in plain JAX.

The pieces explain the times of suite `speed`: if the times of the pieces add up to the time of the
whole gradient, then the gradient can only become faster if a piece becomes faster. A "flat" product
covers all steps at once. A product "in the loop" waits for the previous step.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from benchmarks import timing
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.speed import SHAPES
from benchmarks.workload import Shape

__all__ = ["run"]

GATES = 4
Pair: TypeAlias = tuple[jax.Array, jax.Array]


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure all pieces for all shapes; return the rows."""
    rows = []
    for shape in settings.shapes or (SHAPES[:1] if settings.short else SHAPES):
        say(f"lstm, {shape}")
        rows += _group(Shape(*shape), settings)
    return rows


def _group(shape: Shape, settings: Settings) -> list[Row]:
    batch, steps, inputs, hidden = shape
    keys = jax.random.split(jax.random.key(0), 5)
    xs = jax.random.normal(keys[0], (steps, batch, inputs))
    w_ih = jax.random.normal(keys[1], (inputs, GATES * hidden)) / hidden
    w_hh = jax.random.normal(keys[2], (hidden, GATES * hidden)) / hidden
    h = jax.random.normal(keys[3], (batch, hidden))
    dzs = jax.random.normal(keys[4], (steps, batch, GATES * hidden))
    zs = tuple(jnp.split(dzs, GATES, axis=-1))

    def input_product(xs: jax.Array, w: jax.Array) -> jax.Array:
        return xs.reshape(-1, inputs) @ w

    def forward_loop(h: jax.Array, w: jax.Array) -> jax.Array:
        step = lambda h, _: ((h @ w)[:, :hidden], None)  # noqa: E731
        return jax.lax.scan(step, h, None, length=steps)[0]

    def backward_loop(dh: jax.Array, dzs: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda dh, dz: (0.5 * dh + dz @ w.T, None), dh, dzs)[0]

    def weight_gradient(xs: jax.Array, dzs: jax.Array) -> jax.Array:
        return xs.reshape(-1, inputs).T @ dzs.reshape(-1, GATES * hidden)

    def pointwise(c: jax.Array, zs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        def step(c: jax.Array, z: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            z_i, z_f, z_g, z_o = z
            c = jax.nn.sigmoid(z_f) * c + jax.nn.sigmoid(z_i) * jnp.tanh(z_g)
            return c, jax.nn.sigmoid(z_o) * jnp.tanh(c)

        return jax.lax.scan(step, c, zs)

    def lstm(z: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        z_i, z_f, z_g, z_o = jnp.split(z, GATES, axis=-1)
        c = jax.nn.sigmoid(z_f) * c + jax.nn.sigmoid(z_i) * jnp.tanh(z_g)
        return jax.nn.sigmoid(z_o) * jnp.tanh(c), c

    def apart(zs: jax.Array, w: jax.Array) -> jax.Array:
        def step(state: Pair, z: jax.Array) -> tuple[Pair, jax.Array]:
            h, c = lstm(z + state[0] @ w, state[1])
            return (h, c), h

        forward = jax.lax.scan(step, (h, h), zs)[1]
        backward = jax.lax.scan(step, (h, h), zs, reverse=True)[1]
        return jnp.square(forward + backward).sum()

    def together(zs: jax.Array, w: jax.Array) -> jax.Array:
        def step(states: tuple[Pair, Pair], z: Pair) -> tuple[tuple[Pair, Pair], Pair]:
            ((h_f, c_f), (h_b, c_b)), (z_f, z_b) = states, z
            h_f, c_f = lstm(z_f + h_f @ w, c_f)
            h_b, c_b = lstm(z_b + h_b @ w, c_b)
            return ((h_f, c_f), (h_b, c_b)), (h_f, h_b)

        _, (forward, backward) = jax.lax.scan(step, ((h, h), (h, h)), (zs, zs[::-1]))
        return jnp.square(forward + backward[::-1]).sum()

    per_input = 2 * steps * batch * GATES * hidden * inputs
    per_hidden = 2 * steps * batch * GATES * hidden * hidden
    parts: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int | None]] = {
        "input product, flat": (input_product, (xs, w_ih), per_input),
        "recurrent product, in the loop": (forward_loop, (h, w_hh), per_hidden),
        "its gradient, in the loop": (backward_loop, (h, dzs, w_hh), per_hidden),
        "weight gradient, flat": (weight_gradient, (xs, dzs), per_input),
        "gates alone, in a loop": (pointwise, (h, zs), None),
        "two directions, loop after loop, gradient": (jax.grad(apart), (dzs, w_hh), None),
        "two directions in one loop, gradient": (jax.grad(together), (dzs, w_hh), None),
    }

    def waited(function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        jax.block_until_ready(function(*arguments))

    calls = {
        name: functools.partial(waited, jax.jit(function), arguments)
        for name, (function, arguments, _) in parts.items()
    }
    seconds = timing.interleaved(calls, repeats=settings.repeats, budget=settings.budget)
    return [
        Row(
            suite="parts",
            cell="lstm",
            variant=name,
            shape=shape,
            what="part",
            contestant="jax",
            samples_ms=tuple(1e3 * s for s in seconds[name]),
            flops=parts[name][2],
        )
        for name in parts
    ]
