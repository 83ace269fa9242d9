"""Evaluation of a model over batches, with exact results even if the batches differ in size."""

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

    Some models change their state in evaluation. For example, `seqjax.nn.Stateful` changes its
    recurrent state. The training state that the step returns contains the changed state.

    If a metric does not depend on `batch["weights"]`, the step leaves out the filler rows (rows of
    zeros that fill up a batch). The step also checks the lengths of sequences. See
    `make_train_step` for details.

    Args:
      model: the module, or its graph definition. The step does not change the module.
      metric_fn: `metric_fn(model, batch) -> {name: seqjax.metrics.Mean}`. The model is in
        evaluation mode. The functions of `seqjax.metrics`, such as `cross_entropy` and `accuracy`,
        return a `Mean`. To make a `Mean` of your own values, use `seqjax.metrics.Mean.of`. A `Mean`
        stores a total and a count, so that batches of different sizes merge exactly.

    Returns:
      The step. Pass it to `evaluate`.

    Raises:
      TypeError: `model` is not a module, or (at the first step) `metric_fn` does not return a dict
        of `Mean`.
      ValueError: a batch or a metric is not valid for one of the reasons that `make_train_step`
        lists.

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
                "return the result of a function of seqjax.metrics, such as cross_entropy or "
                "accuracy, or seqjax.metrics.Mean.of(values)"
            )
    require_scalars("metric_fn", metrics)


def evaluate(eval_step: EvalStep, state: TrainState, batches: Iterable[Any]) -> dict[str, float]:
    """Return the metrics over all batches together, exactly even if the batches differ in size.

        value = Σ_batches total / Σ_batches count

    The state that the step returns for one batch is used for the next batch.

    If a metric of a batch is not finite, the metric function runs on this batch once more without
    compilation. If the second run finds the cause, such as a label out of range, an error is
    raised. Otherwise a warning names the batch.

    Args:
      eval_step: the result of `make_eval_step`.
      state: a `TrainState`.
      batches: an iterable of batches.

    Returns:
      A dict with one float for each metric.

    Raises:
      TypeError: `batches` is not an iterable of batches, or a field of a batch does not consist of
        numbers.
      ValueError: there are no batches; a value, such as a label or a length, is out of range; or
        filler rows (rows of zeros that fill up a batch) would change the result and cannot be left
        out (see `make_train_step`).

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
    name: str = "batches",
) -> dict[str, float]:
    """Return the result of `evaluate`. If given, `place` first puts each batch onto devices.

    Errors name the argument `name`.
    """
    totals = Totals()
    warned = False

    def look_at_unusual() -> None:
        nonlocal warned
        for metric, batch in totals.take_unusual():
            if not isinstance(eval_step, GuardedStep):
                continue
            held = eval_step.explain(state, batch, deeply=not warned)
            if not warned:
                warnings.warn(
                    f"metric_fn: expected finite numbers, got {metric} that is not finite; the "
                    f"batch has {held}",
                    stacklevel=4,
                )
            warned = True

    for batch in map(as_arrays, require_batches(name, batches)):
        if isinstance(eval_step, GuardedStep):
            there = batch if place is None else place(batch)
            state, measured = eval_step.run(state, there, host=batch, place=place)
        else:
            state, measured = eval_step(state, batch if place is None else place(batch))
        totals.add(measured, batch)
        look_at_unusual()
    if not totals.batches:
        raise ValueError(f"{name}: expected at least one batch, got none")
    values = totals.values()
    look_at_unusual()
    return values
