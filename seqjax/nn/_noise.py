"""The random masks of regularisation: drawn once a call, then constants to the kernels."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks
from seqjax.cells._base import Role, flat_roles
from seqjax.types import Array, PRNGKey, PyTree, Shape

__all__ = ["Rngs", "dropout", "dropout_key", "variational_mask", "zoneout_holds"]

Rngs = nnx.Rngs | jax.Array
"""Where a layer takes randomness from in a call: Flax's `nnx.Rngs`, or a plain random key."""


def dropout_key(rngs: Rngs | None) -> PRNGKey:
    """The key for one call: from the stream "dropout" of `nnx.Rngs` (or its default), or as given.

    Raises:
      TypeError: neither.

    Example:
      >>> dropout_key(jax.random.key(0)).shape
      ()
    """
    return streams(rngs, "dropout").dropout()


def streams(rngs: Any, stream: str) -> nnx.Rngs:
    """`nnx.Rngs` with a certain stream, itself or by default; of a plain key, made here."""
    if not isinstance(rngs, nnx.Rngs):
        return nnx.Rngs(checks.require_key("rngs", rngs))
    if not hasattr(rngs, stream):
        raise ValueError(
            f"rngs: expected a stream {stream!r} or a default one, as in nnx.Rngs(0), got {rngs}"
        )
    return rngs


def variational_mask(key: PRNGKey, rate: float, shape: Shape, dtype: Any = jnp.float32) -> Array:
    """A dropout mask, 0 with probability `rate` and 1 / (1 - rate) otherwise: mean one.

    References:
      Gal, Ghahramani (2016), A theoretically grounded application of dropout in recurrent neural
      networks: the same mask at every step.

    Example:
      >>> sorted(set(variational_mask(jax.random.key(0), 0.5, (100,)).tolist()))
      [0.0, 2.0]
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(kept, 1.0 / (1.0 - rate), 0.0).astype(dtype)


def dropout(key: PRNGKey, rate: float, x: Array) -> Array:
    """Plain dropout, each element on its own.

    References:
      Srivastava et al. (2014), Dropout: a simple way to prevent neural networks from overfitting.

    Example:
      >>> dropout(jax.random.key(0), 0.0, jnp.ones([2])).tolist()
      [1.0, 1.0]
    """
    return x * variational_mask(key, rate, x.shape, x.dtype)


def zoneout_holds(
    key: PRNGKey | None, rate: float, state: PyTree, roles: PyTree, lead: Shape, batch_ndim: int
) -> PyTree:
    """Return what `unroll(zoneout=…)` takes: random held units in training, else the rate.

    Args:
      key: a random key, or None for evaluation.
      rate: the probability that a unit keeps its old value at a step.
      state: the state, for its structure and shapes.
      roles: as from `cell.state_roles()`.
      lead: the batch and time axes in their layout.
      batch_ndim: how many batch axes the state has.

    Returns:
      A pytree like `state`: bool `[*lead, …]`, or numbers; None for what is not held.

    References:
      Krueger et al. (2017), Zoneout: regularizing RNNs by randomly preserving hidden activations.

    Example:
      >>> from seqjax.cells import GRU
      >>> zoneout_holds(None, 0.1, jnp.zeros([2, 5]), GRU(3, 5).state_roles(), (2, 7), 1)
      0.1
    """
    leaves, structure = jax.tree.flatten(state)
    keys = [None] * len(leaves) if key is None else jax.random.split(key, len(leaves))

    def one(key: PRNGKey | None, leaf: Array, role: Role) -> Array | float | None:
        if not role.held:
            return None
        if key is None:
            return rate
        return jax.random.bernoulli(key, rate, (*lead, *leaf.shape[batch_ndim:]))

    return jax.tree.unflatten(structure, map(one, keys, leaves, flat_roles(roles)))
