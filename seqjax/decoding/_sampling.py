"""Sampling of tokens from the model's distribution, or from its most probable part."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.decoding._problem import make_problem
from seqjax.decoding._results import Alignment, Decoded, Step, log_softmax
from seqjax.decoding._walk import walk
from seqjax.types import Array, PRNGKey, PyTree

__all__ = ["sample"]


def sample(
    step: Step,
    state: PyTree,
    key: PRNGKey,
    *,
    begin: Any,
    end: int | Iterable[int],
    max_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    num_samples: int = 1,
    min_length: int = 0,
    prefix: Any = None,
    prefix_lengths: Any = None,
    alignment: Alignment | None = None,
) -> Decoded:
    """Draw outputs token by token.

        q(v) ∝ p(v | y_<t)^(1/temperature)
        y_t ~ q

    First, `top_k` restricts q to the most probable tokens, and q is renormalised. Then `top_p`
    restricts q to the nucleus: the fewest most probable tokens whose total probability reaches
    top_p.

    Sample k of sentence b depends on the key, b and k, but neither on the number of samples nor on
    the other sentences.

    Args:
      step: `step(tokens, state) -> (logits, state)`, see `greedy`.
      state: the state before the first step, a pytree of arrays `[B, …]`.
      key: a random key.
      begin: int, or int `[B]`, the token that is the input of the first step.
      end: the end token, or several end tokens, each of which ends an output.
      max_length: L, the maximum number of tokens of an output, including the end token.
      temperature: a number above 0. Temperatures below 1 sharpen the distribution, and temperatures
        above 1 flatten it.
      top_k: the number of most probable tokens to draw from; the default is all tokens. Among
        equally probable tokens, lower ids come first. With `top_k=1`, the result is that of
        `greedy`.
      top_p: the total probability that the nucleus reaches, in (0, 1]; by default, there is no
        nucleus.
      num_samples: n, the number of outputs to draw for each sentence. The outputs are independent,
        so some may be equal.
      min_length: the minimum number of tokens before the end token.
      prefix: int `[B, P]`, the tokens with which the outputs begin, see `greedy`.
      prefix_lengths: int `[B]`, 0 to P, the number of prefix tokens per sentence (default: P).
      alignment: function `alignment(state)` that returns the attention weights `[N, S]` of the last
        step.

    Returns:
      `Decoded`, with the samples in the order drawn. The log_probs are those of the model's
      distribution p, not of the sampling distribution q.

    Raises:
      TypeError: see `greedy`; also if `key` is not a random key.
      ValueError: see `greedy`; also if `temperature`, `top_k` or `top_p` is out of range.

    References:
      Fan et al. 2018, Hierarchical Neural Story Generation (top-k).
      Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, eq. 2-3 (top-p).

    Example:
      >>> logits = jnp.log(jnp.array([0.1, 0.6, 0.3]))
      >>> def step(tokens, state):
      ...     return jnp.tile(logits, (len(tokens), 1)), state
      >>> decoded = sample(
      ...     step,
      ...     (),
      ...     jax.random.key(0),
      ...     begin=jnp.array([0]),
      ...     end=0,
      ...     max_length=1,
      ...     num_samples=1000,
      ... )
      >>> print((jnp.bincount(decoded.tokens.ravel()) / 1000).round(1))
      [0.1 0.6 0.3]
    """
    key = checks.require_key("key", key)
    temperature = checks.require_number("temperature", temperature)
    if not float(jnp.finfo(jnp.float32).tiny) <= temperature < float("inf"):
        raise ValueError(
            "temperature: expected a finite number of at least 1.2e-38, got "
            f"{temperature}; use greedy for the limit at 0"
        )
    if top_k is not None:
        top_k = checks.require_integer("top_k", top_k)
    if top_p is not None:
        top_p = checks.require_number("top_p", top_p)
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1], got {top_p}")
    problem = make_problem(
        step, state, begin=begin, end=end, max_length=max_length, min_length=min_length,
        prefix=prefix, prefix_lengths=prefix_lengths, alignment=alignment,
        copies=checks.require_integer("num_samples", num_samples),
    )  # fmt: skip
    keys = _row_keys(key, problem.batch, problem.copies)
    return walk(problem, _chooser(keys, temperature, top_k, top_p))


def _row_keys(key: PRNGKey, batch: int, copies: int) -> PRNGKey:
    """Return a key for each row. The key does not depend on the number of rows."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    sentences = fold(key, jnp.arange(batch, dtype=jnp.int32))
    rows = jax.vmap(fold, in_axes=(0, None))(sentences, jnp.arange(copies, dtype=jnp.int32))
    return rows.reshape(batch * copies, *rows.shape[2:])


def _chooser(
    keys: PRNGKey, temperature: float, top_k: int | None, top_p: float | None
) -> Callable[[Array, Array], Array]:
    """Return a function that draws a token from each row of log-probabilities."""

    def choose(t: Array, log_probs: Array) -> Array:
        # Shift the largest log-probability to 0, so that the division cannot overflow to -inf for
        # all tokens.
        top = log_probs.max(axis=1, keepdims=True)
        shifted = log_probs - jnp.where(jnp.isneginf(top), 0.0, top)
        chances, tokens = log_softmax(shifted / temperature), None
        if top_k is not None:
            chances, tokens = jax.lax.top_k(chances, min(top_k, chances.shape[1]))
        if top_p is not None:
            chances = jnp.where(_nucleus(chances, top_p), chances, -jnp.inf)

        def noise(key: PRNGKey) -> Array:
            return jax.random.gumbel(jax.random.fold_in(key, t), chances.shape[1:], chances.dtype)

        choice = jnp.argmax(chances + jax.vmap(noise)(keys), axis=1).astype(jnp.int32)
        return (
            choice if tokens is None else jnp.take_along_axis(tokens, choice[:, None], axis=1)[:, 0]
        )

    return choose


def _nucleus(log_probs: Array, top_p: float) -> Array:
    """Return a mask `[N, V]` of the nucleus: the fewest tokens whose probabilities sum to top_p.

    The cut is the largest probability such that the tokens with at least this probability together
    reach `top_p`. The nucleus consists of all tokens with probabilities above the cut, and of as
    many tokens with exactly this probability as are needed to reach `top_p`. The cut is found by
    bisection over the bits of non-negative floats, which, as integers, have the same order as the
    floats. The bisection is exact, and on CPUs about thirty times faster than sorting the
    vocabulary.
    """
    share = jnp.exp(log_softmax(log_probs)).astype(jnp.float32)

    def as_float(bits: Array) -> Array:
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    def mass(chosen: Array) -> Array:
        return jnp.where(chosen, share, 0.0).sum(axis=1, keepdims=True)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = high - (high - low) // 2
        enough = mass(share >= as_float(middle)) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    low = jnp.zeros((share.shape[0], 1), jnp.int32)
    high = jnp.full_like(low, jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32))
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    cut = as_float(low)
    equal = share == cut
    count = jnp.cumsum(equal, axis=1, dtype=jnp.int32).astype(jnp.float32)
    before = mass(share > cut) + cut * (count - 1.0)
    return (share > cut) | (equal & (before < top_p))
