"""The usual optimisers with clipping, accumulation and averaging, as one optax chain."""

import math
from collections.abc import Callable

import optax

from seqjax import checks
from seqjax.training._average import averaging

__all__ = ["optimizer"]

_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
    "rmsprop": optax.rmsprop,
}


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
    """Return an optimiser that clips the gradient before it uses it.

        g ← max(-v, min(v, g))       with v = clip_value, element by element
        g ← g · min(1, c / ‖g‖₂)     with c = clip_norm, ‖g‖₂ over all parameters together
        update = name(learning_rate)(g)

    With both bounds the value is clipped first; scaling down keeps it within ±v, so both hold.

        g = mean of the gradients of k batches        with k = accumulate, before clipping
        θ̄ ← θ̄ + (1 - min(β, n / (n + 1))) (θ - θ̄)      with β = average, after update n = 0, 1, …

    The result is a plain optax chain; functions that take it take any optax transformation.

    Args:
      learning_rate: a positive float, or a schedule step -> learning rate; schedules are optax's,
        and count updates: one every `accumulate` batches.
      name: "adam", "adamw", "sgd" or "rmsprop", each with optax's defaults.
      clip_norm: bound on the gradient's global norm; None leaves it.
      clip_value: bound on each element of the gradient; None leaves it.
      weight_decay: decoupled decay of "adamw" (None: 1e-4, optax's default). The others take none.
      accumulate: the number of batches whose gradients are averaged for one update, by
        `optax.MultiSteps`; each batch has the same weight, whatever its contents.
      average: the decay β, in (0, 1), of a running average of the weights, such as 0.999: at first
        the plain mean of all, later exponential. Evaluation and the model of `fit` use the
        averaged weights; `averaged` gives a state with them. None keeps none.

    Returns:
      The optax transformation.

    Raises:
      TypeError: a learning rate or bound that is not a number.
      ValueError: an unknown name, a learning rate or bound that is not positive, a weight decay
        for an optimiser that has none, or a number that is out of its range.

    References:
      Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural networks,
      algorithm 1 (clipping by norm). Loshchilov, Hutter (2019), Decoupled weight decay
      regularization (adamw). Polyak, Juditsky (1992), Acceleration of stochastic approximation by
      averaging.

    Example:
      A warm-up followed by a cosine decay; the step below is bounded by the peak learning rate
      times the clipped norm:

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
                f"weight_decay: only 'adamw' decays weights, got name={name!r}; "
                "use 'adamw' or chain optax.add_decayed_weights"
            )
        if not 0.0 <= checks.require_number("weight_decay", weight_decay) < math.inf:
            raise ValueError(f"weight_decay: expected a number >= 0, got {weight_decay}")
        options["weight_decay"] = weight_decay
    transformations = []
    if clip_value is not None:
        transformations.append(optax.clip(_require_bound("clip_value", clip_value)))
    if clip_norm is not None:
        transformations.append(optax.clip_by_global_norm(_require_bound("clip_norm", clip_norm)))
    transformations.append(_OPTIMIZERS[name](learning_rate, **options))
    if average is not None:
        transformations.append(averaging(average))
    chain = optax.chain(*transformations)
    if checks.require_integer("accumulate", accumulate) == 1:
        return chain
    return optax.MultiSteps(chain, accumulate).gradient_transformation()


def _require_bound(name: str, value: float) -> float:
    """Returns `value` as a float, or raises if it is not a positive finite number."""
    try:
        number = None if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{name}: expected a positive number, got {value!r}")
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return number
