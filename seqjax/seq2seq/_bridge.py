"""Bridges, which compute the initial state of the decoder from the encoded source."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks, sequences
from seqjax.cells._base import Cell, flat_roles
from seqjax.nn import _noise as noise
from seqjax.nn._layer import Bidirectional
from seqjax.seq2seq._encoder import Encoded
from seqjax.types import Array

__all__ = ["BRIDGES", "Bridge"]

BridgeKind = Literal["zero", "last", "projected", "mean"]
BRIDGES: tuple[str, ...] = ("zero", "last", "projected", "mean")
"""Kinds of `Bridge`. "zero" uses the initial state of the decoder's cells. "last" copies the final
state of the encoder. "projected" applies a layer with tanh to the final state of both directions;
Bahdanau et al. (2015, appendix A.2.2) use one direction. "mean" applies a layer with tanh to the
mean of the memory."""
_FROM_STATE = ("last", "projected")


class Bridge(nnx.Module):
    """A module that computes the initial states of the decoder.

        s_0 = s_T                          "last": the states must have equal shapes
        s_0 = tanh([s_T→; s_T←] W + b)     "projected": for each layer and each array of its state
        s_0 = tanh(mean_s(m_s) W + b)      "mean"

    The states of both directions of an encoder are concatenated. Layer l of the decoder starts from
    the state of layer l of the encoder, or of the encoder's last layer if the encoder has fewer
    than l layers.

    Args:
      kind: one of `BRIDGES`.
      cells: the decoder's cells, one per layer.
      state: an encoder's state without batch axes, a tuple with one entry per layer. If the encoder
        has no state, `state` is () and `kind` must be "zero" or "mean".
      memory_size: number of features of the memory.
      param_dtype: dtype of the parameters.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Raises:
      ValueError: if `kind` is unknown, if `kind` is "last" and the shapes of the encoder's and the
        decoder's states differ, or if `kind` is "last" or "projected" and the encoder has no state.

    Example:
      >>> from seqjax.cells import GRU, LSTM
      >>> encoded = Encoded(jnp.ones([2, 3, 5]), jnp.ones([2, 3], bool), (jnp.ones([2, 5]),))
      >>> bridge = Bridge("projected", [LSTM(4, 6)], (jnp.ones(5),), 5, rngs=nnx.Rngs(0))
      >>> jax.tree.map(jnp.shape, bridge(encoded))
      (LSTMState(h=(2, 6), c=(2, 6)),)
    """

    def __init__(
        self,
        kind: str,
        cells: list[Cell[Any, Any]],
        state: Any,
        memory_size: int,
        *,
        param_dtype: Any = jnp.float32,
        rngs: noise.Rngs,
    ) -> None:
        rngs = noise.streams(rngs, "params")
        self.kind = checks.require_name("bridge", kind, BRIDGES)
        self.cells = tuple(cells)
        self.layers: nnx.List[Any] = nnx.List([])
        if not state and kind in _FROM_STATE:
            raise ValueError(
                "bridge: expected 'zero' or 'mean' for an encoder without a final state, got "
                f"{kind!r}"
            )
        for index, cell in enumerate(cells):
            wanted = _learned(cell, cell.initial_state(()))
            given = jax.tree.leaves(_layer(state, index)) if kind in _FROM_STATE else []
            if kind == "last":
                shapes = [leaf.shape for leaf in wanted.values()]
                got = [given[n].shape for n in wanted if n < len(given)]
                if shapes != got:
                    raise ValueError(
                        "bridge: expected an encoder whose final state has arrays of shapes "
                        f"{shapes} for 'last', got {got}; use 'projected' for other shapes"
                    )
            if kind in ("projected", "mean"):
                sizes = [part.shape[-1] for leaf in given for part in _features(leaf, 0)]
                width = sum(sizes) if kind == "projected" else memory_size
                for leaf in wanted.values():
                    if leaf.ndim != 1:
                        raise ValueError(
                            f"bridge: expected 'zero' or 'last' for {type(cell).__name__}, whose "
                            f"state has an array of shape {leaf.shape}, got {kind!r}"
                        )
                    columns = leaf.shape[-1] * len(_features(leaf, 0))
                    self.layers.append(
                        nnx.Linear(width, columns, param_dtype=param_dtype, rngs=rngs)
                    )

    def __call__(self, encoded: Encoded) -> tuple[Any, ...]:
        """Return the decoder's initial states, a tuple with one entry per layer.

        Args:
          encoded: the encoded source, as returned by `Encoder`.
        """
        batch_shape, dtype = encoded.memory.shape[:-2], encoded.memory.dtype
        layers = iter(self.layers)
        mean = None
        if self.kind == "mean":
            mean = sequences.mean_pool(encoded.memory, mask=encoded.mask)
        states = []
        for index, cell in enumerate(self.cells):
            empty = cell.initial_state(batch_shape, dtype)
            leaves, structure = jax.tree.flatten(empty)
            wanted = _learned(cell, empty)
            given = []
            if self.kind in _FROM_STATE:
                given = jax.tree.leaves(_layer(encoded.state, index, len(batch_shape)))
            x = mean
            if self.kind == "projected":
                parts = [part for leaf in given for part in _features(leaf, len(batch_shape))]
                x = jnp.concatenate(parts, axis=-1)
            for n, leaf in wanted.items():
                if self.kind == "last":
                    leaves[n] = given[n]
                elif self.kind != "zero":
                    leaves[n] = _as_state(jnp.tanh(next(layers)(x)), leaf)
            states.append(jax.tree.unflatten(structure, leaves))
        return tuple(states)


def _learned(cell: Cell[Any, Any], state: Any) -> dict[int, Array]:
    """Return the arrays of a state whose initial value can be learned, as a dict by their index."""
    pairs = zip(jax.tree.leaves(state), flat_roles(cell.state_roles()), strict=True)
    return {n: leaf for n, (leaf, role) in enumerate(pairs) if role.learned}


def _features(leaf: Array, batch_ndim: int) -> list[Array]:
    """Return an array of a state as real arrays: two if it is complex, none if it is a counter."""
    if leaf.ndim <= batch_ndim or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return []
    return [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]


def _as_state(features: Array, like: Array) -> Array:
    """Return an array of a state from real features; a complex array needs twice as many features.

    The result has the dtype of `like`.
    """
    if not jnp.iscomplexobj(like):
        return features.astype(like.dtype)
    real, imaginary = jnp.split(features, 2, axis=-1)
    return jax.lax.complex(real, imaginary).astype(like.dtype)


def _layer(states: Any, index: int, batch_ndim: int = 0) -> Any:
    """Return the state of layer `index`, with both directions concatenated.

    If there are too few layers, return the state of the last layer.
    """
    state = states[min(index, len(states) - 1)]
    if not isinstance(state, Bidirectional):
        return state

    def joined(forward: Array, backward: Array) -> Array:
        if forward.ndim <= batch_ndim:  # a counter
            return forward
        return jnp.concatenate([forward, backward], axis=-1)

    return jax.tree.map(joined, state.forward, state.backward)
