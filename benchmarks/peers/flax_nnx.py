"""Flax NNX: `nnx.RNN` and `nnx.Bidirectional`.

Best setting: time-major arrays; `OptimizedLSTMCell`, which concatenates the gates; the module is
split once by `nnx.split` and called under `jax.jit`, which costs less per call than `nnx.jit`.

With `seq_lengths`, NNX computes all steps and uses the lengths only to choose the final state. The
outputs at real steps of one forward direction are right, and the workload needs no other outputs.
"""

from typing import Any, ClassVar

import jax
from flax import nnx

from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_peer import JaxPeer
from benchmarks.peers.nnx_tools import rebuilder
from benchmarks.workload import Structure, Weights

__all__ = ["FlaxNNX"]

NO_BIAS = "no bias inside the reset gate's product"


def _cell(structure: Structure, inputs: int) -> Any:
    kinds: dict[str, Any] = {
        "elman": nnx.SimpleCell,
        "lstm": nnx.OptimizedLSTMCell,
        "gru": nnx.GRUCell,
    }
    return kinds[structure.cell](inputs, structure.hidden, rngs=nnx.Rngs(0))


def _cell_params(structure: Structure, weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of one direction as a dict with the names of the cell's parameters."""
    dense_i = {"kernel": weights["w_ih"]}
    dense_h = {"kernel": weights["w_hh"]}
    (dense_h if structure.cell == "lstm" else dense_i)["bias"] = weights["b"]
    return {"dense_i": dense_i, "dense_h": dense_h}


class _Stack(nnx.Module):
    """A stack of layers."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = nnx.List(layers)

    def __call__(self, xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
        for layer in self.layers:
            xs = layer(xs, seq_lengths=lengths)
        return xs


class FlaxNNX(JaxPeer):
    """Flax NNX, the present API of Flax."""

    name: ClassVar[str] = "flax_nnx"
    distributions: ClassVar[tuple[str, ...]] = ("flax",)

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        del lengths

        def layer(inputs: int) -> Any:
            directions = [
                nnx.RNN(_cell(structure, inputs), time_major=True)
                for _ in range(structure.directions)
            ]
            if structure.bidirectional:
                return nnx.Bidirectional(*directions, time_major=True)
            return directions[0]

        rebuild = rebuilder(_Stack(list(map(layer, structure.widths))))

        def apply(params: Any, xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
            return rebuild(params)(xs, lengths)

        def from_common(weights: Weights) -> Any:
            layers: dict[int, Any] = {}
            for index, directions in enumerate(weights):
                cells = [{"cell": _cell_params(structure, each)} for each in directions]
                names = ("forward_rnn", "backward_rnn")
                one = not structure.bidirectional
                layers[index] = cells[0] if one else dict(zip(names, cells, strict=True))
            return {"layers": layers}

        different = NO_BIAS if structure.cell == "gru" else None
        return Recurrence(apply, from_common, different=different)

    def single_step(self, structure: Structure) -> Step | str:
        cell = _cell(structure, structure.inputs)
        rebuild = rebuilder(cell)

        def apply(params: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            state, output = rebuild(params)(state, x)
            return output, state

        return Step(
            apply,
            lambda weights: _cell_params(structure, weights[0][0]),
            lambda batch: cell.initialize_carry((batch, structure.inputs), nnx.Rngs(0)),
            different=NO_BIAS if structure.cell == "gru" else None,
        )
