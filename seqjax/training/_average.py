"""A running average of the weights, stored in the state of the optimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import nnx

from seqjax import checks
from seqjax.cells.ops import accumulator_dtype
from seqjax.training._state import TrainState
from seqjax.types import Array, PyTree

__all__ = ["averaged", "averaging"]


class _Average(NamedTuple):
    """The number of updates so far, and the averaged parameters in float32 or wider."""

    updates: Array
    params: PyTree


def averaging(decay: float) -> optax.GradientTransformation:
    """Return a transformation that averages the parameters and does not change the updates.

        θ̄ ← θ̄ + (1 - min(β, n / (n + 1))) (θ - θ̄)      after update n = 0, 1, …

    The transformation must be the last one of an `optax.chain`. To get the new parameters, it adds
    the updates to the old parameters, so no later transformation may change the updates. Use
    `averaged` to read the averages.

    Args:
      decay: the decay β of the average, in (0, 1).

    Raises:
      TypeError, ValueError: decay is not a number in (0, 1).

    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), averaging(0.9))
      >>> params = {"w": jnp.array(0.0)}
      >>> state = optimizer.init(params)
      >>> for gradient in (-1.0, -2.0):
      ...     updates, state = optimizer.update({"w": jnp.array(gradient)}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> float(params["w"]), float(state[1].params["w"])  # 3, and the mean of 1 and 3
      (3.0, 2.0)
    """
    if not 0.0 < checks.require_number("average", decay) < 1.0:
        raise ValueError(f"average: expected a number between 0 and 1, got {decay}")

    def init(params: PyTree) -> _Average:
        return _Average(jnp.zeros([], jnp.int32), jax.tree.map(_wide, params))

    def update(updates: PyTree, state: _Average, params: Any = None) -> tuple[PyTree, _Average]:
        keep = jnp.minimum(decay, state.updates / (state.updates + 1))

        def one(mean: Array, new: Array) -> Array:
            return mean + ((1 - keep) * (_wide(new) - mean)).astype(mean.dtype)

        mean = jax.tree.map(one, state.params, optax.apply_updates(params, updates))
        return updates, _Average(state.updates + 1, mean)

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> TrainState:
    """Return a training state whose parameters are the optimiser's averaged weights.

    Optimisers made by `optimizer(average=…)` or `optax.contrib.schedule_free` average the weights.
    For any other optimiser, the state is returned unchanged.

    Args:
      state: a `TrainState`.

    Example:
      >>> from flax import nnx
      >>> from seqjax import training
      >>> optimizer = training.optimizer(0.1, average=0.999)
      >>> state = training.init_state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), optimizer)
      >>> bool((averaged(state).params["kernel"] == state.params["kernel"]).all())
      True
    """
    kinds = (_Average, optax.contrib.ScheduleFreeState)
    for node in jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, kinds)):
        if isinstance(node, _Average):
            params = jax.tree.map(
                lambda new, old: new.astype(old.dtype), nnx.as_pure(node.params), state.params
            )
            return state._replace(params=params)
        if isinstance(node, optax.contrib.ScheduleFreeState):
            node = jax.tree.map(nnx.as_pure, node, is_leaf=lambda part: isinstance(part, nnx.State))
            params = optax.contrib.schedule_free_eval_params(node, state.params)
            return state._replace(params=params)
    return state


def _wide(x: Array) -> Array:
    """Return a copy of an array in float32 or wider."""
    return jnp.array(x, accumulator_dtype(x.dtype), copy=True)
