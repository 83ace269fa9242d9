"""Flax Linen: `nn.RNN` and `nn.Bidirectional`.

Best setting: time-major; `OptimizedLSTMCell`. With lengths, Flax computes the steps of the padding,
too, as in Flax NNX.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_peer import JaxPeer
from benchmarks.workload import Structure, Weights

__all__ = ["FlaxLinen"]

GATE_NAMES = {"elman": [""], "lstm": ["i", "f", "g", "o"], "gru": ["r", "z", "n"]}
"""By cell, the names of its gates, in the order of the columns of the common weights.

The dense layers of a gate are called "i" and "h" followed by the name of the gate.
"""


def _cell(structure: Structure) -> Any:
    kinds: dict[str, Any] = {
        "elman": nn.SimpleCell,
        "lstm": nn.OptimizedLSTMCell,
        "gru": nn.GRUCell,
    }
    return kinds[structure.cell](structure.hidden)


def _cell_params(structure: Structure, weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of one direction as parameters of a Linen cell.

    A Linen cell has one dense layer for each gate and each factor (input or state).
    """
    names = GATE_NAMES[structure.cell]
    blocks = {name: jnp.split(weights[name], len(names), axis=-1) for name in ("w_ih", "w_hh", "b")}
    biased = "h" if structure.cell == "lstm" else "i"
    params: dict[str, Any] = {}
    for gate, w_ih, w_hh, b in zip(names, *blocks.values(), strict=True):
        params["i" + gate] = {"kernel": w_ih}
        params["h" + gate] = {"kernel": w_hh}
        params[biased + gate]["bias"] = b
    if structure.cell == "gru":
        params["hn"]["bias"] = weights["b_hn"]
    return params


class FlaxLinen(JaxPeer):
    """Flax Linen, the older API of Flax."""

    name: ClassVar[str] = "flax_linen"
    distributions: ClassVar[tuple[str, ...]] = ("flax",)

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        del lengths

        def layer() -> Any:
            # Each direction has its own cell: Linen shares the parameters of a module that is used
            # twice.
            directions = [
                nn.RNN(_cell(structure), time_major=True) for _ in range(structure.directions)
            ]
            if structure.bidirectional:
                return nn.Bidirectional(directions[0], directions[1], time_major=True)
            return directions[0]

        layers = [layer() for _ in range(structure.layers)]

        def apply(params: Any, xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
            for module, variables in zip(layers, params, strict=True):
                xs = module.apply({"params": variables}, xs, seq_lengths=lengths)
            return xs

        def from_common(weights: Weights) -> Any:
            cells = [[{"cell": _cell_params(structure, w)} for w in layer] for layer in weights]
            if not structure.bidirectional:
                return [layer[0] for layer in cells]
            return [{"forward_rnn": one, "backward_rnn": two} for one, two in cells]

        return Recurrence(apply, from_common)

    def single_step(self, structure: Structure) -> Step | str:
        cell = _cell(structure)

        def apply(params: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            state, output = cell.apply({"params": params}, state, x)
            return output, state

        def initial_state(batch: int) -> Any:
            return cell.initialize_carry(jax.random.key(0), (batch, structure.inputs))

        return Step(apply, lambda weights: _cell_params(structure, weights[0][0]), initial_state)
