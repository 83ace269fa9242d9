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
    """Takes the most probable token at every step.

        y_t = argmax_v p(v | y_<t)

    Of equally probable tokens the first is taken. Decoding runs until each sentence has its end
    token.

    Args:
      step: `step(tokens, state) -> (logits, state)` with tokens int32 `[N]`, logits float `[N, V]`
        and a state like the one it is given; rows must not depend on each other.
      state: the state before the first step, a pytree of arrays `[B, …]`.
      begin: int, or int `[B]`, fed to the first step.
      end: the token that ends an output; or several, of which any ends it.
      max_length: L, the most tokens an output may have, the end token counted.
      min_length: the least tokens before the end token.
      prefix: int `[B, P]`, P up to L, the tokens every output must begin with; they stand in the
        result and in its log-probability. An `end` among them ends the output.
      prefix_lengths: int `[B]`, 0 to P, how many of them are meant; P if not given.
      alignment: `alignment(state)` reads the attention weights of the last step, `[N, S]`.

    Returns:
      `Decoded`, with n = 1.

    Raises:
      TypeError: a step that does not return (logits, state), tokens that are not integers.
      ValueError: shapes that do not fit, a state that changes its structure, shapes or dtypes, an
        `end` outside the vocabulary, a `begin` below 0, lengths that are not possible.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> table = jnp.array([[0.0, 3.0, 1.0], [0.0, 0.0, 2.0], [4.0, 1.0, 0.0]])
      >>> def step(tokens, state):  # what follows each of three tokens
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
