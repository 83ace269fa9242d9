"""seqjax itself, in several settings.

The best setting has time-major arrays, `implementation="auto"` and `remat="auto"`. `seqjax.unroll`
runs a single layer. A Flax layer of seqjax runs a stack; `nnx.split` separates its structure from
its arrays once, so that a call handles only arrays. `losses.linear_cross_entropy` computes the loss
of a softmax.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

import seqjax
from benchmarks.peers.base import Trainer, Writer
from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_peer import JaxPeer
from benchmarks.peers.nnx_tools import rebuilder
from benchmarks.translation import Translation
from benchmarks.workload import Structure, Weights, Workload

__all__ = ["Layer", "Seqjax", "Sharded", "cell_of", "layer_of"]

CELLS: dict[str, Any] = {
    "elman": seqjax.cells.Elman,
    "lstm": seqjax.cells.LSTM,
    "gru": seqjax.cells.GRU,
}
LAYERS: dict[str, Any] = {"elman": seqjax.nn.RNN, "lstm": seqjax.nn.LSTM, "gru": seqjax.nn.GRU}


def cell_of(structure: Structure) -> tuple[Any, Any]:
    """Return a cell, and the class of its parameters, a NamedTuple of weights."""
    cell = CELLS[structure.cell](structure.inputs, structure.hidden)
    return cell, type(jax.eval_shape(cell.init, jax.random.key(0)))


def _layer_params(weights: Weights) -> Any:
    """Return the given weights as nested dicts with the structure of a layer's parameters."""
    names = ("forward", "backward")
    return {
        "layers": {
            index: dict(zip(names, directions, strict=False))
            for index, directions in enumerate(weights)
        }
    }


def _empty_layer(structure: Structure, **options: Any) -> Any:
    return LAYERS[structure.cell](
        structure.inputs,
        structure.hidden,
        num_layers=structure.layers,
        bidirectional=structure.bidirectional,
        rngs=nnx.Rngs(0),
        **options,
    )


def layer_of(workload: Workload) -> Any:
    """Return a batch-major Flax layer with the workload's weights."""
    weights = jax.tree.map(jnp.asarray, _layer_params(workload.weights))
    return rebuilder(_empty_layer(workload.structure))(weights)


@dataclasses.dataclass(frozen=True)
class Seqjax(JaxPeer):
    """The library seqjax with its default options. Some suites set another kernel or `remat`."""

    name: ClassVar[str] = "seqjax"
    distributions: ClassVar[tuple[str, ...]] = ("flax",)
    has_resets: ClassVar[bool] = True

    implementation: str = "auto"
    remat: str = "auto"

    @property
    def _options(self) -> dict[str, Any]:
        return {"implementation": self.implementation, "remat": self.remat}

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        del lengths  # it runs all structures
        if structure.layers > 1 or structure.bidirectional:
            return self._layers(structure)
        cell, params_class = cell_of(structure)

        def apply(
            params: Any, xs: jax.Array, lengths: jax.Array | None, resets: jax.Array | None = None
        ) -> jax.Array:
            return seqjax.unroll(
                cell, params, xs, lengths=lengths, resets=resets, time_major=True, **self._options
            ).outputs

        return Recurrence(apply, lambda weights: params_class(**weights[0][0]))

    def _layers(self, structure: Structure) -> Recurrence:
        rebuild = rebuilder(_empty_layer(structure, time_major=True))

        def apply(
            params: Any, xs: jax.Array, lengths: jax.Array | None, resets: jax.Array | None = None
        ) -> jax.Array:
            return rebuild(params)(xs, lengths=lengths, resets=resets, **self._options).outputs

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
    """A contestant that uses the Flax layer instead of `unroll`. Only suite `streaming` runs it."""

    name: ClassVar[str] = "seqjax_layer"

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        del lengths
        return self._layers(structure)

    def single_step(self, structure: Structure) -> Step | str:
        layer = _empty_layer(structure)
        rebuild = rebuilder(layer)

        def apply(params: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            output, state = rebuild(params).step(x, state)
            return output, state

        return Step(apply, _layer_params, lambda batch: layer.initial_state((batch,)))


class Sharded(Seqjax):
    """The default contestant with its batch divided over all devices of the process."""

    name: ClassVar[str] = "seqjax_sharded"

    def obstacle(self, batch: int) -> str | None:
        devices = jax.device_count()
        if devices < 2:
            return "one device"
        if batch % devices:
            return f"a batch of {batch} cannot be divided over {devices} devices"
        return None

    def put(self, tree: Any, batch_axis: int | None) -> Any:
        if batch_axis is None:
            return seqjax.sharding.replicate(tree)
        return seqjax.sharding.shard_batch(tree, axis=batch_axis)

    def softmax_loss(
        self, outputs: jax.Array, w_out: jax.Array, b_out: jax.Array, targets: jax.Array
    ) -> jax.Array:
        # The batch is the first axis, so that devices share each chunk of positions.
        return super().softmax_loss(outputs.swapaxes(0, 1), w_out, b_out, targets.swapaxes(0, 1))

    def single_step(self, structure: Structure) -> Step | str:
        del structure
        return "a batch of 1 cannot be divided"
