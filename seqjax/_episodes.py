"""Conversion between the `done` flags of environments and the resets of a state."""

from typing import Any

import jax.numpy as jnp

from seqjax import checks
from seqjax.types import Array

__all__ = ["dones_from_resets", "resets_from_dones"]


def resets_from_dones(dones: Any, last_dones: Any, *, time_major: bool = False) -> Array:
    """Return the resets of a rollout, from the `done` flags of its steps.

        resets_0 = last_dones        resets_t = dones_{t-1}

    An environment that resets itself returns the `done` flag of step t together with the first
    observation of the next episode, which is the observation of step t + 1:

        step          0      1      2      3      4
        observation   a      b      c      A      B       an episode a b c, and one A B …
        dones         False  False  True   False  False
        resets        True   False  False  True   False   with last_dones True

    Args:
      dones: bool `[..., T]`, or `[T, ...]` if `time_major`. True if the episode ended with this
        step, by termination or by truncation.
      last_dones: bool `[...]`, the `done` flags of the step before the rollout, or one value for
        all environments. If the rollout begins with new episodes, pass True. If it continues the
        previous rollout, pass the `done` flags of the last step of that rollout.
      time_major: whether the time axis is the first one.

    Returns:
      bool, shaped like `dones`: True if the observation of the step is the first of its episode.

    Raises:
      TypeError: `dones` or `last_dones` is not boolean.
      ValueError: `dones` has no step, or `last_dones` does not have the shape of one step.

    Example:
      >>> dones = jnp.array([[False, False, True, False, False]])
      >>> resets_from_dones(dones, True).astype(int).tolist()
      [[1, 0, 0, 1, 0]]
    """
    dones, last = _checked("dones", dones, "last_dones", last_dones, time_major)
    return jnp.concatenate([last, dones[:-1] if time_major else dones[..., :-1]], _axis(time_major))


def dones_from_resets(resets: Any, next_resets: Any, *, time_major: bool = False) -> Array:
    """Return the `done` flags of a rollout, from its resets: the inverse of `resets_from_dones`.

        dones_{T-1} = next_resets        dones_t = resets_{t+1}

    Args:
      resets: bool `[..., T]`, or `[T, ...]` if `time_major`. True if the observation of the step is
        the first of its episode.
      next_resets: bool `[...]`, the resets of the step after the rollout, or one value for all
        environments.
      time_major: whether the time axis is the first one.

    Returns:
      bool, shaped like `resets`.

    Raises:
      TypeError: `resets` or `next_resets` is not boolean.
      ValueError: `resets` has no step, or `next_resets` does not have the shape of one step.

    Example:
      >>> resets = jnp.array([[True, False, False, True, False]])
      >>> dones_from_resets(resets, False).astype(int).tolist()
      [[0, 0, 1, 0, 0]]
    """
    resets, following = _checked("resets", resets, "next_resets", next_resets, time_major)
    rest = resets[1:] if time_major else resets[..., 1:]
    return jnp.concatenate([rest, following], _axis(time_major))


def _axis(time_major: bool) -> int:
    return 0 if time_major else -1


def _checked(
    name: str, flags: Any, outer_name: str, outer: Any, time_major: Any
) -> tuple[Array, Array]:
    """Check the flags of a rollout and of the outer step. Return both, the latter with a time axis.

    The outer step is the step before or after the rollout.
    """
    time_major = checks.require_bool("time_major", time_major)
    flags = checks.require_array(name, flags, jnp.bool_, "bool")
    if not flags.ndim or not flags.shape[_axis(time_major)]:
        layout = "[T, ...]" if time_major else "[..., T]"
        raise ValueError(f"{name}: expected {layout} with at least one step, got {flags.shape}")
    outer = checks.require_array(outer_name, outer, jnp.bool_, "bool")
    shape = flags.shape[1:] if time_major else flags.shape[:-1]
    if outer.shape not in ((), shape):
        raise ValueError(f"{outer_name}: expected shape {shape} or one value, got {outer.shape}")
    return flags, jnp.expand_dims(jnp.broadcast_to(outer, shape), _axis(time_major))
