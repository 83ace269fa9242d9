"""Code shared by all JAX contestants: it compiles and differentiates their networks.

A contestant's `from_common` converts weights from the layout that all contestants share to its own.
The transpose of `from_common`, which `jax.vjp` computes, converts the gradients to the common
layout, so no inverse of `from_common` is written.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers.base import Gradients, Peer, Prepared, Stepper, Trainer
from benchmarks.peers.jax_network import Recurrence, Step
from benchmarks.peers.jax_training import JaxTrainer
from benchmarks.tasks import Task
from benchmarks.workload import Structure, Workload

__all__ = ["JaxPeer", "JaxPrepared"]


class JaxPeer(Peer):
    """Base of the JAX contestants."""

    @abc.abstractmethod
    def recurrence(self, structure: Structure, *, lengths: bool) -> Recurrence | str:
        """Return the network for a structure, or the reason why the contestant lacks it."""

    def single_step(self, structure: Structure) -> Step | str:
        """Return one step of the structure's cell, or the reason why the contestant lacks it."""
        del structure
        return "no streaming contestant"

    def softmax_loss(
        self, outputs: jax.Array, w_out: jax.Array, b_out: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Return the mean cross-entropy of a softmax over `outputs @ w_out + b_out`."""
        logits = outputs @ w_out + b_out
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def obstacle(self, batch: int) -> str | None:
        """Return why a batch of this size cannot be run, or None."""
        del batch
        return None

    def put(self, tree: Any, batch_axis: int | None) -> Any:
        """Copy arrays to the device; `batch_axis` is None for weights."""
        del batch_axis
        return jax.device_put(tree)

    def prepare(self, workload: Workload) -> Prepared | str:
        found = self.recurrence(workload.structure, lengths=workload.lengths is not None)
        reason = found if isinstance(found, str) else self.obstacle(workload.batch)
        if isinstance(found, str) or reason is not None:
            return reason or "not possible"
        return JaxPrepared(found, workload, self.put)

    def stepper(self, workload: Workload) -> Stepper | str:
        found = self.single_step(workload.structure)
        return found if isinstance(found, str) else JaxStepper(found, workload)

    def trainer(self, task: Task) -> Trainer | str:
        found = self.recurrence(task.structure, lengths=False)
        reason = found if isinstance(found, str) else self.obstacle(task.ids.shape[0])
        if isinstance(found, str) or reason is not None:
            return reason or "not possible"
        return JaxTrainer(found, task, self.put, self.softmax_loss)


def layout(array: np.ndarray, time_major: bool) -> np.ndarray:
    """Convert from batch-major to the contestant's layout, or back."""
    return np.ascontiguousarray(np.swapaxes(array, 0, 1)) if time_major else array


class JaxPrepared(Prepared):
    """A workload with two compiled programs: inference and the gradient."""

    def __init__(
        self, recurrence: Recurrence, workload: Workload, put: Callable[[Any, int | None], Any]
    ) -> None:
        self.different = recurrence.different
        self._recurrence = recurrence
        self._common = jax.tree.map(jnp.asarray, workload.weights)
        axis = 1 if recurrence.time_major else 0
        params = put(jax.jit(recurrence.from_common)(self._common), None)
        xs, cotangent = (
            put(layout(array, recurrence.time_major), axis)
            for array in (workload.xs, workload.cotangent)
        )
        lengths = None if workload.lengths is None else put(workload.lengths, 0)
        resets = () if workload.resets is None else (put(layout(workload.resets, axis == 1), axis),)
        self._arguments: dict[str, tuple[Any, ...]] = {
            "forward": (params, xs, lengths, *resets),
            "gradient": (params, xs, lengths, cotangent, *resets),
        }
        # Functions are new for each workload, since JAX stores programs by the function's identity.
        self._functions: dict[str, Callable[..., Any]] = {
            "forward": functools.partial(recurrence.apply),
            "gradient": jax.value_and_grad(self._loss, argnums=(0, 1)),
        }
        self._programs = {what: jax.jit(function) for what, function in self._functions.items()}

    def _loss(self, params: Any, xs: Any, lengths: Any, cotangent: Any, *resets: Any) -> jax.Array:
        return jnp.sum(self._recurrence.apply(params, xs, lengths, *resets) * cotangent)

    def _run(self, what: str) -> Any:
        return jax.block_until_ready(self._programs[what](*self._arguments[what]))

    def forward(self) -> None:
        self._run("forward")

    def gradient(self) -> None:
        self._run("gradient")

    def outputs(self) -> np.ndarray:
        return layout(np.asarray(self._run("forward")), self._recurrence.time_major)

    def gradients(self) -> Gradients:
        _, (params, xs) = self._run("gradient")
        _, transpose = jax.vjp(self._recurrence.from_common, self._common)
        (weights,) = transpose(jax.tree.map(np.asarray, params))
        return Gradients(
            layout(np.asarray(xs), self._recurrence.time_major),
            jax.tree.map(np.asarray, weights),
        )

    def lower(self, what: str) -> jax.stages.Lowered:
        """Return the lowered program. If JAX's caches were cleared, it is traced again."""
        return jax.jit(self._functions[what]).lower(*self._arguments[what])

    def temp_bytes(self, what: str) -> int | None:
        analysis = self.lower(what).compile().memory_analysis()
        return None if analysis is None else int(analysis.temp_size_in_bytes)


class JaxStepper(Stepper):
    """Single steps as one compiled program; the state stays on the device."""

    def __init__(self, step: Step, workload: Workload) -> None:
        self.different = step.different
        self._xs = jnp.asarray(workload.xs)
        self._x = self._xs[:, 0]
        self._params = jax.jit(step.from_common)(jax.tree.map(jnp.asarray, workload.weights))
        self._initial = step.initial_state(workload.batch)
        self._state = self._initial
        self._program = jax.jit(step.apply)

    def step(self) -> None:
        output, self._state = self._program(self._params, self._x, self._state)
        output.block_until_ready()

    def outputs(self) -> np.ndarray:
        state, outputs = self._initial, []
        for t in range(self._xs.shape[1]):
            output, state = self._program(self._params, self._xs[:, t], state)
            outputs.append(np.asarray(output))
        return np.stack(outputs, axis=1)
