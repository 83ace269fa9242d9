"""The state of a training run, and conversions between it and a Flax NNX module.

A module consists of a static graph definition and a pytree of arrays. The arrays are in a
`TrainState`. A step closes over the graph definition.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seqjax.training._extra_args import init, with_extra_args
from seqjax.types import Array, PyTree

__all__ = ["TrainState", "graphdef_of", "init_state", "state_to_model"]


class TrainState(NamedTuple):
    """The state of a training run, a pytree of arrays. Each step returns a new state.

    Attributes:
      params: the values of the model's `nnx.Param` variables, an `nnx.State` of arrays.
      model_state: the values of the model's other variables (`nnx.BatchStat`, random streams, …).
      opt_state: the optimiser's state.
      step: int32 scalar, the number of steps done, including skipped steps.
    """

    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    step: Array


def init_state(model: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state at step 0: a copy of the model's arrays and a fresh optimiser state.

    Args:
      model: a Flax NNX module, which is not changed and shares no arrays with the state.
      optimizer: any optax transformation.

    Returns:
      The `TrainState`.

    Raises:
      TypeError: `model` is not an `nnx.Module`, or `optimizer` is not an optax transformation.
      ValueError: `model` has no `nnx.Param`.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> from seqjax import training
      >>> state = training.init_state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), optax.sgd(0.1))
      >>> state.params["kernel"].shape, int(state.step)
      ((3, 2), 0)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model: expected a flax.nnx.Module, got {type(model).__name__}")
    _, *states = nnx.split(model, nnx.Param, ...)
    # The arrays are copied, because a step that donates its state deletes the arrays of the state.
    params, model_state = (jax.tree.map(jnp.copy, nnx.as_pure(part)) for part in states)
    if not jax.tree.leaves(params):
        raise ValueError(
            f"model: expected a module with at least one nnx.Param, got {type(model).__name__} "
            "without any"
        )
    # Some optimisers store the parameters themselves, but an array can be donated only once.
    opt_state = jax.tree.map(jnp.copy, init(with_extra_args(optimizer), params, states[0]))
    return TrainState(params, model_state, opt_state, jnp.zeros([], jnp.int32))


def state_to_model(model: nnx.Module | nnx.GraphDef[Any], state: TrainState) -> Any:
    """Return a new module with the values of a state and the mode (train or eval) of `model`.

    Args:
      model: the module from which the state was made, or its graph definition.
      state: a `TrainState`.

    Returns:
      An `nnx.Module` of the same class.

    Example:
      >>> import jax, optax
      >>> from flax import nnx
      >>> from seqjax import training
      >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      >>> state = training.init_state(model, optax.sgd(0.1))
      >>> doubled = state._replace(params=jax.tree.map(lambda p: 2 * p, state.params))
      >>> trained = training.state_to_model(model, doubled)
      >>> bool((trained.kernel[...] == 2 * model.kernel[...]).all())
      True
    """
    return nnx.merge(graphdef_of(model), state.params, state.model_state)


def changed_state(module: nnx.Module, state: TrainState) -> PyTree:
    """Return the `model_state` of a module that was made from `state` and has then been called.

    Raises:
      ValueError: the call added or removed variables.
    """
    model_state = nnx.as_pure(nnx.state(module, nnx.Not(nnx.Param)))
    before: Any = jax.tree.structure(state.model_state)
    if before != jax.tree.structure(model_state):
        raise ValueError(
            "model: expected a module that keeps the structure of its state, got one whose "
            "call added or removed variables; record intermediates with nnx.capture, not with sow "
            "alone"
        )
    return model_state


def graphdef_of(model: nnx.Module | nnx.GraphDef[Any]) -> nnx.GraphDef[Any]:
    """Return the static part of a module, its graph definition.

    Raises:
      TypeError: `model` is neither a module nor a graph definition.

    Example:
      >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      >>> graphdef_of(model) == graphdef_of(graphdef_of(model)) == nnx.graphdef(model)
      True
    """
    if isinstance(model, nnx.GraphDef):
        return model
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model: expected a flax.nnx.Module or its GraphDef, got {type(model).__name__}"
        )
    return nnx.graphdef(model)
