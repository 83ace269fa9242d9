"""Scoring: the log-probabilities of given outputs, computed with the step function of decoding."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax._compensated import add
from seqjax.decoding._ends import is_end
from seqjax.decoding._problem import make_problem
from seqjax.decoding._results import Scored, Step, gains_of
from seqjax.sequences import require_lengths
from seqjax.types import Array, PyTree

__all__ = ["score"]


def score(
    step: Step,
    state: PyTree,
    tokens: Any,
    *,
    lengths: Any = None,
    begin: Any,
    end: int | Iterable[int],
) -> Scored:
    """Return the log-probabilities of given outputs (teacher forcing).

        log p(y) = Σ_t log p(y_t | y_<t),   t = 1 … min(length + 1, L)

    Here y_{length + 1} is the end token. An output of length L has no end token, like an output
    that a decoder cut off after L tokens. For `Decoded.tokens` and `Decoded.lengths`, the resulting
    log_probs are `Decoded.log_probs`. The function is differentiable (it uses `jax.lax.scan`).

    Args:
      step: `step(tokens, state) -> (logits, state)`, see `greedy`.
      state: the state before the first step, a pytree of arrays `[B, …]`.
      tokens: int `[B, L]`, or `[B, n, L]` for n outputs per sentence. With one end token, the
        positions after the first `lengths` tokens may contain anything. With several end tokens,
        the position after the first `lengths` tokens must contain the end token of the output.
      lengths: int `[B]` or `[B, n]`, 0 to L, the number of tokens before the end token; the default
        is L.
      begin: int, or int `[B]`, the token that is the input of the first step.
      end: the end token, or several end tokens, each of which ends an output.

    Returns:
      `Scored(log_probs, token_log_probs)` with shapes `[B]` and `[B, L]`, or `[B, n]` and
      `[B, n, L]` with n outputs per sentence.

    Raises:
      TypeError: see `greedy`.
      ValueError: see `greedy`; outside tracing, also if a length is not from 0 to L, a token is
        outside the vocabulary, or an output ends with none of several end tokens. Under tracing,
        the log-probability of an invalid token is NaN.

    Example:
      >>> table = jnp.log(jnp.array([[0.2, 0.8], [0.5, 0.5]]))
      >>> def step(tokens, state):
      ...     return table[tokens], state
      >>> tokens = jnp.array([[1, 1, 0], [1, 1, 1]])
      >>> scored = score(step, (), tokens, lengths=[2, 3], begin=jnp.array([0, 0]), end=0)
      >>> print(jnp.exp(scored.log_probs).round(3))
      [0.2 0.2]
    """
    tokens = checks.require_ids("tokens", tokens, "integers [B, L] or [B, n, L]")
    if tokens.ndim not in (2, 3) or tokens.shape[-1] == 0 or 0 in tokens.shape[1:]:
        raise ValueError(f"tokens: expected [B, L] or [B, n, L], got {tokens.shape}")
    shape, steps = tokens.shape[:-1], tokens.shape[-1]
    lengths = require_lengths(np.full(shape, steps) if lengths is None else lengths, shape, steps)
    problem = make_problem(
        step, state, begin=begin, end=end, max_length=steps,
        copies=1 if tokens.ndim == 2 else shape[1],
    )  # fmt: skip
    if problem.batch != shape[0]:
        raise ValueError(f"tokens: expected B={problem.batch} as in state, got {tokens.shape}")
    position = jnp.arange(steps, dtype=jnp.int32).reshape(*[1] * len(shape), steps)
    real, last = position < lengths[..., None], position == lengths[..., None]
    checks.require_range("tokens", tokens, problem.vocabulary - 1, mask=real)
    inside = (tokens >= 0) & (tokens < problem.vocabulary) | ~real
    if len(problem.ends) > 1:
        known = is_end(tokens, problem.ends) | ~last
        if not checks.is_traced(known) and not bool(known.all()):
            raise ValueError(
                f"tokens: expected one of the end tokens {problem.ends} at each output's length, "
                f"got {int(tokens[~known][0])}"
            )
        real, inside = real | last, inside & known
    tokens = jnp.where(real, tokens.astype(jnp.int32), problem.ends[0]).reshape(-1, steps)
    counted = (position <= lengths[..., None]).reshape(-1, steps)
    inside = inside.reshape(-1, steps)

    def one(carry: tuple[Any, ...], xs: tuple[Array, ...]) -> tuple[Any, Array]:
        last, state, total = carry
        token, counts, known = xs
        logits, state = step(last, state)
        token = jnp.where(known, token, 0)
        gain = jnp.take_along_axis(gains_of(step, logits), token[:, None], axis=1)[:, 0]
        gain = jnp.where(counts, jnp.where(known, gain, jnp.nan), 0.0)
        return (token, state, add(total, gain)), gain

    over_time = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (tokens, counted, inside))
    zeros = jnp.zeros(len(tokens), problem.dtype)
    start = problem.begin, problem.state, (zeros, zeros)
    (_, _, (log_probs, _)), gains = jax.lax.scan(one, start, over_time)
    token_log_probs = jnp.moveaxis(gains, 0, 1).reshape(*shape, steps)
    return Scored(log_probs.reshape(shape), token_log_probs)
