"""Run a stack of layers step by step: one step, or steps whose inputs come from earlier outputs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _arguments as arguments
from seqjax import checks, sequences
from seqjax.nn._per_layer import given_states
from seqjax.types import Array, PyTree, Shape, Unrolled

if TYPE_CHECKING:
    from seqjax.nn._recurrent import Recurrent

__all__ = ["fed_back", "require_one_direction", "step_of_stack"]


def require_one_direction(layer: "Recurrent") -> None:
    """Raise an error if a layer whose step is called has two directions."""
    if layer.bidirectional:
        raise ValueError(
            "step: a bidirectional layer cannot run one time step; call the layer on whole "
            "sequences instead"
        )


def step_of_stack(layer: "Recurrent", x_t: PyTree, state: Any, resets: Any) -> Unrolled:
    """Run one step as a sequence of one step; `Recurrent.step` explains the arguments."""

    def lifted(x: Array, shape: Shape) -> Array:
        if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
            raise ValueError(f"x_t: expected {arguments.in_words('...', shape)}, got {x.shape}")
        return jnp.expand_dims(x, 0 if layer.time_major else x.ndim - len(shape))

    x_t = arguments.floating_inputs(layer.cell, x_t, "x_t")
    xs = jax.tree.map(lifted, x_t, layer.cell.input_shape)
    axis = 0 if layer.time_major else len(_batch_shape(layer, x_t))
    given_states(state, layer.num_layers, False, "state")
    if resets is not None:
        resets = sequences.require_mask("resets", resets, _batch_shape(layer, x_t))
        resets = jnp.expand_dims(resets, axis)
    try:
        outputs, state = layer(xs, initial_state=state, resets=resets, deterministic=True)
    except ValueError:
        _check_batch_axes(layer, x_t, state)
        raise
    return Unrolled(jax.tree.map(lambda y: y.squeeze(axis), outputs), state)


def fed_back(
    layer: "Recurrent", x: Array, steps: int, feedback: Callable[[Array], Array], state: Any
) -> Unrolled:
    """Run steps that read earlier outputs; `Recurrent.one_to_many` explains the arguments."""
    if not callable(feedback):
        raise TypeError(f"feedback: expected a function, got {checks.brief(feedback)}")
    batch_shape = _batch_shape(layer, x)
    given = given_states(state, layer.num_layers, False)
    if any(entry is None for entry in given):
        own = layer.initial_state(batch_shape, layer.dtype or x.dtype)
        given = tuple(o if entry is None else entry for entry, o in zip(given, own, strict=True))
    # The carry of the loop has the structure, the batch axes and the dtypes of the next state.
    like = jax.eval_shape(lambda: layer.step(x, given).state)
    leaves = [
        jnp.broadcast_to(jnp.asarray(leaf), to.shape).astype(to.dtype)
        for leaf, to in zip(jax.tree.leaves(given), jax.tree.leaves(like), strict=True)
    ]
    state = jax.tree.unflatten(jax.tree.structure(like), leaves)

    def one(carry: Any, _: None) -> Any:
        x_t, state = carry
        output, state = layer.step(x_t, state)
        following = feedback(output)
        if np.shape(following) != x_t.shape:
            raise ValueError(
                f"feedback: expected a function that returns an input of shape {x_t.shape}, "
                f"got {checks.brief(following)}"
            )
        return (following.astype(x_t.dtype), state), output

    (_, state), outputs = jax.lax.scan(one, (x, state), length=steps)
    if not layer.time_major:
        outputs = sequences.to_batch_major(outputs, len(batch_shape))
    return Unrolled(outputs, state)


def _check_batch_axes(layer: "Recurrent", x_t: PyTree, state: Any) -> None:
    """Raise an error if a step's input and the state have different batch axes."""
    own = layer.initial_state(())
    if state is None or not arguments.same_structure(state, own):
        return
    found = {
        np.shape(leaf)[: np.ndim(leaf) - like.ndim]
        for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(own), strict=True)
    }
    expected, batch_shape = found.pop(), _batch_shape(layer, x_t)
    if found or expected in ((), batch_shape):
        return
    hint = "; call the layer to run whole sequences" if len(batch_shape) > len(expected) else ""
    raise ValueError(
        f"x_t: expected the batch shape of the state, {expected}, got {batch_shape} in "
        f"{checks.brief(x_t)}{hint}"
    )


def _batch_shape(layer: "Recurrent", x_t: PyTree) -> Shape:
    """Return the batch axes of one step's input."""
    ranks = jax.tree.map(lambda x, shape: np.ndim(x) - len(shape), x_t, layer.cell.input_shape)
    return np.shape(jax.tree.leaves(x_t)[0])[: jax.tree.leaves(ranks)[0]]
