"""Equinox: `eqx.nn.LSTMCell` and `eqx.nn.GRUCell`, mapped over the batch, in `jax.lax.scan`.

The best setting has time-major arrays and the loop of Equinox's documentation. Equinox has no
recurrent layers, no Elman cell and no lengths. This file builds stacks and bidirectional layers
from cells.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_peer import JaxPeer
from benchmarks.workload import Structure

__all__ = ["Equinox"]

NO_CELL = "no Elman cell"


def _cell(structure: Structure, weights: dict[str, Any]) -> Any:
    """Return a cell that holds the given weights of one direction."""
    inputs = weights["w_ih"].shape[0]
    kind = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[structure.cell]
    cell = kind(inputs, structure.hidden, key=jax.random.key(0))
    fields = {"weight_ih": weights["w_ih"].T, "weight_hh": weights["w_hh"].T, "bias": weights["b"]}
    if structure.cell == "gru":
        fields["bias_n"] = weights["b_hn"]
    names = list(fields)
    return eqx.tree_at(lambda c: [getattr(c, name) for name in names], cell, list(fields.values()))


def _zeros(structure: Structure, batch: int) -> Any:
    zeros = jnp.zeros((batch, structure.hidden))
    return (zeros, zeros) if structure.cell == "lstm" else zeros


def _advance(cell: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    state = jax.vmap(cell)(x, state)
    return (state[0] if isinstance(state, tuple) else state), state


class Equinox(JaxPeer):
    """Equinox's cells."""

    name: ClassVar[str] = "equinox"
    distributions: ClassVar[tuple[str, ...]] = ("equinox",)

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        if structure.cell == "elman":
            return NO_CELL
        if lengths:
            return "no lengths"

        def run(cell: Any, xs: jax.Array, reverse: bool) -> jax.Array:
            def step(state: Any, x: jax.Array) -> Any:
                output, state = _advance(cell, x, state)
                return state, output

            return jax.lax.scan(step, _zeros(structure, xs.shape[1]), xs, reverse=reverse)[1]

        def apply(params: Any, xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
            del lengths
            for layer in params:
                outputs = [run(cell, xs, reverse=index == 1) for index, cell in enumerate(layer)]
                xs = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
            return xs

        return Recurrence(
            apply,
            lambda weights: [[_cell(structure, each) for each in layer] for layer in weights],
        )

    def single_step(self, structure: Structure) -> Step | str:
        if structure.cell == "elman":
            return NO_CELL
        return Step(
            _advance,
            lambda weights: _cell(structure, weights[0][0]),
            lambda batch: _zeros(structure, batch),
        )
