"""Haiku: `hk.LSTM`, `hk.GRU`, `hk.VanillaRNN` in `hk.dynamic_unroll`.

Best setting: time-major arrays, and one bias in each core. Haiku has neither lengths nor
bidirectional layers. For a bidirectional layer, this file runs two cores and joins their outputs.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_peer import JaxPeer
from benchmarks.workload import Structure, Weights

__all__ = ["Haiku"]

DIFFERENT = {"elman": "relu instead of tanh", "gru": "the reset gate acts before the product"}
NAMES = {"elman": "vanilla_rnn", "lstm": "lstm", "gru": "gru"}


def _transformed(function: Callable[..., Any]) -> Any:
    return hk.without_apply_rng(hk.transform(function))


def _core(structure: Structure) -> Any:
    if structure.cell == "elman":
        return hk.VanillaRNN(structure.hidden, double_bias=False)
    return {"lstm": hk.LSTM, "gru": hk.GRU}[structure.cell](structure.hidden)


def _reordered(array: Any, order: tuple[int, ...]) -> jax.Array:
    blocks = jnp.split(array, len(order), axis=-1)
    return jnp.concatenate([blocks[index] for index in order], axis=-1)


def _core_params(structure: Structure, name: str, weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of one direction as parameters of the core `name`."""
    if structure.cell == "elman":
        return {
            f"{name}/linear": {"w": weights["w_ih"], "b": weights["b"]},
            f"{name}/linear_1": {"w": weights["w_hh"]},
        }
    if structure.cell == "gru":  # gates z, r, a
        named = {"w_i": weights["w_ih"], "w_h": weights["w_hh"], "b": weights["b"]}
        return {name: {key: _reordered(value, (1, 0, 2)) for key, value in named.items()}}
    # Gates i, g, f, o; the core itself adds 1 to the forget gate.
    w = jnp.concatenate([weights["w_ih"], weights["w_hh"]])
    b = weights["b"].at[structure.hidden : 2 * structure.hidden].add(-1.0)
    return {f"{name}/linear": {"w": _reordered(w, (0, 2, 1, 3)), "b": _reordered(b, (0, 2, 1, 3))}}


def _params(structure: Structure, weights: Weights) -> dict[str, Any]:
    """Return the weights of all cores.

    Haiku numbers the cores in the order in which they are created.
    """
    params: dict[str, Any] = {}
    for index, direction in enumerate(each for layer in weights for each in layer):
        name = NAMES[structure.cell] + (f"_{index}" if index else "")
        params |= _core_params(structure, name, direction)
    return params


class Haiku(JaxPeer):
    """DeepMind's Haiku."""

    name: ClassVar[str] = "haiku"
    distributions: ClassVar[tuple[str, ...]] = ("dm-haiku",)

    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        if lengths:
            return "no lengths"

        def network(xs: jax.Array) -> jax.Array:
            for _ in range(structure.layers):
                outputs = []
                for reverse in (False, True)[: structure.directions]:
                    core = _core(structure)
                    state = core.initial_state(xs.shape[1])
                    outputs.append(hk.dynamic_unroll(core, xs, state, reverse=reverse)[0])
                xs = jnp.concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
            return xs

        transformed = _transformed(network)

        def apply(params: Any, xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
            del lengths
            return transformed.apply(params, xs)

        different = DIFFERENT.get(structure.cell)
        return Recurrence(apply, lambda weights: _params(structure, weights), different=different)

    def single_step(self, structure: Structure) -> Step | str:
        step = _transformed(lambda x, state: _core(structure)(x, state))
        initial = _transformed(lambda batch: _core(structure).initial_state(batch))
        return Step(
            step.apply,
            lambda weights: _params(structure, weights),
            lambda batch: initial.apply({}, batch),
            different=DIFFERENT.get(structure.cell),
        )
