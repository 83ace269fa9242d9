"""Data parallelism: functions that divide a batch over several devices.

    seqjax.sharding.use_cpu_devices(2)          # only on CPUs, before anything is computed
    params = seqjax.sharding.replicate(params)
    batch = seqjax.sharding.shard_batch(batch)
    gradient = jax.jit(jax.grad(loss))(params, batch)

A function that is compiled for divided arrays runs on all devices. Each device runs the whole time
loop on its part of the batch. The devices communicate only once, to sum the weight gradients.
On a CPU, several devices are often faster than several threads, because threads share each small
product and wait for each other at every step.

The devices may belong to several processes, on one machine or on many. Each process first calls
`use_processes`. Then all processes run the same program with the same batches, and each process
keeps only the rows of the batches for its own devices. `process_rows` returns these rows, so that a
process need not read the others.
"""

import functools
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqjax import checks
from seqjax._machine import cores
from seqjax.types import PyTree

__all__ = [
    "batch_mesh",
    "process_rows",
    "replicate",
    "shard_batch",
    "use_cpu_devices",
    "use_processes",
]


def use_cpu_devices(count: int | None = None) -> int:
    """Make JAX divide the CPU into several devices. Call this function before any computation.

    Args:
      count: the number of devices. By default, there is one device for each core that this process
        may use.

    Returns:
      The number of devices.

    Raises:
      TypeError, ValueError: `count` is not a positive integer.
      RuntimeError: JAX has already started with another number of devices.

    Example:
      >>> use_cpu_devices(len(jax.devices("cpu"))) == len(jax.devices("cpu"))
      True
    """
    if count is None:
        count = cores()
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


def use_processes(where: str = "auto", *, cpu_devices: int = 1, timeout: int = 30) -> int:
    """Connect this process to others with `jax.distributed`, before the first computation.

    If one of the processes is killed, JAX ends the others after about `timeout` seconds.

    Args:
      where: "INDEX/COUNT@HOST:PORT", such as "0/2@localhost:5123". INDEX is the index of this
        process, COUNT is the number of processes, and HOST:PORT is the address of process 0. On a
        cluster that JAX can detect (Slurm, Open MPI, Kubernetes, Cloud TPU), use "auto".
      cpu_devices: the number of devices into which this process divides its CPU.
      timeout: the number of seconds without a sign of life after which a process counts as dead.

    Returns:
      The number of processes.

    Raises:
      TypeError, ValueError: `cpu_devices` or `timeout` is not a positive integer, or `where` is
        neither "auto" nor of the form "INDEX/COUNT@HOST:PORT".
      RuntimeError: JAX has already started, or the other processes cannot be reached.

    Example:
      >>> use_processes("2/2@localhost:5123")
      Traceback (most recent call last):
      ValueError: where: expected INDEX/COUNT@HOST:PORT with INDEX < COUNT, got '2/2@localhost:5123'
    """
    place: dict[str, Any] = {}
    if where != "auto":
        found = re.fullmatch(r"(\d+)/(\d+)@(.+:\d+)", where) if isinstance(where, str) else None
        if found is None or int(found[1]) >= int(found[2]):
            raise ValueError(
                f"where: expected INDEX/COUNT@HOST:PORT with INDEX < COUNT, got {where!r}"
            )
        place = {
            "coordinator_address": found[3],
            "num_processes": int(found[2]),
            "process_id": int(found[1]),
        }
    timeout = checks.require_integer("timeout", timeout)
    use_cpu_devices(cpu_devices)
    jax.distributed.initialize(**place, heartbeat_timeout_seconds=timeout)
    return int(jax.process_count())


def batch_mesh(devices: int | None = None) -> Mesh:
    """Return a mesh of the first devices, with one axis named "batch".

    Args:
      devices: the number of devices. By default, the mesh has all devices of all processes.

    Raises:
      TypeError, ValueError: `devices` is not a positive integer, is greater than the number of
        devices, or is so small that one of the processes would have no device.

    Example:
      >>> batch_mesh(1).axis_names, batch_mesh(1).size
      (('batch',), 1)
    """
    have = jax.device_count()
    count = have if devices is None else checks.require_integer("devices", devices)
    if count > have:
        hint = "; see use_cpu_devices" if jax.default_backend() == "cpu" else ""
        raise ValueError(
            f"devices: expected at most {have}, the number of devices, got {count}{hint}"
        )
    mesh = _mesh(count)
    processes = {device.process_index for device in mesh.devices.flat}
    if jax.process_count() > 1 and count > 1 and len(processes) < jax.process_count():
        raise ValueError(
            f"devices: expected all {have} devices of {jax.process_count()} processes, got {count}"
        )
    return mesh


@functools.cache
def _mesh(count: int) -> Mesh:
    return jax.make_mesh(
        (count,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )


def shard_batch(tree: PyTree, devices: int | None = None, *, axis: int = 0) -> PyTree:
    """Divide arrays over devices along their batch axis.

    Args:
      tree: a pytree of arrays. An array is copied to each device if it has no batch axis (such as a
        scalar or a random key), or if the size of that axis is not a multiple of the number of
        devices. Copied arrays give the same results, but the computation is not faster.
      devices: the number of devices. The default is all devices.
      axis: the position of the batch axis. Use 1 for time-major sequences.

    Returns:
      The arrays on the devices.

    Raises:
      TypeError, ValueError: `devices` is not valid for `batch_mesh`, a leaf of the tree is not an
        array, or `axis` is not an integer of at least 0.

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


def process_rows(batch_size: int, devices: int | None = None) -> tuple[int, ...]:
    """Return the rows of a batch that `shard_batch` puts onto the devices of this process.

    If `batch_size` is not a multiple of the number of devices, `shard_batch` copies the batch to
    each device, so all rows are returned.

    Args:
      batch_size: the number of rows of a batch.
      devices: the number of devices. The default is all devices of all processes.

    Returns:
      The rows in increasing order, counted from 0.

    Raises:
      TypeError, ValueError: `batch_size` is not a positive integer, or `devices` is not valid for
        `batch_mesh`.

    Example:
      >>> process_rows(4, 1)  # the only process has all rows
      (0, 1, 2, 3)
    """
    batch_size, mesh = checks.require_integer("batch_size", batch_size), batch_mesh(devices)
    if batch_size % mesh.size:
        return tuple(range(batch_size))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    return tuple(sorted(row for part in parts if part for row in range(batch_size)[part[0]]))


def replicate(tree: PyTree, devices: int | None = None) -> PyTree:
    """Copy arrays to every device.

    Args:
      tree: a pytree of arrays, such as parameters, the state of an optimiser or a Flax module.
      devices: the number of devices. The default is all devices.

    Returns:
      The arrays on the devices.

    Raises:
      TypeError, ValueError: `devices` is not valid for `batch_mesh`, or a leaf of the tree is not
        an array.

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
    """Return the values of an array, after gathering them if they are divided among processes."""
    if _is_divided(x):
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def whole(own: Any, placed: Any) -> Any:
    """Return the values of `placed` if it is divided among processes, and otherwise `own`."""
    return to_host(placed) if _is_divided(placed) else own


def _is_divided(x: Any) -> bool:
    return isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)


def to_one_device(tree: PyTree) -> PyTree:
    """Move replicated arrays of JAX to the first device of this process."""
    device = jax.local_devices()[0]

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        own = leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
        return jax.device_put(own, device)

    return jax.tree.map(one, tree)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Place an array on the devices of this process. Other processes do so for their devices."""
    if sharding.is_fully_addressable or (isinstance(leaf, jax.Array) and leaf.sharding == sharding):
        placed: jax.Array = jax.device_put(leaf, sharding)
        return placed
    if checks.is_key(leaf):
        data = _put(jax.random.key_data(leaf), sharding)
        keys: jax.Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return keys
    values = to_host(leaf)
    return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)


def _require_leaf(leaf: Any) -> None:
    """Raise if a leaf is not an array of numbers, bools or random keys."""
    if isinstance(leaf, jax.Array):
        return
    checks.require_unmasked("tree", leaf)
    dtype = np.asarray(leaf).dtype
    if dtype.kind in "OUSMm":
        raise TypeError(f"tree: expected arrays of numbers, got {checks.brief(leaf)} of {dtype}")
