"""Greedy decoding: the most probable token at every step."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from seqjax.decoding._problem import make_problem
from seqjax.decoding._results import Alignment, Decoded, Step
from seqjax.decoding._walk import walk
from seqjax.types import Array, PyTree

__all__ = ["greedy"]


def greedy(
    step: Step,
    state: PyTree,
    *,
    begin: Any,
    end: int | Iterable[int],
    max_length: int,
    min_length: int = 0,
    prefix: Any = None,
    prefix_lengths: Any = None,
    alignment: Alignment | None = None,
) -> Decoded:
    """Decode by taking the most probable token at every step.

        y_t = argmax_v p(v | y_<t)

    Among equally probable tokens, the one with the lowest id is taken. Decoding stops when every
    sentence has an end token, or after L = `max_length` tokens.

    Args:
      step: `step(tokens, state) -> (logits, state)` with tokens int32 `[N]` and logits float
        `[N, V]`. The returned state must have the structure, shapes and dtypes of the given state.
        The N rows must not depend on each other.
      state: the state before the first step, a pytree of arrays `[B, …]`.
      begin: int, or int `[B]`, the token that is the input of the first step.
      end: the end token, or several end tokens, each of which ends an output.
      max_length: L, the maximum number of tokens of an output, including the end token.
      min_length: the minimum number of tokens before the end token.
      prefix: int `[B, P]` with P up to L, the tokens with which the outputs begin. The result and
        its log-probability include the prefix. An end token in the prefix ends the output.
      prefix_lengths: int `[B]`, 0 to P, the number of prefix tokens per sentence (default: P).
      alignment: function `alignment(state)` that returns the attention weights `[N, S]` of the last
        step.

    Returns:
      `Decoded`, with n = 1.

    Raises:
      TypeError: if the step does not return (logits, state), or tokens are not integers.
      ValueError: if shapes do not fit, the state changes its structure, shapes or dtypes, `end` is
        outside the vocabulary, `begin` is below 0, or lengths are out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> table = jnp.array([[0.0, 3.0, 1.0], [0.0, 0.0, 2.0], [4.0, 1.0, 0.0]])
      >>> def step(tokens, state):  # logits of the next token, by the last one
      ...     return table[tokens], state
      >>> decode = jax.jit(lambda begin: greedy(step, (), begin=begin, end=0, max_length=5))
      >>> decoded = decode(jnp.array([0, 2]))
      >>> decoded.tokens[:, 0].tolist()
      [[1, 2, 0, 0, 0], [0, 0, 0, 0, 0]]
      >>> decoded.lengths[:, 0].tolist()
      [2, 0]
    """
    problem = make_problem(
        step, state, begin=begin, end=end, max_length=max_length, min_length=min_length,
        prefix=prefix, prefix_lengths=prefix_lengths, alignment=alignment,
    )  # fmt: skip

    def choose(t: Array, log_probs: Array) -> Array:
        return jnp.argmax(log_probs, axis=-1).astype(jnp.int32)

    return walk(problem, choose)
