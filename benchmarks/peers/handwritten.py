"""A plain `jax.lax.scan`, as an experienced JAX user writes it.

The best setting has time-major arrays. One product before the loop multiplies the inputs of all
steps by the input weights. Inside the loop, the sum of this product and the product with the state
is split into gates, and `jnp.where` applies the mask and the resets. JAX and XLA do everything
else.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_peer import JaxPeer
from benchmarks.workload import Structure

__all__ = ["Handwritten"]

Update = Callable[[Any, jax.Array, Any], Any]


def _elman(weights: Any, p: jax.Array, state: Any) -> Any:
    (h,) = state
    return (jnp.tanh(p + h @ weights["w_hh"]),)


def _lstm(weights: Any, p: jax.Array, state: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(p + h @ weights["w_hh"], 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(weights: Any, p: jax.Array, state: Any) -> Any:
    (h,) = state
    p_r, p_z, p_n = jnp.split(p, 3, axis=-1)
    q_r, q_z, q_n = jnp.split(h @ weights["w_hh"], 3, axis=-1)
    r, z = jax.nn.sigmoid(p_r + q_r), jax.nn.sigmoid(p_z + q_z)
    n = jnp.tanh(p_n + r * (q_n + weights["b_hn"]))
    return ((1 - z) * n + z * h,)


UPDATES: dict[str, tuple[Update, int]] = {
    "elman": (_elman, 1),
    "lstm": (_lstm, 2),
    "gru": (_gru, 1),
}
"""For each cell: its step, given the product with the input, and the number of its state arrays.

The first state array is h.
"""


class Handwritten(JaxPeer):
    """The contestant with which every JAX library is compared."""

    name: ClassVar[str] = "handwritten"
    has_resets: ClassVar[bool] = True

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        del lengths
        update, arrays = UPDATES[structure.cell]

        def run(
            weights: Any,
            xs: jax.Array,
            mask: jax.Array | None,
            resets: jax.Array | None,
            reverse: bool,
        ) -> jax.Array:
            projected = xs @ weights["w_ih"] + weights["b"]
            zeros = jnp.zeros((xs.shape[1], structure.hidden), xs.dtype)

            def step(state: Any, inputs: Any) -> Any:
                p, real, reset = inputs
                if reset is not None:
                    state = tuple(jnp.where(reset, 0, a) for a in state)
                new = update(weights, p, state)
                if real is None:
                    return new, new[0]
                new = tuple(jnp.where(real, a, b) for a, b in zip(new, state, strict=True))
                return new, jnp.where(real, new[0], 0)

            steps = (projected, mask, resets)
            return jax.lax.scan(step, (zeros,) * arrays, steps, reverse=reverse)[1]

        def apply(
            params: Any, xs: jax.Array, lengths: jax.Array | None, resets: jax.Array | None = None
        ) -> jax.Array:
            mask = None
            if resets is not None:
                resets = resets[..., None]
            if lengths is not None:
                mask = (jnp.arange(xs.shape[0])[:, None] < lengths)[..., None]
            for layer in params:
                outputs = [
                    run(w, xs, mask, resets, reverse=index == 1) for index, w in enumerate(layer)
                ]
                xs = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
            return xs

        return Recurrence(apply, lambda weights: weights)

    def single_step(self, structure: Structure) -> Step | str:
        update, arrays = UPDATES[structure.cell]

        def apply(weights: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            state = update(weights, x @ weights["w_ih"] + weights["b"], state)
            return state[0], state

        return Step(
            apply,
            lambda weights: weights[0][0],
            lambda batch: (jnp.zeros((batch, structure.hidden)),) * arrays,
        )
