"""The pure train step of a Flax NNX model.

The step closes over the module's static graph definition, and rebuilds the module from its argument
`state`. Therefore the loss function gets an ordinary module, and the step needs only `jax.jit`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seqjax import checks
from seqjax._noted import noting_ranges
from seqjax.training._extra_args import update, with_extra_args
from seqjax.training._guarded import GuardedStep, Measured, nan_out_of_range
from seqjax.training._results import kind, require_call, require_scalars
from seqjax.training._state import TrainState, changed_state, graphdef_of
from seqjax.types import Array, PRNGKey, PyTree

__all__ = ["LossFn", "TrainStep", "make_train_step"]

# A training history uses these names itself, so a metric of the loss function cannot have them.
_TAKEN = ("epoch", "step", "loss", "grad_norm", "skipped", "seconds")

LossFn: TypeAlias = Callable[[Any, Any, nnx.Rngs], tuple[Array, Mapping[str, Any]]]
"""`loss_fn(model, batch, rngs) -> (loss, metrics)`."""
TrainStep: TypeAlias = Callable[[TrainState, Any, PRNGKey], tuple[TrainState, dict[str, Any]]]
"""`train_step(state, batch, key) -> (state, metrics)`."""


def make_train_step(
    model: nnx.Module | nnx.GraphDef[Any],
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    donate: bool = False,
) -> GuardedStep:
    """Return the jitted pure function `train_step(state, batch, key) -> (state, metrics)`.

        loss, metrics = loss_fn(model, batch, rngs)    model in training mode
        update = optimizer(∂loss/∂params);  params ← params + update

    `key` and `state.step` together determine the randomness of a step: `rngs` and the random
    streams stored in the model, such as those of `nnx.Dropout(rngs=…)`. Therefore the same key can
    be used at every step. A model may change variables other than its parameters, such as the
    running statistics of `nnx.BatchNorm` or the recurrent state of `seqjax.nn.Stateful`. The
    `model_state` of the returned state contains their new values.

    If the loss, the gradient, its norm, the update or the new state of the optimiser is not finite,
    the step is skipped: it changes only `state.step`, and its metric `skipped` is True. Elements of
    the optimiser's state that were not finite before the step are ignored.

    Optimisers that need more arguments than the gradient, such as `optax.lbfgs`, line searches and
    `optax.contrib.reduce_on_plateau`, get three arguments: `value` is the loss, `grad` is the
    gradient, and `value_fn(params)` computes the loss of the same batch with the same randomness.

    If the loss or a metric does not depend on `batch["weights"]`, the step leaves out the filler
    rows (rows of zeros that `seqjax.data.batches` adds), so that they do not change the result. To
    run without filler rows, the step is compiled for one more shape. If an output depends on
    `batch["weights"]` in any way, it is assumed to mask the filler rows. The step also checks the
    lengths of sequences. Inside another transformation (`jax.jit`, `jax.vmap`, `jax.lax.scan`),
    values are not known, so the step neither leaves out filler rows nor checks lengths.

    Args:
      model: the module, or its graph definition. The step does not change the module.
      loss_fn: `loss_fn(model, batch, rngs) -> (loss, metrics)`. The loss is a float scalar to
        minimise. The metrics to report are a (possibly empty) dict of scalars or
        `seqjax.metrics.Mean`.
      optimizer: the optax transformation that was given to `init_state`.
      donate: if True, the step may overwrite the arrays of the state that it is given. Overwriting
        saves the memory of one copy of the state, but the given state cannot be used afterwards.

    Returns:
      The step, which returns the metrics `loss`, `grad_norm`, `skipped` and those of `loss_fn`.
      `grad_norm` is the global norm of the gradient of the loss, before the optimiser clips it.

    Raises:
      TypeError: `model` is not a module, or a field of a batch does not consist of numbers. The
        first step also raises this error if the key is not a random key, `loss_fn` does not return
        a pair of an array and a dict, or the optimiser cannot update the model's parameters.
      ValueError: The first step raises this error if the loss is not a float scalar, if a metric is
        not a scalar or has a reserved name (`loss`, `grad_norm`, `skipped`, `epoch`, `step`,
        `seconds`, or one that begins with `eval_`), or if the model has changed the structure of
        its state. Any step raises this error if a field has integers beyond 32 bits, if a length on
        the host is negative or larger than the number of time steps, or if filler rows would change
        the result and cannot be left out. If a length on a device is wrong, the loss becomes NaN
        instead.

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
      (True, 3, ['grad_norm', 'loss', 'skipped'])
    """
    require_call("loss_fn", loss_fn, "model", "batch", "rngs")
    graphdef = graphdef_of(model)
    transformation = with_extra_args(optimizer)

    def outline(
        state: TrainState, batch: Any, key: PRNGKey, *, watch: Callable[[Any], None] | None = None
    ) -> Measured:
        key = checks.require_key("key", key)
        call_key, stored_key = jax.random.split(jax.random.fold_in(key, state.step))
        module = nnx.merge(graphdef, state.params, state.model_state)
        module.train()
        _reseed(module, stored_key)
        if watch is not None:
            watch(module)
        result = _checked_loss(loss_fn(module, batch, nnx.Rngs(call_key)))
        return Measured(result, changed_state(module, state))

    def train_step(
        state: TrainState, batch: Any, key: PRNGKey
    ) -> tuple[TrainState, dict[str, Any]]:
        def objective(params: PyTree) -> tuple[Array, tuple[dict[str, Any], PyTree]]:
            with noting_ranges() as noted:
                (loss, metrics), model_state = outline(state._replace(params=params), batch, key)
            loss, metrics = nan_out_of_range((loss, metrics), noted, batch)
            return loss, (metrics, model_state)

        (loss, (metrics, model_state)), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        # Of a complex parameter, JAX computes the conjugate of the direction of steepest ascent.
        grads = jax.tree.map(jnp.conj, grads)
        updates, opt_state = update(
            transformation, grads, state.opt_state, state.params,
            value=loss, value_fn=lambda params: objective(params)[0],
            as_variables=lambda pure: nnx.state(
                nnx.merge(graphdef, pure, state.model_state), nnx.Param
            ),
        )  # fmt: skip
        params = optax.apply_updates(state.params, updates)
        norm = _global_norm(grads)
        # If an element of the gradient is not finite, its norm is not finite either.
        finite = _all_finite((loss, norm, updates), opt_state, state.opt_state)
        changed = TrainState(params, model_state, opt_state, state.step + 1)
        unchanged = state._replace(step=state.step + 1)
        metrics |= {"loss": loss, "grad_norm": norm, "skipped": ~finite}
        return jax.tree.map(functools.partial(jnp.where, finite), changed, unchanged), metrics

    return GuardedStep(train_step, outline, "loss_fn", donate=donate)


def _reseed(module: nnx.Module, key: PRNGKey) -> None:
    """Seed the random streams stored in a module, so that the key determines all randomness."""
    streams = (node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream))
    tags = sorted({stream.tag for stream in streams})
    keys: dict[str, Any] = {tag: jax.random.fold_in(key, index) for index, tag in enumerate(tags)}
    nnx.reseed(module, policy="match_shape", **keys)


def _checked_loss(result: Any) -> tuple[Array, dict[str, Any]]:
    """Return the loss and the metrics from the result of a loss function, or raise an error."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(
            f"loss_fn: expected (loss, metrics), a scalar and a dict, got {kind(result)}; return "
            "(loss, {}) if there are no metrics"
        )
    loss = checks.require_array("loss_fn", result[0], jnp.generic, "a float scalar as the loss")
    metrics = dict(result[1])
    if loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"loss_fn: expected a float scalar as the loss, got {kind(loss)}")
    for name in metrics:
        if name in _TAKEN:
            raise ValueError(
                f"loss_fn: expected names of metrics other than {', '.join(_TAKEN)}, got {name!r}"
            )
        if str(name).startswith("eval_"):
            raise ValueError(
                "loss_fn: expected names of metrics that do not begin with 'eval_', since the "
                f"history uses these names for the metrics of metric_fn, got {name!r}"
            )
    require_scalars("loss_fn", metrics)
    return loss, metrics


def _all_finite(values: PyTree, new: PyTree, old: PyTree) -> Array:
    """Return whether all values are finite, and all floats of `new` where those of `old` are.

    Arrays of one shape are examined together. XLA then computes the update and the new optimiser
    state of a parameter in one loop, and stores no further array. With one test for each array, a
    step of Adam took up to 20 % longer.

    Args:
      values: a pytree of arrays.
      new: the new state of the optimiser. A large finite gradient can overflow here. For example,
        if a second moment of Adam becomes infinite, all later updates of its parameter are 0.
      old: the state of the optimiser before the step. Some optimisers begin with infinite values.
    """
    tests: dict[tuple[int, ...], list[Array]] = {}
    for value in jax.tree.leaves(values):
        tests.setdefault(jnp.shape(value), []).append(jnp.isfinite(value))
    for now, before in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        if jnp.issubdtype(jnp.result_type(now), jnp.inexact):
            test = jnp.isfinite(now) | ~jnp.isfinite(before)
            tests.setdefault(jnp.shape(now), []).append(test)
    together = [functools.reduce(jnp.logical_and, group) for group in tests.values()]
    return jnp.stack([jnp.all(test) for test in together]).all()


def _global_norm(grads: PyTree) -> Array:
    """Return the norm of all leaves together. The sum is computed in float32 or wider."""

    def square(grad: Array) -> Array:
        wide = grad if grad.dtype.itemsize >= 4 else grad.astype(jnp.float32)
        return jnp.sum(jnp.real(wide * jnp.conj(wide)))

    return jnp.sqrt(jnp.asarray(sum(map(square, jax.tree.leaves(grads)))))
