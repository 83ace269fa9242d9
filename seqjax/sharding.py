"""A batch over several devices: place its arrays, and what is compiled for them runs on all.

    seqjax.sharding.use_cpu_devices(2)          # CPUs only: before anything is computed
    params = seqjax.sharding.replicate(params)
    batch = seqjax.sharding.shard_batch(batch)
    gradient = jax.jit(jax.grad(loss))(params, batch)

Each device runs the whole time loop on its part of the batch, and parts meet once, in the sums of
the weight gradients. On a CPU that is often faster than threads inside each small product, which
wait for each other at every step.

Devices may belong to several processes, on one machine or many: each calls `use_processes` first
and then does the same as the others, with the same batches; it keeps the parts of its own devices.
"""

import functools
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqjax import checks
from seqjax.types import PyTree

__all__ = ["batch_mesh", "replicate", "shard_batch", "use_cpu_devices", "use_processes"]


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


def use_processes(where: str = "auto", *, cpu_devices: int = 1) -> int:
    """Joins this process to others, by `jax.distributed`. Call it before anything is computed.

    Args:
      where: "INDEX/COUNT@HOST:PORT": which process this is, of how many, and the address of process
        0, such as "0/2@localhost:5123"; or "auto" on a cluster that JAX knows (Slurm, Open MPI,
        Kubernetes, Cloud TPU).
      cpu_devices: into how many devices this process divides its CPU.

    Returns:
      How many processes there are.

    Raises:
      TypeError, ValueError: no positive integer; an address that cannot be read as one.
      RuntimeError: JAX has started already, or the others cannot be reached.

    Example:
      >>> use_processes("2/2@localhost:5123")
      Traceback (most recent call last):
      ValueError: where: expected INDEX/COUNT@HOST:PORT with INDEX < COUNT, got '2/2@localhost:5123'
    """
    place: tuple[Any, ...] = ()
    if where != "auto":
        found = re.fullmatch(r"(\d+)/(\d+)@(.+:\d+)", where) if isinstance(where, str) else None
        if found is None or int(found[1]) >= int(found[2]):
            raise ValueError(
                f"where: expected INDEX/COUNT@HOST:PORT with INDEX < COUNT, got {where!r}"
            )
        place = found[3], int(found[2]), int(found[1])
    use_cpu_devices(cpu_devices)
    jax.distributed.initialize(*place)
    return int(jax.process_count())


def batch_mesh(devices: int | None = None) -> Mesh:
    """The first devices in a row, along an axis named "batch".

    Args:
      devices: how many; all that JAX has, in all processes, if not given.

    Raises:
      TypeError, ValueError: not a positive integer, more than there are, or so few that a process
        would have none.

    Example:
      >>> batch_mesh(1).axis_names, batch_mesh(1).size
      (('batch',), 1)
    """
    have = jax.device_count()
    count = have if devices is None else checks.require_integer("devices", devices)
    if count > have:
        hint = "; see use_cpu_devices" if jax.default_backend() == "cpu" else ""
        raise ValueError(f"devices: expected at most {have}, which JAX has, got {count}{hint}")
    mesh = _mesh(count)
    processes = {device.process_index for device in mesh.devices.flat}
    if jax.process_count() > 1 and count > 1 and len(processes) < jax.process_count():
        raise ValueError(
            f"devices: expected all {have}, those of {jax.process_count()} processes, got {count}"
        )
    return mesh


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
        return _put(leaf, NamedSharding(mesh, spec))

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
    return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def to_host(x: Any) -> np.ndarray:
    """An array's values, gathered from all processes if they are divided among them."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array on the devices; of those of other processes, only what they need is theirs to do."""
    if sharding.is_fully_addressable or (isinstance(leaf, jax.Array) and leaf.sharding == sharding):
        placed: jax.Array = jax.device_put(leaf, sharding)
        return placed
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), sharding)
        keys: jax.Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return keys
    values = to_host(leaf)
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def _require_leaf(leaf: Any) -> None:
    """Raises for what is no array of numbers, truth values or random keys."""
    if isinstance(leaf, jax.Array):
        return
    checks.require_unmasked("tree", leaf)
    dtype = np.asarray(leaf).dtype
    if dtype.kind in "OUSMm":
        raise TypeError(f"tree: expected arrays of numbers, got {checks.brief(leaf)} of {dtype}")
