"""Partitioning of an engine's calls over the devices of a mesh, along the batch axis.

XLA cannot look into a custom call, so it would gather the whole batch on every device. The rules of
this module say that the batch axis may stay divided over the devices, and that the devices'
gradients of parameters are summed.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend import core
from jax.sharding import NamedSharding, PartitionSpec

from seqjax.types import Array

_NEED_DEVICES: set[core.Primitive] | None
try:  # JAX tells a lowering rule the devices only if the primitive is in this set
    from jax._src.dispatch import prim_requires_devices_during_lowering as _NEED_DEVICES
except ImportError:
    _NEED_DEVICES = None

__all__ = ["AXES", "BATCH_AXIS", "divided", "needs_devices", "place"]

AXES = {
    "xs": "t b i", "h0": "b h", "c0": "b h", "w_ih": "i g", "w_hh": "h g", "b": "g", "b_hn": "h",
    "mask": "t b", "resets": "t b", "h_reset": "b h", "c_reset": "b h", "noise": "b h",
    "hold_h": "t b h", "hold_c": "t b h", "ys": "t b h", "h": "b h", "c": "b h",
    "gates": "p t b s l", "cs": "p t b l", "hs": "t b h", "zs": "t s h b", "lefts": "t s h b",
    "keys": "b n u", "values": "b n m", "positions": "b n", "w_c": "m g", "w_q": "h u", "v": "u",
    "y0": "b h", "contexts": "t b m", "weights": "t b n", "queries": "t b u",
}  # fmt: skip
"""The axes of each array.

The letters stand for time (t), batch (b), inputs (i), hidden units (h) and gates (g). The native
engine groups hidden units in panels (p). A panel has slots (s), and a slot is one SIMD vector of
several lanes (l). The engine `persistent` has one slot for each gate or each array of the state. A
decoder attends to a memory of positions (n) with features (m), by means of keys and queries (u).
"""
BATCH_AXIS = {name: axes.split().index("b") for name, axes in AXES.items() if "b" in axes.split()}
"""The batch axis of each operand and result; parameters have none."""

Run = Callable[..., list[Array]]


def needs_devices(primitive: core.Primitive) -> None:
    """Let JAX pass the devices of the program to the lowering rule of a primitive."""
    if _NEED_DEVICES is not None:
        _NEED_DEVICES.add(primitive)


def place(axis_context: Any) -> str:
    """Return whether the program of a lowering rule runs on one or on several devices.

    Args:
      axis_context: `context.module_context.axis_context` of the rule.

    Returns:
      "one" if the program runs on one device, or on each device separately as in `jax.shard_map`,
      "several" if XLA divides arrays among several devices, and "unknown" in all other cases. If
      this version of JAX does not tell the devices to a lowering rule, the result for several
      devices is "unknown", and a warning is issued.
    """
    manual = getattr(axis_context, "manual_axes", None)
    if manual is not None:
        return "one" if set(manual) == set(axis_context.mesh.axis_names) else "unknown"
    devices = getattr(axis_context, "device_assignment", None)
    if getattr(axis_context, "num_devices", None) == 1:
        return "one"
    if _NEED_DEVICES is None:
        warnings.warn(
            "this JAX has no jax._src.dispatch.prim_requires_devices_during_lowering, so programs "
            "for several devices run the kernel 'fused' in place of 'native'",
            RuntimeWarning,
            stacklevel=2,
        )
    return "several" if devices and axis_context.abstract_mesh is not None else "unknown"


def divided(run: Run, operands: Sequence[str], results: Sequence[str]) -> Run:
    """Return a function that runs a part of the batch on each device of a mesh.

    Args:
      run: a function that takes the arrays `operands` and returns the arrays `results`, for any
        size of the batch. A result without a batch axis is a sum over the batch.
      operands: the names of the arguments, which are keys of `AXES`.
      results: the names of the results, which are keys of `AXES`.

    Returns:
      A function that computes `run` for arrays that XLA may divide along the batch axis.
    """

    def partition(mesh: Any, arguments: Any, shapes: Any) -> Any:
        del shapes
        names = _batch_names(arguments[operands.index("xs")])

        def of(name: str) -> NamedSharding:
            spec: list[Any] = [None] * len(AXES[name].split())
            if name in BATCH_AXIS:
                spec[BATCH_AXIS[name]] = names
            return NamedSharding(mesh, PartitionSpec(*spec))

        def part(*arrays: Array) -> list[Array]:
            found = run(*arrays)
            if not names:
                return found
            return [
                array if name in BATCH_AXIS else jax.lax.psum(array, names)
                for name, array in zip(results, found, strict=True)
            ]

        return mesh, part, [of(name) for name in results], tuple(of(name) for name in operands)

    call = custom_partitioning(lambda *arrays: run(*arrays))
    rule = f"{_axes_of(operands)} -> {_axes_of(results)}"
    # XLA wants these axes in the order in which the rule names them.
    undivided = tuple(dict.fromkeys(axis for axis in rule if axis.isalpha() and axis != "b"))
    call.def_partition(partition, sharding_rule=rule, need_replication_factors=undivided)
    return call


def _axes_of(names: Sequence[str]) -> str:
    return ", ".join(AXES[name] for name in names)


def _batch_names(xs: Any) -> tuple[str, ...]:
    """Return the mesh axes that divide the batch of `xs` into equal parts, or an empty tuple."""
    spec = getattr(xs.sharding, "spec", ())
    entry = spec[BATCH_AXIS["xs"]] if len(spec) > BATCH_AXIS["xs"] else None
    names = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
    parts = 1
    for name in names:
        parts *= xs.sharding.mesh.shape[name]
    return names if xs.shape[BATCH_AXIS["xs"]] % parts == 0 else ()
