"""The pure train step and the evaluation step of a Flax NNX model.

A module is split into a static graph definition, which the step closes over, and a `TrainState` of
plain arrays, which goes in and comes out. Inside the step the module is put together again, so the
loss function sees an ordinary module; nothing but `jax.jit` is needed around it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seqjax.metrics import Mean
from seqjax.training.totals import Totals
from seqjax.types import Array, PRNGKey, PyTree

__all__ = [
    "EvalStep",
    "LossFn",
    "MetricFn",
    "TrainState",
    "TrainStep",
    "evaluate",
    "init_state",
    "make_eval_step",
    "make_train_step",
    "state_to_model",
]


class TrainState(NamedTuple):
    """All that a training run carries from step to step, a pytree of arrays.

    Attributes:
      params: the values of the model's `nnx.Param` variables, an `nnx.State` of arrays.
      model_state: the values of its other variables (`nnx.BatchStat`, random streams, …).
      opt_state: the optimiser's state.
      step: int32 scalar, how many updates were made.
    """

    params: nnx.State
    model_state: nnx.State
    opt_state: PyTree
    step: Array


LossFn: TypeAlias = Callable[[Any, Any, nnx.Rngs], tuple[Array, Mapping[str, Any]]]
MetricFn: TypeAlias = Callable[[Any, Any], Mapping[str, Mean]]
TrainStep: TypeAlias = Callable[[TrainState, Any, PRNGKey], tuple[TrainState, dict[str, Any]]]
EvalStep: TypeAlias = Callable[[TrainState, Any], dict[str, Mean]]


def init_state(model: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """The state at step 0: a copy of the model's arrays and a fresh optimiser state.

    Args:
      model: a Flax NNX module; it is neither changed nor shared with the state.
      optimizer: any optax transformation.

    Returns:
      The `TrainState`.

    Raises:
      TypeError: `model` is not an `nnx.Module`.
      ValueError: `model` has no `nnx.Param`.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> from seqjax import training
      >>> state = training.init_state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), optax.sgd(0.1))
      >>> state.params["kernel"].shape, int(state.step)
      ((3, 2), 0)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model: expected a flax.nnx.Module, got {type(model).__name__}")
    _, *states = nnx.split(model, nnx.Param, ...)
    # Copied, because a step that donates its state would delete the model's own arrays.
    params, model_state = (jax.tree.map(jnp.copy, nnx.as_pure(part)) for part in states)
    if not jax.tree.leaves(params):
        raise ValueError(f"model: expected at least one nnx.Param, {type(model).__name__} has none")
    return TrainState(params, model_state, optimizer.init(params), jnp.zeros([], jnp.int32))


def state_to_model(model: nnx.Module | nnx.GraphDef, state: TrainState) -> Any:
    """A new module with the state's values, in the mode (train or eval) of `model`.

    Args:
      model: the module the state was made from, or its graph definition; it is not changed.
      state: a `TrainState`.

    Returns:
      An `nnx.Module` of the same class.

    Example:
      >>> import jax, optax
      >>> from flax import nnx
      >>> from seqjax import training
      >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
      >>> state = training.init_state(model, optax.sgd(0.1))
      >>> doubled = state._replace(params=jax.tree.map(lambda p: 2 * p, state.params))
      >>> trained = training.state_to_model(model, doubled)
      >>> bool((trained.kernel[...] == 2 * model.kernel[...]).all())
      True
    """
    return nnx.merge(_graphdef(model), state.params, state.model_state)


def make_train_step(
    model: nnx.Module | nnx.GraphDef,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    donate: bool = False,
) -> TrainStep:
    """A jitted pure function `train_step(state, batch, key) -> (state, metrics)`.

        loss, metrics = loss_fn(model, batch, rngs)    model in training mode
        update = optimizer(∂loss/∂params);  params ← params + update

    All randomness of a step is a function of `key` and `state.step`: the same key may be given at
    every step. `rngs` is drawn from it, and random streams stored in the model (those of
    `nnx.Dropout(rngs=…)`) are seeded from it too. Other state that the model changes, such as
    the running statistics of `nnx.BatchNorm`, is carried.

    Args:
      model: the module, or its graph definition; it is not changed.
      loss_fn: `loss_fn(model, batch, rngs) -> (loss, metrics)`: a float scalar to minimise, and
        a dict of scalars or `seqjax.metrics.Mean` to report (it may be empty).
      optimizer: any optax transformation, the one given to `init_state`.
      donate: whether the step may overwrite the arrays of the state it is given, which saves a copy
        of the model in memory; that state cannot be used afterwards.

    Returns:
      The step. Its metrics are those of `loss_fn` and `loss`, `grad_norm`: the global norm of the
      gradient as it comes from the loss, before the optimiser clips it.

    Raises:
      TypeError: `model` is not a module; at the first step, when `loss_fn` returns something else
        than a pair of an array and a dict.
      ValueError: at the first step: a loss that is not a float scalar, a metric that is not a
        scalar or is called `loss` or `grad_norm`, or a model whose state has changed its structure.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from seqjax import training
      >>> def loss_fn(model, batch, rngs):
      ...     return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}
      >>> model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
      >>> state = training.init_state(model, optax.sgd(0.1))
      >>> train_step = training.make_train_step(model, loss_fn, optax.sgd(0.1))
      >>> batch = {"x": jnp.eye(3), "y": jnp.ones((3, 1))}
      >>> losses = []
      >>> for _ in range(3):
      ...     state, metrics = train_step(state, batch, jax.random.key(0))
      ...     losses.append(float(metrics["loss"]))
      >>> losses[0] > losses[1] > losses[2], int(state.step), sorted(metrics)
      (True, 3, ['grad_norm', 'loss'])
    """
    graphdef = _graphdef(model)

    def train_step(
        state: TrainState, batch: Any, key: PRNGKey
    ) -> tuple[TrainState, dict[str, Any]]:
        call_key, stored_key = jax.random.split(jax.random.fold_in(key, state.step))

        def objective(params: nnx.State) -> tuple[Array, tuple[dict[str, Any], nnx.State]]:
            module = nnx.merge(graphdef, params, state.model_state)
            module.train()
            _reseed(module, stored_key)
            loss, metrics = _checked_loss(loss_fn(module, batch, nnx.Rngs(call_key)))
            model_state = nnx.as_pure(nnx.state(module, nnx.Not(nnx.Param)))
            return loss, (metrics, model_state)

        (loss, (metrics, model_state)), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        before: Any = jax.tree.structure(state.model_state)
        if jax.tree.structure(model_state) != before:
            raise ValueError(
                "loss_fn: expected a model that keeps the structure of its state, got variables "
                "added or removed; record intermediates by nnx.capture, not by sow alone"
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics |= {"loss": loss, "grad_norm": _global_norm(grads)}
        return TrainState(params, model_state, opt_state, state.step + 1), metrics

    return jax.jit(train_step, donate_argnames="state" if donate else None)


def make_eval_step(model: nnx.Module | nnx.GraphDef, metric_fn: MetricFn) -> EvalStep:
    """A jitted pure function `eval_step(state, batch) -> {name: Mean}`.

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
      >>> measured = eval_step(state, {"x": jnp.ones((4, 1)), "y": jnp.full((4, 1), 3.0)})
      >>> float(measured["error"].total), int(measured["error"].count)
      (16.0, 4)
    """
    graphdef = _graphdef(model)

    def eval_step(state: TrainState, batch: Any) -> dict[str, Mean]:
        module = state_to_model(graphdef, state)
        module.eval()
        metrics = metric_fn(module, batch)
        if not isinstance(metrics, Mapping):
            raise TypeError(
                f"metric_fn: expected a dict of seqjax.metrics.Mean, got {_kind(metrics)}"
            )
        for name, value in metrics.items():
            if not isinstance(value, Mean):
                raise TypeError(
                    f"metric_fn: expected a seqjax.metrics.Mean for {name!r}, got {_kind(value)}"
                )
            _require_scalars("metric_fn", name, value)
        return dict(metrics)

    return jax.jit(eval_step)


def evaluate(eval_step: EvalStep, state: TrainState, batches: Iterable[Any]) -> dict[str, float]:
    """The metrics over all batches together, exact when their sizes differ.

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
        totals.add(eval_step(state, batch))
    if not totals.batches:
        raise ValueError("batches: expected at least one batch, got none")
    return totals.values()


def _graphdef(model: nnx.Module | nnx.GraphDef) -> nnx.GraphDef:
    if isinstance(model, nnx.GraphDef):
        return model
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model: expected a flax.nnx.Module or its GraphDef, got {type(model).__name__}"
        )
    return nnx.graphdef(model)


def _reseed(module: nnx.Module, key: PRNGKey) -> None:
    """Seeds the random streams stored in the module, so that the step's key decides everything."""
    streams = (node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream))
    tags = sorted({stream.tag for stream in streams})
    keys: dict[str, Any] = {tag: jax.random.fold_in(key, index) for index, tag in enumerate(tags)}
    nnx.reseed(module, policy="match_shape", **keys)


def _checked_loss(result: Any) -> tuple[Array, dict[str, Any]]:
    """The loss and metrics that a loss function returned, or an error that says what is wrong."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(
            f"loss_fn: expected (loss, metrics), a scalar and a dict, got {_kind(result)}"
        )
    loss, metrics = jnp.asarray(result[0]), dict(result[1])
    if loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"loss_fn: expected a float scalar as the loss, got {_kind(loss)}")
    for name, value in metrics.items():
        if name in ("loss", "grad_norm"):
            raise ValueError(f"loss_fn: the metric name {name!r} is taken by the train step itself")
        _require_scalars("loss_fn", name, value)
    return loss, metrics


def _kind(value: Any) -> str:
    """What a value is, for messages: `float32[3]`, `(float32[], list)`, `NoneType`."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_kind, value)) + ")"
    return str(jax.typeof(value)) if isinstance(value, jax.Array) else type(value).__name__


def _require_scalars(function: str, name: str, value: Any) -> None:
    for leaf in jax.tree.leaves(value):
        if jnp.shape(leaf) != ():
            raise ValueError(
                f"{function}: expected a scalar for {name!r}, got shape {jnp.shape(leaf)}"
            )


def _global_norm(grads: PyTree) -> Array:
    """The norm over all leaves, summed in float32 at least."""

    def square(grad: Array) -> Array:
        wide = grad.astype(jnp.promote_types(grad.dtype, jnp.float32))
        return jnp.sum(wide * wide)

    return jnp.sqrt(jnp.asarray(sum(map(square, jax.tree.leaves(grads)))))
