"""Log-linear combinations of step functions, such as a model and a language model."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp

from seqjax import checks
from seqjax.decoding._ensembles import checked_steps, run_all
from seqjax.decoding._results import Step, gain_bound, gains_of
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
    weights: Sequence[float] | None = None
    length_bonus: float = 0.0

    def __post_init__(self) -> None:
        steps = checked_steps(self.steps)
        weights = [1.0] * len(steps) if self.weights is None else self.weights
        if not isinstance(weights, Sequence) or len(weights) != len(steps):
            raise ValueError(
                f"weights: expected {len(steps)} numbers, one for each step, got "
                f"{checks.brief(weights)}"
            )
        for weight in weights:
            if not 0 <= checks.require_number("weights", weight) < math.inf:
                raise ValueError(f"weights: expected finite numbers of at least 0, got {weight}")
        if not math.isfinite(checks.require_number("length_bonus", self.length_bonus)):
            raise ValueError(f"length_bonus: expected a finite number, got {self.length_bonus}")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "weights", tuple(map(float, weights)))

    @property
    def gain_bound(self) -> float:
        """The largest score that one token can have."""
        weights = self.weights or ()
        parts = (w * gain_bound(step) for step, w in zip(self.steps, weights, strict=True))
        return self.length_bonus + sum(parts)

    def __call__(self, tokens: Array, state: PyTree) -> tuple[Array, PyTree]:
        """Return the scores `[N, V]` of the next tokens, and the tuple of the new states."""
        steps = tuple(self.steps)
        every, new = run_all(steps, tokens, state)
        weighed = [
            weight * gains_of(step, logits)
            for step, weight, logits in zip(steps, self.weights or (), every, strict=True)
            if weight
        ]
        zero = jnp.zeros(every[0].shape, jnp.float32)
        return sum(weighed, zero) + self.length_bonus, new
