"""Sampling: tokens drawn from the model's distribution, or from the probable part of it."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.decoding._problem import log_softmax, make_problem
from seqjax.decoding._results import Alignment, Decoded, Step
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
    """Draws outputs token by token.

        q(v) ∝ p(v | y_<t)^(1/temperature)
        y_t ~ q, restricted to the top_k most probable tokens, and of these to the fewest whose
              probability, as a share of theirs, reaches top_p (the nucleus)

    Sample k of sentence b depends on the key, b and k, but neither on the number of samples nor on
    the other sentences.

    Args:
      step: `step(tokens, state) -> (logits, state)`, see `greedy`.
      state: the state before the first step, a pytree of arrays `[B, …]`.
      key: a random key.
      begin: int, or int `[B]`, fed to the first step.
      end: the token that ends an output; or several, of which any ends it.
      max_length: L, the most tokens an output may have, the end token counted.
      temperature: above 0; below 1 sharpens the distribution, above 1 flattens it.
      top_k: how many tokens to draw from; all if not given. Equally probable tokens come in the
        vocabulary's order; 1 is `greedy`.
      top_p: the nucleus' probability, in (0, 1]; all if not given.
      num_samples: n, outputs drawn for each sentence, independently: they may be equal.
      min_length: the least tokens before the end token.
      prefix: int `[B, P]`, the tokens every output must begin with, see `greedy`.
      prefix_lengths: int `[B]`, 0 to P, how many of them are meant; P if not given.
      alignment: `alignment(state)` reads the attention weights of the last step, `[N, S]`.

    Returns:
      `Decoded`, in the order drawn. log_probs are the model's own, not those of q.

    Raises:
      TypeError: as `greedy`, and something else than a key.
      ValueError: as `greedy`, and a temperature, top_k or top_p out of range.

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
            "temperature: expected a finite number of at least 1.2e-38 (`greedy` is its limit at "
            f"0), got {temperature}"
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
    """Return a key for each row, the same for any number of rows."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    sentences = fold(key, jnp.arange(batch, dtype=jnp.int32))
    rows = jax.vmap(fold, in_axes=(0, None))(sentences, jnp.arange(copies, dtype=jnp.int32))
    return rows.reshape(batch * copies, *rows.shape[2:])


def _chooser(
    keys: PRNGKey, temperature: float, top_k: int | None, top_p: float | None
) -> Callable[[Array, Array], Array]:
    """Draws a token from each row of log-probabilities."""

    def choose(t: Array, log_probs: Array) -> Array:
        # The largest becomes 0 first, so that no division can overflow to -inf for all tokens.
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
    """Return the fewest tokens whose share of the probability reaches top_p, bool `[N, V]`.

    They are those above a cut, the largest share with `top_p` at or above it, and of those at the
    cut the first few. The cut is found by bisection over the bits of floats, which are ordered as
    the floats are: exact, and on CPUs some thirty times faster than sorting the vocabulary.
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

    low = jnp.zeros((len(share), 1), jnp.int32)
    high = jnp.full_like(low, jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32))
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    cut = as_float(low)
    equal = share == cut
    count = jnp.cumsum(equal, axis=1, dtype=jnp.int32).astype(jnp.float32)
    before = mass(share > cut) + cut * (count - 1.0)
    return (share > cut) | (equal & (before < top_p))
