"""seqjax itself, in the ways it can be run.

Best setting: time-major arrays; `implementation="auto"` and `remat="auto"`. One layer is
`seqjax.unroll`, stacks are the Flax layers, taken apart once so that a call handles arrays only.
The softmax's loss is `losses.linear_cross_entropy`.
"""

import dataclasses
from typing import Any, ClassVar

import jax
from flax import nnx

import seqjax
from benchmarks.peers.base import Trainer, Writer
from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_peer import JaxPeer
from benchmarks.peers.nnx_tools import rebuilder
from benchmarks.translation import Translation
from benchmarks.workload import Structure, Weights

__all__ = ["Layer", "Seqjax", "Sharded", "cell_of"]

CELLS: dict[str, Any] = {
    "elman": seqjax.cells.Elman,
    "lstm": seqjax.cells.LSTM,
    "gru": seqjax.cells.GRU,
}
LAYERS: dict[str, Any] = {"elman": seqjax.nn.RNN, "lstm": seqjax.nn.LSTM, "gru": seqjax.nn.GRU}


def cell_of(structure: Structure) -> tuple[Any, Any]:
    """A cell, and the class of its parameters, a NamedTuple of the common names."""
    cell = CELLS[structure.cell](structure.inputs, structure.hidden)
    return cell, type(jax.eval_shape(cell.init, jax.random.key(0)))


def _layer_params(weights: Weights) -> Any:
    """The common weights as the layers' pure dictionary."""
    names = ("forward", "backward")
    return {
        "layers": {
            index: dict(zip(names, directions, strict=False))
            for index, directions in enumerate(weights)
        }
    }


@dataclasses.dataclass(frozen=True)
class Seqjax(JaxPeer):
    """The default contestant; suites also run it with one kernel or one way to save memory."""

    name: ClassVar[str] = "seqjax"
    distributions: ClassVar[tuple[str, ...]] = ("flax",)

    implementation: str = "auto"
    remat: str = "auto"

    @property
    def _options(self) -> dict[str, Any]:
        return {"implementation": self.implementation, "remat": self.remat}

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        del lengths  # all structures take them
        if structure.layers > 1 or structure.bidirectional:
            return self._layers(structure)
        cell, params_class = cell_of(structure)

        def apply(params: Any, xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
            return seqjax.unroll(
                cell, params, xs, lengths=lengths, time_major=True, **self._options
            ).outputs

        return Recurrence(apply, lambda weights: params_class(**weights[0][0]))

    def _layers(self, structure: Structure) -> Recurrence:
        rebuild = rebuilder(
            LAYERS[structure.cell](
                structure.inputs,
                structure.hidden,
                num_layers=structure.layers,
                bidirectional=structure.bidirectional,
                time_major=True,
                rngs=nnx.Rngs(0),
            )
        )

        def apply(params: Any, xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
            return rebuild(params)(xs, lengths=lengths, **self._options).outputs

        return Recurrence(apply, _layer_params)

    def softmax_loss(
        self, outputs: jax.Array, w_out: jax.Array, b_out: jax.Array, targets: jax.Array
    ) -> jax.Array:
        return seqjax.losses.linear_cross_entropy(outputs, w_out, b_out, targets)

    def translator(self, task: Translation) -> Trainer | str:
        from benchmarks.peers.ours_translation import SeqjaxTranslator

        return self.obstacle(task.sizes[0]) or SeqjaxTranslator(task, self.put)

    def writer(self, task: Translation, width: int) -> Writer | str:
        from benchmarks.peers.ours_translation import SeqjaxWriter

        return self.obstacle(task.sizes[0]) or SeqjaxWriter(task, width, self.put)

    def single_step(self, structure: Structure) -> Step | str:
        cell, params_class = cell_of(structure)

        def apply(params: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            return tuple(cell.step(params, x, state))

        return Step(
            apply,
            lambda weights: params_class(**weights[0][0]),
            lambda batch: cell.initial_state((batch,)),
        )


class Layer(Seqjax):
    """The Flax layer where `Seqjax` takes the cell; only single steps differ."""

    name: ClassVar[str] = "seqjax_layer"

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        del lengths
        return self._layers(structure)

    def single_step(self, structure: Structure) -> Step | str:
        layer = LAYERS[structure.cell](structure.inputs, structure.hidden, rngs=nnx.Rngs(0))
        rebuild = rebuilder(layer)

        def apply(params: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            output, state = rebuild(params).step(x, state)
            return output, state

        return Step(apply, _layer_params, lambda batch: layer.initial_state((batch,)))


class Sharded(Seqjax):
    """The default contestant with its batch split over all devices of the process."""

    name: ClassVar[str] = "seqjax_sharded"

    def obstacle(self, batch: int) -> str | None:
        devices = jax.device_count()
        if devices < 2:
            return "one device"
        if batch % devices:
            return f"a batch of {batch} can not be split over {devices} devices"
        return None

    def put(self, tree: Any, batch_axis: int | None) -> Any:
        if batch_axis is None:
            return seqjax.sharding.replicate(tree)
        return seqjax.sharding.shard_batch(tree, axis=batch_axis)

    def softmax_loss(
        self, outputs: jax.Array, w_out: jax.Array, b_out: jax.Array, targets: jax.Array
    ) -> jax.Array:
        # The batch comes first, so that devices share each chunk of positions.
        return super().softmax_loss(outputs.swapaxes(0, 1), w_out, b_out, targets.swapaxes(0, 1))

    def single_step(self, structure: Structure) -> Step | str:
        del structure
        return "a batch of 1 can not be split"
