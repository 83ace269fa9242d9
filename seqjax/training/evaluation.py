"""Measuring a model over batches, exactly whatever their sizes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
from flax import nnx

from seqjax.metrics import Mean
from seqjax.training._results import kind, require_scalars
from seqjax.training.state import TrainState, changed_state, graphdef_of, state_to_model
from seqjax.training.totals import Totals

__all__ = ["EvalStep", "MetricFn", "evaluate", "make_eval_step"]

MetricFn: TypeAlias = Callable[[Any, Any], Mapping[str, Mean]]
EvalStep: TypeAlias = Callable[[TrainState, Any], tuple[TrainState, dict[str, Mean]]]


def make_eval_step(model: nnx.Module | nnx.GraphDef, metric_fn: MetricFn) -> EvalStep:
    """A jitted pure function `eval_step(state, batch) -> (state, metrics)`.

    The state comes back with what the model carries from batch to batch in evaluation, such as the
    recurrent state of `seqjax.nn.Stateful`; for most models that is nothing.

    Args:
      model: the module, or its graph definition; it is not changed.
      metric_fn: `metric_fn(model, batch) -> {name: seqjax.metrics.Mean}`, with the model in
        evaluation mode. A `Mean` is a total and a count, so that batches merge exactly.

    Returns:
      The step, for `evaluate`.

    Raises:
      TypeError: `model` is not a module; at the first step, when `metric_fn` returns something else
        than a dict of `Mean`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from seqjax import metrics, training
      >>> def metric_fn(model, batch):
      ...     return {"error": metrics.mean_squared_error(model(batch["x"]), batch["y"])}
      >>> model = nnx.Linear(1, 1, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
      >>> state = training.init_state(model, optax.sgd(0.1))
      >>> eval_step = training.make_eval_step(model, metric_fn)
      >>> _, measured = eval_step(state, {"x": jnp.ones((4, 1)), "y": jnp.full((4, 1), 3.0)})
      >>> float(measured["error"].total), int(measured["error"].count)
      (16.0, 4)
    """
    graphdef = graphdef_of(model)

    def eval_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Mean]]:
        module = state_to_model(graphdef, state)
        module.eval()
        metrics = metric_fn(module, batch)
        if not isinstance(metrics, Mapping):
            raise TypeError(
                f"metric_fn: expected a dict of seqjax.metrics.Mean, got {kind(metrics)}"
            )
        for name, value in metrics.items():
            if not isinstance(value, Mean):
                raise TypeError(
                    f"metric_fn: expected a seqjax.metrics.Mean for {name!r}, got {kind(value)}"
                )
        require_scalars("metric_fn", metrics)
        return state._replace(model_state=changed_state(module, state)), dict(metrics)

    return jax.jit(eval_step)


def evaluate(eval_step: EvalStep, state: TrainState, batches: Iterable[Any]) -> dict[str, float]:
    """The metrics over all batches together, exact when their sizes differ.

    What the model carries in evaluation goes from each batch to the next.

        value = Σ_batches total / Σ_batches count

    Args:
      eval_step: from `make_eval_step`.
      state: a `TrainState`.
      batches: an iterable of batches.

    Returns:
      One float a metric.

    Raises:
      ValueError: there are no batches.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from seqjax import metrics, training
      >>> def metric_fn(model, batch):
      ...     return {"mean": metrics.Mean(model(batch).sum(), jnp.float32(batch.shape[0]))}
      >>> model = nnx.Linear(1, 1, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
      >>> state = training.init_state(model, optax.sgd(0.1))
      >>> eval_step = training.make_eval_step(model, metric_fn)
      >>> training.evaluate(eval_step, state, [jnp.array([[1.0], [2.0]]), jnp.array([[6.0]])])
      {'mean': 3.0}
    """
    totals = Totals()
    for batch in batches:
        state, measured = eval_step(state, batch)
        totals.add(measured)
    if not totals.batches:
        raise ValueError("batches: expected at least one batch, got none")
    return totals.values()
