"""Random masks for regularisation, which layers draw once per call and pass to the kernel."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks
from seqjax.cells._base import Role, flat_roles
from seqjax.types import Array, PRNGKey, PyTree, Shape

__all__ = [
    "Rngs",
    "dropout",
    "dropout_key",
    "training_key",
    "variational_mask",
    "zoneout_holds",
]

Rngs = nnx.Rngs | jax.Array
"""The source of randomness of a call: Flax's `nnx.Rngs`, or a random key."""


def dropout_key(rngs: Rngs | None) -> PRNGKey:
    """Return the random key for one call.

    Args:
      rngs: a random key, or `nnx.Rngs`. The key is drawn from the stream "dropout" or, if that
        stream does not exist, from the default stream.

    Raises:
      TypeError: `rngs` is neither `nnx.Rngs` nor a random key.
      ValueError: `rngs` is `nnx.Rngs` and has neither a stream "dropout" nor a default stream.

    Example:
      >>> dropout_key(jax.random.key(0)).shape
      ()
    """
    return streams(rngs, "dropout").dropout()


def training_key(active: Sequence[str], deterministic: bool, rngs: Rngs | None) -> PRNGKey | None:
    """Return the random key for one call, or None if the call needs no random numbers.

    Args:
      active: the names of the options that need random numbers in training.
      deterministic: whether the call is in evaluation mode.
      rngs: a random key, or `nnx.Rngs`.

    Raises:
      ValueError: `rngs` is None, and the call needs random numbers.

    Example:
      >>> training_key([], False, None) is None
      True
    """
    if deterministic or not active:
        return None
    if rngs is None:
        raise ValueError(
            f"rngs: expected nnx.Rngs or a random key in training with {', '.join(active)}, "
            "got None; call layer.eval() or pass deterministic=True for evaluation"
        )
    return dropout_key(rngs)


def streams(rngs: Any, stream: str) -> nnx.Rngs:
    """Return `nnx.Rngs` that have the stream named `stream` or a default stream.

    If `rngs` is a random key, the key is wrapped in `nnx.Rngs`.
    """
    if rngs is None:
        raise TypeError("rngs: expected nnx.Rngs(0) or a random key, got None")
    if not isinstance(rngs, nnx.Rngs):
        return nnx.Rngs(checks.require_key("rngs", rngs))
    if not hasattr(rngs, stream):
        raise ValueError(
            f"rngs: expected a stream {stream!r} or a default one, as in nnx.Rngs(0), got {rngs}"
        )
    return rngs


def variational_mask(key: PRNGKey, rate: float, shape: Shape, dtype: Any = jnp.float32) -> Array:
    """Draw a dropout mask.

    Each element of the mask is 0 with probability `rate`, and 1 / (1 - rate) otherwise, so that the
    expected value is 1. The caller uses the same mask at every step.

    Raises:
      TypeError, ValueError: `rate` is not a number in [0, 1). The constructors of layers check
        their rates, but an attribute such as `layer.dropout` may be set later.

    References:
      Gal, Ghahramani (2016), A theoretically grounded application of dropout in recurrent neural
      networks.

    Example:
      >>> sorted(set(variational_mask(jax.random.key(0), 0.5, (100,)).tolist()))
      [0.0, 2.0]
    """
    rate = checks.require_rate("dropout", rate)
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(kept, 1.0 / (1.0 - rate), 0.0).astype(dtype)


def dropout(key: PRNGKey, rate: float, x: Array) -> Array:
    """Apply dropout to each element independently.

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
    """Return the argument `zoneout` of `unroll`.

    In training, `zoneout` says for each step which units keep their value. In evaluation, `zoneout`
    is `rate`.

    Args:
      key: a random key in training, or None in evaluation.
      rate: the probability that a unit keeps its old value at a step.
      state: the state. The function uses only the structure and the shapes of the state.
      roles: the roles of the state's arrays, as `cell.state_roles()` returns them.
      lead: the sizes of the batch and time axes, in the layout of the sequences.
      batch_ndim: the number of batch axes of the state.

    Returns:
      A pytree with the structure of `state`. The leaves of the pytree are bool `[*lead, …]` in
      training and numbers in evaluation. An array that zoneout does not hold has the leaf None.

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
