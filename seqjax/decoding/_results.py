"""Types of decoding: the step function, and the results `Decoded` and `Scored`."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from seqjax.types import Array, PyTree

__all__ = ["Alignment", "Decoded", "Scored", "Step"]

Step: TypeAlias = Callable[[Array, PyTree], tuple[Array, PyTree]]
"""`step(tokens, state) -> (logits, state)`: tokens int32 `[N]`, logits float `[N, V]`."""
Alignment: TypeAlias = Callable[[PyTree], Array]
"""`alignment(state) -> weights` of the last step, float `[N, S]`."""


class Decoded(NamedTuple):
    """Outputs of a decoder: n for each of B sentences, up to L = `max_length` tokens each.

    Every decoder returns this structure (n is 1 for `greedy`, `num_samples` for `sample`, `n_best`
    for `beam_search`), so one takes the place of another.

    Attributes:
      tokens: int32 `[B, n, L]`; from an output's length on, all are the end token that ended it.
      lengths: int32 `[B, n]`, tokens before the end token; L where there is none.
      log_probs: float32 or wider `[B, n]`, Σ_t log p(y_t | y_<t) under the model alone: without
        penalties or temperature, the end token's and a prefix's included.
      scores: of the dtype of log_probs `[B, n]`, the ranking criterion: log_probs under
        the penalties of `beam_search`, which sorts by them, best first; else log_probs themselves.
      finished: bool `[B, n]`, whether the end token was produced. If not, the output was cut at L.
      alignments: `[B, n, L, S]`, row t the weights of the step that produced token t, the end token
        included, zeros after it; None if not asked for.

    Where no output exists (every one is forbidden, or a beam holds fewer than n) log_probs and
    scores are -inf, the length is 0, all tokens are the first end token, and finished is False. NaN
    logits make log_probs NaN, in their own sentence alone.

    Sums of log-probabilities keep twice the precision of their dtype until they are returned, so
    outputs of any length are ranked and scored as exactly as their single steps.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    scores: Array
    finished: Array
    alignments: Array | None


class Scored(NamedTuple):
    """Log-probabilities of given outputs.

    Attributes:
      log_probs: float32 or wider `[...]`, the sums over the tokens of each output.
      token_log_probs: `[..., L]`, of each token, the end token included, zeros after it.
    """

    log_probs: Array
    token_log_probs: Array
