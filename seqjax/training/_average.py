"""A running average of the weights, kept in the state of the optimiser."""

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
    """Updates so far, and the mean of the parameters, in float32 at least."""

    updates: Array
    params: PyTree


def averaging(decay: float) -> optax.GradientTransformation:
    """Return a transformation, the last of a chain, that averages parameters and passes updates on.

        θ̄ ← θ̄ + (1 - min(β, n / (n + 1))) (θ - θ̄)      after update n = 0, 1, …

    Args:
      decay: β, in (0, 1).

    Raises:
      TypeError, ValueError: not a number in that range.

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
    """Return the state with averaged weights, if its optimiser keeps an average.

    The averages are those of `optimizer(average=…)` and of `optax.contrib.schedule_free`.

    Args:
      state: a `TrainState`; one whose optimiser keeps no average comes back as it is.

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
    """Return a copy, in float32 or wider."""
    return jnp.array(x, accumulator_dtype(x.dtype), copy=True)
