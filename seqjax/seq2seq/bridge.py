"""Bridges: from what the encoder has read to the state in which the decoder starts."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks, sequences
from seqjax.cells.base import Cell
from seqjax.nn.layer import Bidirectional
from seqjax.seq2seq.encoder import Encoded
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
            wanted = jax.tree.leaves(cell.initial_state(()))
            given = _layer(state, index) if kind in _FROM_STATE else ()
            if kind == "last":
                shapes = [leaf.shape for leaf in wanted]
                got = [leaf.shape for leaf in jax.tree.leaves(given)]
                if shapes != got:
                    raise ValueError(
                        f"bridge: expected an encoder whose final state has arrays of {shapes} for "
                        f"'last', got {got}; 'projected' takes any"
                    )
            if kind in ("projected", "mean"):
                sizes = [leaf.shape[-1] for leaf in jax.tree.leaves(given)]
                width = sum(sizes) if kind == "projected" else memory_size
                for leaf in wanted:
                    self.layers.append(
                        nnx.Linear(width, leaf.shape[-1], param_dtype=param_dtype, rngs=rngs)
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
            if self.kind == "last":
                leaves = jax.tree.leaves(_layer(encoded.state, index))
            elif self.kind != "zero":
                x = mean
                if x is None:
                    given = jax.tree.leaves(_layer(encoded.state, index))
                    x = jnp.concatenate(given, axis=-1)
                leaves = [jnp.tanh(next(layers)(x)).astype(dtype) for _ in leaves]
            states.append(jax.tree.unflatten(structure, leaves))
        return tuple(states)


def _layer(states: Any, index: int) -> Any:
    """The state of a layer, or the last one's, with both directions' features in one array."""
    state = states[min(index, len(states) - 1)]
    if not isinstance(state, Bidirectional):
        return state

    def joined(forward: Array, backward: Array) -> Array:
        return jnp.concatenate([forward, backward], axis=-1)

    return jax.tree.map(joined, state.forward, state.backward)
