"""Common optimisers with clipping, gradient accumulation and weight averaging, as optax chains."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqjax import checks
from seqjax._hints import hints
from seqjax.training._average import averaging

__all__ = ["optimizer"]

_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
    "rmsprop": optax.rmsprop,
}


@hints(
    lr="use learning_rate",
    momentum="use optax.sgd(learning_rate, momentum); fit takes any optax transformation",
    betas="use optax.adam(learning_rate, b1, b2); fit takes any optax transformation",
    eps="use optax.adam(learning_rate, eps=eps); fit takes any optax transformation",
)
def optimizer(
    learning_rate: float | optax.Schedule,
    *,
    name: str = "adam",
    clip_norm: float | None = None,
    clip_value: float | None = None,
    weight_decay: float | None = None,
    accumulate: int = 1,
    average: float | None = None,
) -> optax.GradientTransformation:
    """Return an optimiser with optional clipping, gradient accumulation and weight averaging.

        g ← max(-v, min(v, g))       with v = clip_value, element by element
        g ← g · min(1, c / ‖g‖₂)     with c = clip_norm, ‖g‖₂ over all parameters together
        update = name(learning_rate)(g)

    If clip_value and clip_norm are both given, the elements are clipped first. Scaling by the norm
    only makes the elements smaller, so both bounds hold.

        g = mean of the gradients of k batches        with k = accumulate, before clipping
        θ̄ ← θ̄ + (1 - min(β, n / (n + 1))) (θ - θ̄)      with β = average, after update n = 0, 1, …

    The result is an optax transformation. All functions of this package that take an optimiser
    accept any optax transformation.

    Args:
      learning_rate: a positive float, or a schedule of optax, step -> learning rate. The step of a
        schedule counts updates, so it increases once for every `accumulate` batches.
      name: "adam", "adamw", "sgd" or "rmsprop", each with optax's defaults.
      clip_norm: the largest global norm of the gradient. None means no clipping.
      clip_value: the largest absolute value of each element of the gradient. None means no
        clipping.
      weight_decay: the decoupled weight decay of "adamw". None means 1e-4, optax's default. The
        other optimisers do not have weight decay.
      accumulate: the number of batches whose gradients are averaged for one update, by
        `optax.MultiSteps`. All batches have the same weight, even if some have filler rows (rows of
        zeros that fill up a batch).
      average: the decay β, in (0, 1), of a running average of the weights, such as 0.999. At first
        the average is the mean of all weights so far. Later the average is exponential.
        Evaluation and the model that `fit` returns use the averaged weights. To get a state with
        the averaged weights, use `averaged`. None means no averaging.

    Returns:
      The optax transformation.

    Raises:
      TypeError: a learning rate or bound is not a number.
      ValueError: the name is unknown, a learning rate or bound is not positive, the optimiser does
        not have weight decay, or another number is out of its range.

    References:
      Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural networks,
      algorithm 1 (clipping by norm). Loshchilov, Hutter (2019), Decoupled weight decay
      regularization (adamw). Polyak, Juditsky (1992), Acceleration of stochastic approximation by
      averaging.

    Example:
      A warm-up is followed by a cosine decay. The norm of the update is the learning rate times the
      clipped norm of the gradient:

      >>> import jax.numpy as jnp, optax
      >>> from seqjax import training
      >>> schedule = optax.warmup_cosine_decay_schedule(
      ...     init_value=0.0, peak_value=0.1, warmup_steps=2, decay_steps=10
      ... )
      >>> [round(float(schedule(step)), 3) for step in (0, 1, 2, 10)]
      [0.0, 0.05, 0.1, 0.0]
      >>> clipped = training.optimizer(schedule, name="sgd", clip_norm=1.0)
      >>> gradient = {"w": jnp.array([30.0, 40.0])}
      >>> state = clipped.init(gradient)
      >>> for _ in range(3):
      ...     update, state = clipped.update(gradient, state)
      >>> round(float(optax.tree.norm(update)), 4)
      0.1
    """
    checks.require_name("name", name, _OPTIMIZERS)
    if not callable(learning_rate):
        _require_bound("learning_rate", learning_rate)
    options = {}
    if weight_decay is not None:
        if name != "adamw":
            raise ValueError(
                f"weight_decay: expected None for name={name!r}, got {weight_decay}; use "
                "name='adamw', or chain optax.add_decayed_weights"
            )
        options["weight_decay"] = checks.require_number("weight_decay", weight_decay, least=0)
    transformations = []
    if clip_value is not None:
        transformations.append(optax.clip(_require_bound("clip_value", clip_value)))
    if clip_norm is not None:
        transformations.append(_clip_by_norm(_require_bound("clip_norm", clip_norm)))
    transformations.append(_OPTIMIZERS[name](learning_rate, **options))
    if average is not None:
        transformations.append(averaging(average))
    chain = optax.chain(*transformations)
    if checks.require_integer("accumulate", accumulate) == 1:
        return chain
    return optax.MultiSteps(chain, accumulate).gradient_transformation()


def _clip_by_norm(largest: float) -> optax.GradientTransformation:
    """Return `optax.clip_by_global_norm`, computed by one factor that multiplies all gradients.

    Optax selects between the gradient and the gradient divided by its norm. XLA stores this
    quotient, because it does not compute a division more than once. For each parameter, the
    quotient needs an array of the size of the parameter; the product needs none.
    """

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norm = optax.tree.norm(gradients)
        factor = jnp.where(norm < largest, 1, largest / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _require_bound(name: str, value: float) -> float:
    """Return `value` as a float, or raise if it is not a positive, finite number."""
    try:
        number = None if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{name}: expected a positive number, got {value!r}")
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return number
