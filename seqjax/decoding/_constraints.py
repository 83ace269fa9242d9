"""Constraints on the next token: a minimum length, no repeated n-gram, and a forced prefix."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from seqjax.decoding._ends import is_end
from seqjax.types import Array

__all__ = ["Constraints", "apply_constraints"]


class Constraints(NamedTuple):
    """The constraints on the outputs of N hypotheses."""

    ends: tuple[int, ...]
    min_length: int
    no_repeat_ngram: int
    prefix: Array | None  # int32 [N, P]
    prefix_lengths: Array | None  # int32 [N]


def apply_constraints(constraints: Constraints, t: Array, tokens: Array, log_probs: Array) -> Array:
    """Return the log-probabilities `[N, V]` of the tokens at step t, -inf for forbidden tokens.

    The prefix has priority: no other constraint forbids a token of the prefix.
    """
    ends, min_length, ngram, prefix, prefix_lengths = constraints
    ids = jnp.arange(log_probs.shape[1], dtype=jnp.int32)[None]
    forbidden = jnp.zeros(log_probs.shape, bool)
    if min_length:
        forbidden = forbidden | (is_end(ids, ends) & (t < min_length))
    if 0 < ngram <= tokens.shape[1]:
        forbidden = forbidden | _repeats(tokens, t, ngram, log_probs.shape[1])
    if prefix is not None and prefix_lengths is not None:
        last = prefix.shape[1] - 1
        forced = lax.dynamic_slice_in_dim(prefix, jnp.minimum(t, last), 1, axis=1)
        forbidden = jnp.where((t < prefix_lengths)[:, None], ids != forced, forbidden)
    return jnp.where(forbidden, -jnp.inf, log_probs)


def _repeats(tokens: Array, t: Array, n: int, vocabulary: int) -> Array:
    """Return a mask `[N, V]` of tokens that at step t would repeat an n-gram of earlier tokens."""
    rows, steps = tokens.shape
    ends = jnp.arange(n - 1, steps, dtype=jnp.int32)  # last position of each n-gram
    found = jnp.broadcast_to((ends < t)[None], (rows, len(ends)))
    context = lax.dynamic_slice_in_dim(tokens, jnp.maximum(t - (n - 1), 0), n - 1, axis=1)
    for k in range(n - 1):
        found = found & (tokens[:, k : k + len(ends)] == context[:, k : k + 1])
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    count = jnp.zeros((rows, vocabulary), jnp.int32)
    return count.at[row, tokens[:, n - 1 :]].add(found.astype(jnp.int32)) > 0
