"""Bridges: from what the encoder has read to the state in which the decoder starts."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks, sequences
from seqjax.cells._base import Cell, flat_roles
from seqjax.nn._layer import Bidirectional
from seqjax.seq2seq._encoder import Encoded
from seqjax.types import Array

__all__ = ["BRIDGES", "Bridge"]

BridgeKind = Literal["zero", "last", "projected", "mean"]
BRIDGES: tuple[str, ...] = ("zero", "last", "projected", "mean")
"""Ways to start: the decoder's own initial state; the encoder's final state as it is; a layer with
tanh on it (Bahdanau et al. 2015, appendix A.2.2, with both directions); one on the mean memory."""
_FROM_STATE = ("last", "projected")


class Bridge(nnx.Module):
    """Makes the decoder's initial states.

        s_0 = s_T                          "last": equal cells; both directions side by side
        s_0 = tanh([s_T→; s_T←] W + b)     "projected": for each layer and each array of its state
        s_0 = tanh(mean_s(m_s) W + b)      "mean"

    The decoder's layer l starts from the encoder's layer l, or its last one if it has fewer.

    Args:
      kind: one of `BRIDGES`.
      cells: the decoder's cells, one a layer.
      state: an encoder's state without batch axes, a tuple with one entry a layer; () if it has
        none, for "zero" and "mean".
      memory_size: features of the memory.
      param_dtype: of the parameters.
      rngs: draws the parameters.

    Raises:
      ValueError: an unknown kind; "last" with states that do not fit; "last" or "projected" without
        a state.

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
        rngs: nnx.Rngs,
    ) -> None:
        self.kind = checks.require_name("bridge", kind, BRIDGES)
        self.cells = tuple(cells)
        self.layers: nnx.List[Any] = nnx.List([])
        if not state and kind in _FROM_STATE:
            raise ValueError(
                "bridge: expected 'zero' or 'mean' of an encoder without a final state, got "
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
                        f"bridge: expected an encoder whose final state has arrays of {shapes} for "
                        f"'last', got {got}; 'projected' takes any"
                    )
            if kind in ("projected", "mean"):
                sizes = [part.shape[-1] for leaf in given for part in _features(leaf, 0)]
                width = sum(sizes) if kind == "projected" else memory_size
                for leaf in wanted.values():
                    if leaf.ndim != 1:
                        raise ValueError(
                            f"bridge: expected 'zero' or 'last' for {type(cell).__name__}, whose "
                            f"state has an array of {leaf.shape}, got {kind!r}"
                        )
                    columns = leaf.shape[-1] * len(_features(leaf, 0))
                    self.layers.append(
                        nnx.Linear(width, columns, param_dtype=param_dtype, rngs=rngs)
                    )

    def __call__(self, encoded: Encoded) -> tuple[Any, ...]:
        """The decoder's initial states, a tuple with one entry a layer.

        Args:
          encoded: as from `Encoder`.
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
    """The arrays of a state, by their places, that an initial state may be learned for."""
    pairs = zip(jax.tree.leaves(state), flat_roles(cell.state_roles()), strict=True)
    return {n: leaf for n, (leaf, role) in enumerate(pairs) if role.learned}


def _features(leaf: Array, batch_ndim: int) -> list[Array]:
    """The real features of one array of a state; none of a counter."""
    if leaf.ndim <= batch_ndim or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return []
    return [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]


def _as_state(features: Array, like: Array) -> Array:
    """Features as an array of a state, of which a complex one takes twice as many."""
    if not jnp.iscomplexobj(like):
        return features.astype(like.dtype)
    real, imaginary = jnp.split(features, 2, axis=-1)
    return jax.lax.complex(real, imaginary).astype(like.dtype)


def _layer(states: Any, index: int, batch_ndim: int = 0) -> Any:
    """The state of a layer, or the last one's, with both directions' features in one array."""
    state = states[min(index, len(states) - 1)]
    if not isinstance(state, Bidirectional):
        return state

    def joined(forward: Array, backward: Array) -> Array:
        if forward.ndim <= batch_ndim:  # a counter
            return forward
        return jnp.concatenate([forward, backward], axis=-1)

    return jax.tree.map(joined, state.forward, state.backward)
