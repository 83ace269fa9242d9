"""The pure train step of a Flax NNX model.

The step closes over the module's static graph definition, and puts the module together again from
the state it is given; so the loss function sees an ordinary module, and nothing but `jax.jit` is
needed around it.
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

# The names in a training history besides the metrics of the loss function.
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

    All randomness of a step is a function of `key` and `state.step`: the same key may be given at
    every step. `rngs` is drawn from it, and random streams stored in the model (those of
    `nnx.Dropout(rngs=…)`) are seeded from it too. Other state that the model changes, such as
    the running statistics of `nnx.BatchNorm` or the recurrent state of `seqjax.nn.Stateful`, is
    carried.

    A step whose loss, gradient or update is not finite changes nothing but `state.step`: neither
    parameters nor the state of model and optimiser. Its metric `skipped` is True.

    Optimisers that need more than the gradient get it. `value` is the loss, `grad` the gradient,
    and `value_fn(params)` computes the loss of the same batch with the same randomness. So
    `optax.lbfgs`, line searches, `optax.contrib.reduce_on_plateau` and the like work as they are.

    If the loss or a metric does not depend on `batch["weights"]` (see `seqjax.data.batches`), the
    step leaves out the filler rows, so that they cannot count; this compiles one more shape.
    Lengths of sequences are checked. Neither is done inside a transformation of your own
    (`jax.jit`, `jax.vmap`, `jax.lax.scan`), where values are not known.

    Args:
      model: the module, or its graph definition; it is not changed.
      loss_fn: `loss_fn(model, batch, rngs) -> (loss, metrics)`: a float scalar to minimise, and
        a dict of scalars or `seqjax.metrics.Mean` to report (it may be empty).
      optimizer: any optax transformation, the one given to `init_state`.
      donate: whether the step may overwrite the arrays of the state it is given, which saves a copy
        of the model in memory; that state cannot be used afterwards.

    Returns:
      The step. Its metrics are those of `loss_fn`, `loss`, `grad_norm` and `skipped`. `grad_norm`
      is the global norm of the gradient of the loss, before the optimiser clips it.

    Raises:
      TypeError: `model` is not a module; a field of a batch that holds no numbers; at the first
        step, if the key is not a random key, if `loss_fn` does not return a pair of an array and a
        dict, or if the optimiser cannot update the model's parameters.
      ValueError: at the first step: a loss that is not a float scalar, a metric that is not a
        scalar or has a name that a history needs (`loss`, `grad_norm`, `skipped`, `epoch`, `step`,
        `seconds`), or a model whose state has changed its structure. At any step: integers beyond
        32 bits; a length that is negative or beyond the steps of its batch, if it is on the host
        (lengths on a device make the loss NaN instead); filler that would count and cannot be left
        out.

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
        updates, opt_state = update(
            transformation, grads, state.opt_state, state.params,
            value=loss, value_fn=lambda params: objective(params)[0],
            as_variables=lambda pure: nnx.state(
                nnx.merge(graphdef, pure, state.model_state), nnx.Param
            ),
        )  # fmt: skip
        params = optax.apply_updates(state.params, updates)
        finite = _all_finite((loss, grads, updates))
        changed = TrainState(params, model_state, opt_state, state.step + 1)
        unchanged = state._replace(step=state.step + 1)
        metrics |= {"loss": loss, "grad_norm": _global_norm(grads), "skipped": ~finite}
        return jax.tree.map(functools.partial(jnp.where, finite), changed, unchanged), metrics

    return GuardedStep(train_step, outline, "loss_fn", donate=donate)


def _reseed(module: nnx.Module, key: PRNGKey) -> None:
    """Seeds the random streams stored in the module, so that the step's key decides everything."""
    streams = (node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream))
    tags = sorted({stream.tag for stream in streams})
    keys: dict[str, Any] = {tag: jax.random.fold_in(key, index) for index, tag in enumerate(tags)}
    nnx.reseed(module, policy="match_shape", **keys)


def _checked_loss(result: Any) -> tuple[Array, dict[str, Any]]:
    """Return the loss and metrics from a loss function's result, or raise if it is none."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(
            f"loss_fn: expected (loss, metrics), a scalar and a dict, got {kind(result)}"
        )
    loss = checks.require_array("loss_fn", result[0], jnp.generic, "a float scalar as the loss")
    metrics = dict(result[1])
    if loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"loss_fn: expected a float scalar as the loss, got {kind(loss)}")
    for name in metrics:
        if name in _TAKEN:
            raise ValueError(f"loss_fn: expected metric names other than {_TAKEN}, got {name!r}")
    require_scalars("loss_fn", metrics)
    return loss, metrics


def _all_finite(tree: PyTree) -> Array:
    """Return whether all elements of all leaves are finite."""
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def _global_norm(grads: PyTree) -> Array:
    """Return the norm over all leaves, summed in float32 at least."""

    def square(grad: Array) -> Array:
        wide = grad if grad.dtype.itemsize >= 4 else grad.astype(jnp.float32)
        return jnp.sum(wide * wide)

    return jnp.sqrt(jnp.asarray(sum(map(square, jax.tree.leaves(grads)))))
