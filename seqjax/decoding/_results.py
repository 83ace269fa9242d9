"""Types of decoding: the step and alignment functions, and the results `Decoded` and `Scored`."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from seqjax.cells.ops import accumulator_dtype
from seqjax.types import Array, PyTree

__all__ = [
    "Alignment",
    "Decoded",
    "Scored",
    "Step",
    "attribute_of",
    "check_end",
    "gain_bound",
    "gains_of",
    "log_softmax",
]

Step: TypeAlias = Callable[[Array, PyTree], tuple[Array, PyTree]]
"""`step(tokens, state) -> (logits, state)`: tokens int32 `[N]`, logits float `[N, V]`.

The decoders normalise the logits by log softmax, with one exception: if the step has an attribute
`gain_bound`, it returns scores, which are used as they are. Two attributes of a step are optional:

- `gain_bound`: a number, an upper bound of the score of one token, such as 0 for log-probabilities.
- `check_end`: `check_end(end)` raises an error if the step does not have the end token `end`, which
  is None for a search without an end.

`LogLinear`, `NGram`, `WordNGram` and `Hotwords` have both attributes. `jax.jit(step)`, and a
function with `functools.wraps(step)`, have those of `step`. A lambda that calls `step` has none:
pass `step` itself, put `step` inside a `LogLinear`, or set the attributes."""
Alignment: TypeAlias = Callable[[PyTree], Array]
"""`alignment(state) -> weights`: the attention weights of the last step, float `[N, S]`."""


class Decoded(NamedTuple):
    """Outputs of a decoder: n outputs of up to L = `max_length` tokens for each of B sentences.

    All decoders return this type. The number n is 1 for `greedy`, `num_samples` for `sample` and
    `n_best` for `beam_search`.

    Attributes:
      tokens: int32 `[B, n, L]`. All positions after the last token contain the end token of the
        output.
      lengths: int32 `[B, n]`, the number of tokens before the end token; L if there is no end
        token.
      log_probs: float32 or wider `[B, n]`, the sum of log p(y_t | y_<t) over all tokens, including
        prefix and end token. Temperature and penalties do not change this sum.
      scores: `[B, n]` in the dtype of log_probs, the values by which outputs are ranked. The scores
        of `beam_search` are the log-probabilities with its penalties. The scores of `greedy` and
        `sample` are equal to log_probs.
      finished: bool `[B, n]`, whether the output has an end token. An output without an end token
        was cut off after L tokens.
      alignments: `[B, n, L, S]`, the attention weights of the step that produced each token,
        including the end token, and zeros after the end token; None without `alignment`.

    If an output does not exist (all outputs are forbidden, or a beam has fewer than n outputs), its
    log_probs and scores are -inf, its length is 0, all its tokens are the first end token, and
    `finished` is False. If logits of a sentence are NaN, log_probs are NaN for that sentence only.

    Sums of log-probabilities are computed in twice the precision of their dtype, so rounding errors
    do not grow with the length of an output.
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
      log_probs: float32 or wider `[...]`, the sum of the log-probabilities of the tokens of each
        output.
      token_log_probs: `[..., L]`, the log-probability of each token, including the end token; 0
        after the end token.
    """

    log_probs: Array
    token_log_probs: Array


def log_softmax(logits: Array) -> Array:
    """Return log softmax over the last axis in float32 or wider; rows of -inf stay -inf."""
    logits = logits.astype(accumulator_dtype(logits.dtype))
    top = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    shifted = logits - jnp.where(jnp.isneginf(top), 0.0, top)
    total = jnp.exp(shifted).sum(axis=-1, keepdims=True)
    return shifted - jnp.log(jnp.where(total == 0, 1.0, total))


def gain_bound(step: Step) -> Any:
    """Return the largest score that one token can have: 0 for log-probabilities.

    It is a float, or a traced scalar if the step's weights are traced.
    """
    return attribute_of(step, "gain_bound", 0.0)


def gains_of(step: Step, logits: Array) -> Array:
    """Return what the next tokens add to the score: log-probabilities, or the step's own scores."""
    if attribute_of(step, "gain_bound") is not None:
        return logits.astype(accumulator_dtype(logits.dtype))
    return log_softmax(logits)


def check_end(step: Step, end: int | None) -> None:
    """Raise if the step does not have the end for which a search asks, which may be None.

    The step says so by its method `check_end`. A step without this method has any end.
    """
    check = attribute_of(step, "check_end")
    if check is not None:
        check(end)


def attribute_of(step: Any, name: str, default: Any = None) -> Any:
    """Return an attribute of a step, or of the step that `jax.jit` or `functools.wraps` wrapped.

    Example:
      >>> def step(tokens, state):
      ...     return jnp.ones((len(tokens), 2)), state
      >>> step.gain_bound = 1.0
      >>> attribute_of(jax.jit(step), "gain_bound")
      1.0
    """
    owner = inspect.unwrap(step, stop=lambda inner: hasattr(inner, name))
    return getattr(owner, name, default)
