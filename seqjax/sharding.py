"""A batch over several devices: place its arrays, and what is compiled for them runs on all.

    seqjax.sharding.use_cpu_devices(2)          # CPUs only: before anything is computed
    params = seqjax.sharding.replicate(params)
    batch = seqjax.sharding.shard_batch(batch)
    gradient = jax.jit(jax.grad(loss))(params, batch)

Each device runs the whole time loop on its part of the batch, and parts meet once, in the sums of
the weight gradients. On a CPU that is often faster than threads inside each small product, which
wait for each other at every step.
"""

import functools
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqjax import checks
from seqjax.types import PyTree

__all__ = ["batch_mesh", "replicate", "shard_batch", "use_cpu_devices"]


def use_cpu_devices(count: int | None = None) -> int:
    """Lets JAX divide the CPU into devices. Call it before the first computation.

    Args:
      count: how many; one for each core that this process may use, if not given.

    Returns:
      The count.

    Raises:
      TypeError, ValueError: not a positive integer.
      RuntimeError: JAX has started with another number of devices.

    Example:
      >>> use_cpu_devices(len(jax.devices("cpu"))) == len(jax.devices("cpu"))
      True
    """
    if count is None:
        affinity = getattr(os, "sched_getaffinity", None)  # not on every system
        count = len(affinity(0)) if affinity else os.cpu_count() or 1
    count = checks.require_integer("count", count)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        have = len(jax.devices("cpu"))
        if have != count:
            raise RuntimeError(
                f"count: expected {have}, the number of CPU devices that JAX has started with, got "
                f"{count}; call use_cpu_devices before anything is computed"
            ) from None
    return count


def batch_mesh(devices: int | None = None) -> Mesh:
    """The first devices in a row, along an axis named "batch".

    Args:
      devices: how many; all that JAX has if not given.

    Raises:
      TypeError, ValueError: not a positive integer, or more than there are.

    Example:
      >>> batch_mesh(1).axis_names, batch_mesh(1).size
      (('batch',), 1)
    """
    have = jax.device_count()
    count = have if devices is None else checks.require_integer("devices", devices)
    if count > have:
        hint = "; see use_cpu_devices" if jax.default_backend() == "cpu" else ""
        raise ValueError(f"devices: expected at most {have}, which JAX has, got {count}{hint}")
    return _mesh(count)


@functools.cache
def _mesh(count: int) -> Mesh:
    return jax.make_mesh(
        (count,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )


def shard_batch(tree: PyTree, devices: int | None = None, *, axis: int = 0) -> PyTree:
    """Divides arrays over devices along their batch axis.

    Args:
      tree: a pytree of arrays. Those without that axis (scalars, keys), and those whose size along
        it the number of devices does not divide, are copied to each device: the result is the same,
        and not faster.
      devices: how many; all that JAX has if not given.
      axis: where the batch axis is: 1 for time-major sequences.

    Returns:
      The arrays, placed.

    Raises:
      TypeError, ValueError: as `batch_mesh`; leaves that are no arrays; an axis that is not an
        integer of at least 0.

    Example:
      >>> import jax.numpy as jnp
      >>> batch = shard_batch({"x": jnp.zeros([4, 7, 3]), "lengths": jnp.array([7, 5, 7, 2])})
      >>> batch["x"].shape
      (4, 7, 3)
    """
    mesh = batch_mesh(devices)
    axis = checks.require_integer("axis", axis, least=0)

    def place(leaf: Any) -> jax.Array:
        _require_leaf(leaf)
        shape = np.shape(leaf)
        divides = len(shape) > axis and shape[axis] % mesh.size == 0
        spec = PartitionSpec(*[None] * axis, "batch") if divides else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def replicate(tree: PyTree, devices: int | None = None) -> PyTree:
    """Copies arrays to every device: parameters, states of optimisers, Flax modules.

    Args:
      tree: a pytree of arrays.
      devices: how many; all that JAX has if not given.

    Returns:
      The arrays, placed.

    Raises:
      TypeError, ValueError: as `batch_mesh`; leaves that are no arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> replicate(jnp.ones([2]), 1).sharding.is_fully_replicated
      True
    """
    mesh = batch_mesh(devices)
    for leaf in jax.tree.leaves(tree):
        _require_leaf(leaf)
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def _require_leaf(leaf: Any) -> None:
    """Raises for what is no array of numbers, truth values or random keys."""
    if isinstance(leaf, jax.Array):
        return
    dtype = np.asarray(leaf).dtype
    if dtype.kind in "OUSMm":
        raise TypeError(f"tree: expected arrays of numbers, got {checks.brief(leaf)} of {dtype}")
