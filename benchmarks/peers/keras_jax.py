"""Keras on JAX, with the layers `SimpleRNN`, `LSTM`, `GRU` and `Bidirectional`.

The `GRU` applies the reset gate after the recurrent product. The best setting calls
`stateless_call` under `jax.jit` instead of `fit` or `predict`, lets Keras choose a fused kernel
(`use_cudnn="auto"`), and does not unroll loops. Keras is batch-major. `benchmarks.peers` sets
KERAS_BACKEND before this import.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import keras

from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_peer import JaxPeer
from benchmarks.workload import Structure, Weights

__all__ = ["KerasJax"]

if keras.backend.backend() != "jax":
    raise ImportError(f"KERAS_BACKEND: expected jax, got {keras.backend.backend()}")


def _layer(structure: Structure) -> Any:
    kinds: dict[str, Any] = {
        "elman": keras.layers.SimpleRNN,
        "lstm": keras.layers.LSTM,
        "gru": keras.layers.GRU,
    }
    layer = kinds[structure.cell](structure.hidden, return_sequences=True)
    return keras.layers.Bidirectional(layer) if structure.bidirectional else layer


def _cell_params(structure: Structure, weights: dict[str, Any]) -> list[Any]:
    """Return the given weights of one direction as Keras's kernel, recurrent kernel and bias."""
    if structure.cell != "gru":
        return [weights["w_ih"], weights["w_hh"], weights["b"]]

    def reordered(array: Any) -> jax.Array:  # gates z, r, h
        r, z, n = jnp.split(array, 3, axis=-1)
        return jnp.concatenate([z, r, n], axis=-1)

    recurrent_bias = jnp.pad(weights["b_hn"], (2 * structure.hidden, 0))
    biases = jnp.stack([reordered(weights["b"]), recurrent_bias])
    return [reordered(weights["w_ih"]), reordered(weights["w_hh"]), biases]


class KerasJax(JaxPeer):
    """Keras 3."""

    name: ClassVar[str] = "keras"
    distributions: ClassVar[tuple[str, ...]] = ("keras",)

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        del lengths
        layers = [_layer(structure) for _ in range(structure.layers)]
        for layer, width in zip(layers, structure.widths, strict=True):
            layer.build((None, None, width))
        constants = [[v.value for v in layer.non_trainable_variables] for layer in layers]

        def apply(params: Any, xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
            mask = None if lengths is None else jnp.arange(xs.shape[1]) < lengths[:, None]
            for layer, trainable, rest in zip(layers, params, constants, strict=True):
                xs, _ = layer.stateless_call(trainable, rest, xs, mask=mask)
            return xs

        def from_common(weights: Weights) -> Any:
            return [
                [array for each in layer for array in _cell_params(structure, each)]
                for layer in weights
            ]

        return Recurrence(apply, from_common, time_major=False)

    def single_step(self, structure: Structure) -> Step | str:
        cell = _layer(structure).cell
        cell.build((None, structure.inputs))
        constants = [v.value for v in cell.non_trainable_variables]
        arrays = 2 if structure.cell == "lstm" else 1

        def apply(params: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            (output, state), _ = cell.stateless_call(params, constants, x, state)
            return output, state

        return Step(
            apply,
            lambda weights: _cell_params(structure, weights[0][0]),
            lambda batch: [jnp.zeros((batch, structure.hidden))] * arrays,
        )
