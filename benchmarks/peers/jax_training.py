"""The training step of all JAX contestants.

All contestants share the code of the embedding, readout, loss and optimiser. The optimiser is that
of `seqjax.training`, an optax chain whose clipping needs less memory than that of optax. The whole
step is one compiled program that reuses the memory of parameters and optimiser state. Therefore the
contestants differ only in their recurrent network. One exception is the cross-entropy of a softmax:
seqjax computes it by its own `linear_cross_entropy`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.peers.base import Trainer
from benchmarks.peers.jax_network import Recurrence
from benchmarks.tasks import ADAM_RATE, CLIP_NORM, Task
from seqjax import training

__all__ = ["JaxTrainer"]


class JaxTrainer(Trainer):
    """One compiled training step."""

    def __init__(
        self,
        recurrence: Recurrence,
        task: Task,
        put: Callable[[Any, int | None], Any],
        softmax_loss: Callable[..., jax.Array],
    ) -> None:
        self.different = recurrence.different
        optimiser = training.optimizer(ADAM_RATE, clip_norm=CLIP_NORM)
        params = {
            "embedding": jnp.array(task.embedding),
            "recurrent": jax.jit(recurrence.from_common)(jax.tree.map(jnp.array, task.weights)),
            "w_out": jnp.array(task.w_out),
            "b_out": jnp.array(task.b_out),
        }
        self._params = put(params, None)
        self._state = put(optimiser.init(params), None)
        ids, targets = task.ids, task.targets
        axis = 1 if recurrence.time_major else 0
        if recurrence.time_major:
            ids = ids.T
            targets = targets if task.readout == "sigmoid" else targets.T
        self._ids = put(ids, axis)
        self._targets = put(targets, 0 if task.readout == "sigmoid" else axis)
        self._loss = float("nan")

        def loss_of(params: Any, ids: jax.Array, targets: jax.Array) -> jax.Array:
            outputs = recurrence.apply(params["recurrent"], params["embedding"][ids], None)
            if task.readout == "sigmoid":
                last = outputs[-1] if recurrence.time_major else outputs[:, -1]
                logits = (last @ params["w_out"] + params["b_out"])[:, 0]
                return optax.sigmoid_binary_cross_entropy(logits, targets).mean()
            return softmax_loss(outputs, params["w_out"], params["b_out"], targets)

        def train(params: Any, state: Any, ids: jax.Array, targets: jax.Array) -> Any:
            loss, gradients = jax.value_and_grad(loss_of)(params, ids, targets)
            updates, state = optimiser.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, loss

        self._train = jax.jit(train, donate_argnums=(0, 1))

    def step(self) -> None:
        self._params, self._state, loss = jax.block_until_ready(
            self._train(self._params, self._state, self._ids, self._targets)
        )
        self._loss = loss

    def loss(self) -> float:
        return float(self._loss)
