"""Log-linear combinations of step functions, such as a model and a language model."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp

from seqjax import checks
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
        if not isinstance(self.steps, Sequence):
            raise TypeError(f"steps: expected a list of functions, got {checks.brief(self.steps)}")
        if not self.steps:
            raise ValueError("steps: expected at least one step function, got none")
        for step in self.steps:
            if not callable(step):
                raise TypeError(f"steps: expected functions, got {checks.brief(step)}")
        weights = [1.0] * len(self.steps) if self.weights is None else self.weights
        if not isinstance(weights, Sequence) or len(weights) != len(self.steps):
            raise ValueError(
                f"weights: expected {len(self.steps)} numbers, one for each step, got "
                f"{checks.brief(weights)}"
            )
        for weight in weights:
            if not 0 <= checks.require_number("weights", weight) < math.inf:
                raise ValueError(f"weights: expected finite numbers of at least 0, got {weight}")
        if not math.isfinite(checks.require_number("length_bonus", self.length_bonus)):
            raise ValueError(f"length_bonus: expected a finite number, got {self.length_bonus}")
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "weights", tuple(map(float, weights)))

    @property
    def gain_bound(self) -> float:
        """The largest score that one token can have."""
        weights = self.weights or ()
        parts = (w * gain_bound(step) for step, w in zip(self.steps, weights, strict=True))
        return self.length_bonus + sum(parts)

    def __call__(self, tokens: Array, state: PyTree) -> tuple[Array, PyTree]:
        """Return the scores `[N, V]` of the next tokens, and the tuple of the new states."""
        if not isinstance(state, tuple):
            raise TypeError(f"state: expected a tuple of states, got {checks.brief(state)}")
        if len(state) != len(self.steps):
            raise ValueError(
                f"state: expected one state for each of {len(self.steps)} models, got {len(state)}"
            )
        results = [step(tokens, own) for step, own in zip(self.steps, state, strict=True)]
        shapes = [logits.shape for logits, _ in results]
        if len(set(shapes)) > 1:
            raise ValueError(f"steps: expected logits of one shape [N, V], got {shapes}")
        weighed = [
            weight * gains_of(step, logits)
            for step, weight, (logits, _) in zip(
                self.steps, self.weights or (), results, strict=True
            )
            if weight
        ]
        zero = jnp.zeros(shapes[0], jnp.float32)
        return sum(weighed, zero) + self.length_bonus, tuple(new for _, new in results)
