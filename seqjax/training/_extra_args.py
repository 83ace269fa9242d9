"""Any optax transformation: those that want more than the gradient get it."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

from seqjax import checks
from seqjax.types import Array, PyTree

__all__ = ["update", "with_extra_args"]


def with_extra_args(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Return an optimiser whose update takes further arguments, which it may ignore.

    Raises:
      TypeError: not an optax transformation.

    Example:
      >>> isinstance(with_extra_args(optax.sgd(0.1)), optax.GradientTransformationExtraArgs)
      True
    """
    if isinstance(optimizer, optax.MultiSteps):
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "optimizer: expected one of optax's or of seqjax.training.optimizer, "
            f"got {checks.brief(optimizer)}"
        )
    return optax.with_extra_args_support(optimizer)


def update(
    optimizer: optax.GradientTransformationExtraArgs,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    *,
    value: Array,
    value_fn: Callable[[PyTree], Array],
) -> tuple[PyTree, PyTree]:
    """Return the updates of the parameters and the optimiser's new state.

    Args:
      optimizer: from `with_extra_args`.
      grads: the gradient.
      opt_state: the optimiser's state.
      params: the parameters.
      value: the loss.
      value_fn: computes the loss of given parameters.

    Raises:
      TypeError: the optimiser cannot do it; parameters in a form of its own are the usual cause.
    """

    # Line searches refuse arguments that neither they nor their value_fn take.
    def loss_of(params: PyTree, obj_fn: Any = None, grad_fn: Any = None) -> Array:
        return value_fn(params)

    extra: dict[str, Any] = {"value": value, "grad": grads, "value_fn": loss_of}
    # Sophia's name for value_fn, and the gradient that SAM takes at several points.
    extra |= {"obj_fn": value_fn, "grad_fn": lambda params, _: jax.grad(value_fn)(params)}
    accepted = inspect.signature(optimizer.update).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values()):
        extra = {name: value for name, value in extra.items() if name in accepted}
    try:
        updates, new_state = optimizer.update(grads, opt_state, params, **extra)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TypeError(
            "optimizer: expected an optax transformation that updates the model's parameters by "
            "their gradient, value, grad and value_fn, got one that fails with "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; "
            "optax.lookahead needs parameters of its own form and cannot be used"
        ) from error
    for what, new, old in (("updates", updates, grads), ("state", new_state, opt_state)):
        if jax.tree.structure(new) != jax.tree.structure(old):  # type: ignore[operator]
            raise TypeError(
                f"optimizer: expected {what} of the structure they had, got "
                f"{jax.tree.structure(new)}"
            )
    return updates, new_state
