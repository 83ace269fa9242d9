"""Log-linear combinations of step functions, such as a model and a language model."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import jax.numpy as jnp

from seqjax import checks
from seqjax.decoding._ensembles import checked_steps, run_all
from seqjax.decoding._results import Step, attribute_of, check_end, gain_bound, gains_of
from seqjax.types import Array, PyTree

__all__ = ["LogLinear"]


@dataclasses.dataclass(frozen=True)
class LogLinear:
    """A step function that returns a weighted sum of the log-probabilities of several models.

        s(y_t | y_<t) = Σ_m w_m log p_m(y_t | y_<t) + b

    The decoders do not normalise these scores. `greedy` and `sample` therefore choose from
    softmax(s), and `beam_search` ranks outputs by their sums. With two models and the weights 1 and
    λ, this is shallow fusion; with one weight of 1/M for each of M models, it is a geometric mean.

    Args:
      steps: M step functions over the same vocabulary: models, an `NGram`, or `Hotwords`.
      weights: the M weights w_m, finite and at least 0. If they are not given, all are 1. A model
        with weight 0 runs, but has no effect, even if it forbids a token.
      length_bonus: b, a finite number that each token adds to the score, also an end token. It
        makes up for the preference of weighted sums for short outputs.

    Weights and bonus may also be scalars traced by `jax.jit`. Then one compiled search serves for
    all the values that are tried on validation data. Values of traced scalars are not checked.

    Attributes:
      gain_bound: the largest score that one token can have.

    The state is a tuple of the models' states.

    Raises:
      TypeError: a step is not callable, or a weight is not a number. A call raises TypeError if the
        state is not a tuple.
      ValueError: there are no steps, or weights do not fit. A call raises ValueError if
        vocabularies have different sizes, or the number of states is not M.

    References:
      Gulcehre et al. 2015, On Using Monolingual Corpora in Neural Machine Translation (shallow
      fusion).

    Example:
      >>> def always(logits):
      ...     return lambda tokens, state: (jnp.tile(jnp.array(logits), (len(tokens), 1)), state)
      >>> fused = LogLinear([always([0.0, 0.0]), always([0.0, -jnp.inf])], [1.0, 0.5])
      >>> scores, state = fused(jnp.zeros(1, jnp.int32), ((), ()))
      >>> print(scores.round(4))  # log 1/2 + 0.5 log 1; the second model forbids the other token
      [[-0.6931    -inf]]
    """

    steps: Sequence[Step]
    weights: Sequence[float | Array] | None = None
    length_bonus: float | Array = 0.0

    def __post_init__(self) -> None:
        steps = checked_steps(self.steps)
        weights = [1.0] * len(steps) if self.weights is None else self.weights
        if not isinstance(weights, Sequence) or len(weights) != len(steps):
            raise ValueError(
                f"weights: expected {len(steps)} numbers, one for each step, got "
                f"{checks.brief(weights)}"
            )
        known = tuple(checks.require_scalar("weights", weight, _weight) for weight in weights)
        checks.require_scalar("length_bonus", self.length_bonus)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "weights", known)

    @property
    def gain_bound(self) -> Any:
        """The largest score that one token can have."""
        weights = self.weights or ()
        parts = (w * gain_bound(step) for step, w in zip(self.steps, weights, strict=True))
        return self.length_bonus + sum(parts)

    def check_end(self, end: int | None) -> None:
        """Raise if a step does not have the end for which a search asks."""
        for step in self.steps:
            check_end(step, end)

    def initial_state(self, batch_size: int) -> PyTree:
        """Return the tuple of the states of the steps before the first token.

        Raises:
          TypeError: a step is a function without a method `initial_state`.
        """
        makers = [attribute_of(step, "initial_state") for step in self.steps]
        for step, maker in zip(self.steps, makers, strict=True):
            if not callable(maker):
                raise TypeError(
                    f"steps: expected models with a method initial_state, got "
                    f"{checks.brief(step)}; pass a tuple with the state of each step instead"
                )
        return tuple(cast(Any, maker)(batch_size) for maker in makers)

    def __call__(self, tokens: Array, state: PyTree) -> tuple[Array, PyTree]:
        """Return the scores `[N, V]` of the next tokens, and the tuple of the new states."""
        steps = tuple(self.steps)
        every, new = run_all(steps, tokens, state)
        total = jnp.zeros(every[0].shape, jnp.float32)
        for step, weight, logits in zip(steps, self.weights or (), every, strict=True):
            if checks.is_traced(weight):
                # The product of 0 and -inf would be NaN, as would the gradient of any weight.
                gains = gains_of(step, logits)
                finite = jnp.isfinite(gains)
                other = jnp.where(weight == 0, 0.0, gains)
                total += jnp.where(finite, weight * jnp.where(finite, gains, 0.0), other)
            elif weight:
                total += weight * gains_of(step, logits)
        return total + self.length_bonus, new


def _weight(name: str, value: Any) -> float:
    return checks.require_number(name, value, least=0)
