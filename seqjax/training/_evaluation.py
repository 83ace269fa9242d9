"""Evaluation of a model over batches, exact for batches of any size."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from flax import nnx

from seqjax._noted import noting_ranges
from seqjax.metrics import Mean
from seqjax.training._batch import as_arrays, require_batches
from seqjax.training._guarded import GuardedStep, Measured, nan_out_of_range
from seqjax.training._results import kind, require_call, require_scalars
from seqjax.training._state import TrainState, changed_state, graphdef_of, state_to_model
from seqjax.training._totals import Totals

__all__ = ["EvalStep", "MetricFn", "evaluate", "make_eval_step"]

MetricFn: TypeAlias = Callable[[Any, Any], Mapping[str, Mean]]
"""`metric_fn(model, batch) -> {name: seqjax.metrics.Mean}`."""
EvalStep: TypeAlias = Callable[[TrainState, Any], tuple[TrainState, dict[str, Mean]]]
"""`eval_step(state, batch) -> (state, {name: seqjax.metrics.Mean})`."""


def make_eval_step(model: nnx.Module | nnx.GraphDef[Any], metric_fn: MetricFn) -> GuardedStep:
    """Return the jitted pure function `eval_step(state, batch) -> (state, metrics)`.

    The returned state has the values that the model carries from batch to batch in evaluation, such
    as the recurrent state of `seqjax.nn.Stateful`. Most models carry none.

    If a metric does not depend on `batch["weights"]`, rows of filler are left out, and lengths are
    checked, as in `make_train_step`.

    Args:
      model: the module, or its graph definition; it is not changed.
      metric_fn: `metric_fn(model, batch) -> {name: seqjax.metrics.Mean}`, with the model in
        evaluation mode. A `Mean` is a total and a count, so that batches merge exactly.

    Returns:
      The step, for `evaluate`.

    Raises:
      TypeError: `model` is not a module; at the first step, when `metric_fn` returns something else
        than a dict of `Mean`.
      ValueError: as in `make_train_step`.

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
    require_call("metric_fn", metric_fn, "model", "batch")
    graphdef = graphdef_of(model)

    def outline(
        state: TrainState, batch: Any, *, watch: Callable[[Any], None] | None = None
    ) -> Measured:
        module = state_to_model(graphdef, state)
        module.eval()
        if watch is not None:
            watch(module)
        metrics = metric_fn(module, batch)
        _require_means(metrics)
        return Measured(dict(metrics), changed_state(module, state))

    def eval_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Mean]]:
        with noting_ranges() as noted:
            metrics, model_state = outline(state, batch)
        metrics = nan_out_of_range(metrics, noted, batch)
        return state._replace(model_state=model_state), metrics

    return GuardedStep(eval_step, outline, "metric_fn")


def _require_means(metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metric_fn: expected a dict of seqjax.metrics.Mean, got {kind(metrics)}")
    for name, value in metrics.items():
        if not isinstance(value, Mean):
            raise TypeError(
                f"metric_fn: expected a seqjax.metrics.Mean for {name!r}, got {kind(value)}; "
                "seqjax.metrics.Mean.of(values) makes one"
            )
    require_scalars("metric_fn", metrics)


def evaluate(eval_step: EvalStep, state: TrainState, batches: Iterable[Any]) -> dict[str, float]:
    """Return the metrics over all batches together, exact when their sizes differ.

    The state that the model carries in evaluation is passed from each batch to the next.

        value = Σ_batches total / Σ_batches count

    If a metric of a batch is not finite, the metric function runs on this batch once more without
    compilation. If the cause is found, such as a label out of range, an error is raised. Otherwise
    a warning describes the batch.

    Args:
      eval_step: from `make_eval_step`.
      state: a `TrainState`.
      batches: an iterable of batches.

    Returns:
      One float for each metric.

    Raises:
      TypeError: `batches` is no iterable of batches, or a field of a batch holds no numbers.
      ValueError: there are no batches; a value out of range, such as a label or a length; filler
        that would count and cannot be left out, see `make_train_step`.

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
    return evaluate_placed(eval_step, state, batches)


def evaluate_placed(
    eval_step: EvalStep,
    state: TrainState,
    batches: Iterable[Any],
    place: Callable[[Any], Any] | None = None,
) -> dict[str, float]:
    """Return what `evaluate` returns, for batches that are put onto devices first."""
    totals = Totals()
    warned = False

    def look_at_unusual() -> None:
        nonlocal warned
        for name, batch in totals.take_unusual():
            if not isinstance(eval_step, GuardedStep):
                continue
            held = eval_step.explain(state, batch, deeply=not warned)
            if not warned:
                warnings.warn(
                    f"metric_fn: expected finite numbers, got {name} that is not, of a batch with "
                    f"{held}",
                    stacklevel=4,
                )
            warned = True

    for batch in map(as_arrays, require_batches("batches", batches)):
        if isinstance(eval_step, GuardedStep):
            there = batch if place is None else place(batch)
            state, measured = eval_step.run(state, there, host=batch, place=place)
        else:
            state, measured = eval_step(state, batch if place is None else place(batch))
        totals.add(measured, batch)
        look_at_unusual()
    if not totals.batches:
        raise ValueError("batches: expected at least one batch, got none")
    values = totals.values()
    look_at_unusual()
    return values
