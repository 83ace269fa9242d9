"""Support for optax transformations that need more arguments than the gradient."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

from seqjax import checks
from seqjax.types import Array, PyTree

__all__ = ["init", "update", "with_extra_args"]


_FAILURES = (AttributeError, KeyError, TypeError, ValueError)


def with_extra_args(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Return an optimiser whose `update` accepts, and may ignore, extra arguments.

    Raises:
      TypeError: optimizer is not an optax transformation.

    Example:
      >>> isinstance(with_extra_args(optax.sgd(0.1)), optax.GradientTransformationExtraArgs)
      True
    """
    if isinstance(optimizer, optax.MultiSteps):
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "optimizer: expected an optax transformation or the result of "
            f"seqjax.training.optimizer, got {checks.brief(optimizer)}"
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
    as_variables: Callable[[PyTree], PyTree],
) -> tuple[PyTree, PyTree]:
    """Return the updates of the parameters and the optimiser's new state.

    Args:
      optimizer: the result of `with_extra_args`.
      grads: the gradient.
      opt_state: the optimiser's state.
      params: the parameters.
      value: the loss.
      value_fn: a function from parameters to the loss.
      as_variables: a function that converts parameters to the form of `nnx.state(model,
        nnx.Param)`. The function is only used if the update fails with plain arrays, as it does for
        optimisers whose masks or labels have the form of `nnx.state`.

    Raises:
      TypeError: the update fails both with plain arrays and with variables.
    """
    try:
        return _update(optimizer, grads, opt_state, params, value, value_fn)
    except TypeError as error:
        forms = as_variables(grads), opt_state, as_variables(params)
        try:
            updates, new_state = _update(
                optimizer, *forms, value, lambda params: value_fn(nnx.as_pure(params))
            )
        except TypeError:
            raise error from error.__cause__
        return nnx.as_pure(updates), new_state


def init(
    optimizer: optax.GradientTransformationExtraArgs, params: PyTree, variables: PyTree
) -> PyTree:
    """Return the initial state of the optimiser.

    Args:
      optimizer: the result of `with_extra_args`.
      params: the parameters.
      variables: the parameters in the form of `nnx.state(model, nnx.Param)`. The optimiser gets
        `variables` if it fails with `params`.

    Raises:
      TypeError: the optimiser fails both with `params` and with `variables`.
    """
    try:
        return optimizer.init(params)
    except _FAILURES as error:
        try:
            return optimizer.init(variables)
        except _FAILURES:
            raise TypeError(
                "optimizer: expected an optax transformation for the model's parameters (masks and "
                "labels must have the form of nnx.state(model, nnx.Param)), got one that "
                f"{_fails(error)}"
            ) from error


def _update(
    optimizer: optax.GradientTransformationExtraArgs,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    value: Array,
    value_fn: Callable[[PyTree], Array],
) -> tuple[PyTree, PyTree]:
    # Line searches pass arguments that they do not know to value_fn, and raise an error if value_fn
    # does not accept them. Therefore this value_fn accepts `obj_fn` and `grad_fn`.
    def loss_of(params: PyTree, obj_fn: Any = None, grad_fn: Any = None) -> Array:
        return value_fn(params)

    extra: dict[str, Any] = {"value": value, "grad": grads, "value_fn": loss_of}
    # `obj_fn` is Sophia's name for value_fn. SAM computes the gradient at several points, with
    # `grad_fn`.
    extra |= {"obj_fn": value_fn, "grad_fn": lambda params, _: jax.grad(value_fn)(params)}
    accepted = inspect.signature(optimizer.update).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values()):
        extra = {name: value for name, value in extra.items() if name in accepted}
    try:
        updates, new_state = optimizer.update(grads, opt_state, params, **extra)
    except _FAILURES as error:
        # Only optax.LookaheadParams has this attribute.
        lookahead = isinstance(error, AttributeError) and "'fast'" in str(error)
        hint = "; optax.lookahead needs parameters of its own form and cannot be used"
        raise TypeError(
            "optimizer: expected an optax transformation that updates the model's parameters from "
            f"their gradient, value, grad and value_fn, got one that {_fails(error)}"
            + (hint if lookahead else "")
        ) from error
    for what, new, old in (("updates", updates, grads), ("state", new_state, opt_state)):
        if jax.tree.structure(new) != jax.tree.structure(old):  # type: ignore[operator]
            raise TypeError(
                f"optimizer: expected {what} of the structure {jax.tree.structure(old)}, got "
                f"{jax.tree.structure(new)}"
            )
    return updates, new_state


def _fails(error: Exception) -> str:
    text = str(error).splitlines()
    return f"fails with {type(error).__name__}: {text[0] if text else ''}"
