"""Check `params` and `initial_state` of a stack, which have one entry per layer, and split them."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.nn._layer import Bidirectional

__all__ = ["given_params", "given_states"]


def given_params(params: Any, num_layers: int, bidirectional: bool) -> list[tuple[Any, Any]]:
    """Return the pair of a forward and a backward entry of `params` for each layer."""
    if params is None:
        return [(None, None)] * num_layers
    if type(params) not in (list, tuple) or len(params) != num_layers:
        raise ValueError(
            f"params: expected a list of {num_layers} entries, one per layer, got "
            f"{checks.brief(params)}"
        )
    if not bidirectional:
        return [(entry, None) for entry in params]
    for entry in params:
        if type(entry) not in (Bidirectional, tuple, list) or len(entry) != 2:
            raise ValueError(
                "params: expected Bidirectional(forward, backward) for each layer, got "
                f"{checks.brief(entry)}"
            )
    return [(forward, backward) for forward, backward in params]


def given_states(
    initial_state: Any, num_layers: int, bidirectional: bool, name: str = "initial_state"
) -> tuple[Any, ...]:
    """Return the entry of `initial_state`, an argument with a name, for each layer.

    If an entry is None, the layer starts from its own initial state.
    """
    if initial_state is None:
        return (None,) * num_layers
    if type(initial_state) not in (tuple, list) or len(initial_state) != num_layers:
        raise ValueError(
            f"{name}: expected a tuple of {num_layers} states, one per layer, "
            f"got {jax.tree.map(jnp.shape, initial_state)}; "
            "seqjax.interop.pytorch.load_state converts PyTorch's (h, c)"
        )
    for state in initial_state:
        if state is None or not bidirectional:
            continue
        if type(state) not in (Bidirectional, tuple, list) or len(state) != 2:
            raise ValueError(
                f"{name}: expected Bidirectional(forward, backward) for each layer, "
                f"got {jax.tree.map(jnp.shape, state)}"
            )
    return tuple(initial_state)
