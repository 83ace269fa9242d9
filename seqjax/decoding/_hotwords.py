"""A bonus for given phrases, such as names that a model rarely saw."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.decoding._calls import checked_call
from seqjax.decoding._tables import table
from seqjax.types import Array

__all__ = ["Hotwords", "checked_phrase", "checked_tokens"]


class Hotwords:
    """A step function that rewards outputs for each occurrence of given phrases.

        s(Y) = bonus · Σ |phrase|,   over all occurrences of the phrases in Y

    A token that continues a phrase already earns its bonus, so that a beam keeps the beginning of
    the phrase. If the phrase is not completed, the bonus is taken back. Phrases may overlap. All
    phrases are followed at once in a trie, whose nodes also lead to the longest suffix that begins
    another phrase (Aho and Corasick 1975).

    Use it as one of the steps of a `LogLinear`. The state is a node of the trie, int32 `[N]`, and
    the initial state is `initial_state(batch_size)`.

    Args:
      phrases: lists of tokens, each a non-empty list of integers from 0 to V - 1.
      vocabulary_size: V, the number of tokens.
      bonus: the score of one token of a phrase, a positive number.

    Attributes:
      gain_bound: the largest score that one token can earn.

    Raises:
      TypeError: a phrase is not a list of integers.
      ValueError: there is no phrase, a phrase is empty, or a token is out of range.

    References:
      Aho, Corasick 1975, Efficient String Matching: An Aid to Bibliographic Search.

    Example:
      >>> names = Hotwords([[2, 3]], vocabulary_size=5, bonus=1.5)
      >>> scores, node = names(jnp.array([2]), names.initial_state(1))  # the token 2 came first
      >>> scores.tolist()  # the token 3 completes the phrase; others give the bonus of 2 back
      [[-1.5, -1.5, 0.0, 1.5, -1.5]]
    """

    def __init__(
        self, phrases: Iterable[Sequence[int]], *, vocabulary_size: int, bonus: float = 1.0
    ) -> None:
        size = checks.require_integer("vocabulary_size", vocabulary_size)
        bonus = checks.require_positive("bonus", bonus)
        if isinstance(phrases, (str, bytes)) or not isinstance(phrases, Iterable):
            raise TypeError(f"phrases: expected lists of integers, got {checks.brief(phrases)}")
        known = [checked_phrase("phrases", phrase, size) for phrase in phrases]
        self._tokens = frozenset(token for phrase in known for token in phrase)
        if not known:
            raise ValueError("phrases: expected at least one phrase, got none")
        following, reward, depth, ends = _automaton(known, size)
        # A node that ends a phrase holds no bonus that could be taken back.
        held = np.where(ends, 0.0, depth)
        gains = held[following] - held[:, None] + reward[following]
        self._following = table(following)
        self._gains = table(bonus * gains, jnp.float32)
        self.gain_bound = float(bonus * gains.max())

    def check_end(self, end: int | None) -> None:
        """Raise if a search has no end, or one that is in a phrase.

        At the end, the bonus of a phrase that is not complete is taken back.
        """
        if end is None or end in self._tokens:
            raise ValueError(
                "end: expected a token that is in no phrase of the Hotwords, such as the blank, "
                f"got {end}"
            )

    def initial_state(self, batch_size: int) -> Array:
        """Return the state before the first token, int32 `[N]`."""
        return jnp.zeros((checks.require_size("batch_size", batch_size),), jnp.int32)

    def __call__(self, tokens: Any, state: Any) -> tuple[Array, Array]:
        """Return the scores `[N, V]` of the next tokens, and the new state.

        Args:
          tokens: int `[N]`, the previous tokens. A token that is out of range, such as a begin
            token, leads to the start of the trie.
          state: int32 `[N]`.
        """
        tokens, state = checked_call(tokens, state)
        known = (tokens >= 0) & (tokens < self._following.shape[1])
        node = jnp.where(known, self._following[state, jnp.where(known, tokens, 0)], 0)
        return self._gains[node], node


def checked_phrase(name: str, phrase: Any, size: int) -> list[int]:
    """Return a non-empty list of tokens below V, or raise."""
    tokens = checked_tokens(name, phrase, size, "lists of integers")
    if not tokens:
        raise ValueError(f"{name}: expected non-empty {name}, got an empty one")
    return tokens


def checked_tokens(name: str, sequence: Any, size: int, expected: str) -> list[int]:
    """Return a list of tokens below V, which may be empty, or raise."""
    try:
        tokens = np.asarray(sequence)
    except ValueError:
        tokens = np.asarray(None)
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise TypeError(f"{name}: expected {expected}, got {checks.brief(sequence)}")
    checks.require_range(name, tokens, size - 1)
    return [int(token) for token in tokens]


def _automaton(
    phrases: list[list[int]], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the trie as arrays over its nodes; node 0 is the root.

    Returns:
      The next node `[nodes, V]`; the tokens of the phrases that end at each node; the depth; and
      whether a phrase ends exactly at the node.
    """
    children: list[dict[int, int]] = [{}]
    depth, own = [0], [0]
    for phrase in map(list, sorted({tuple(phrase) for phrase in phrases})):
        node = 0
        for token in phrase:
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
                depth.append(depth[node] + 1)
                own.append(0)
            node = children[node][token]
        own[node] = len(phrase)
    following = np.zeros((len(children), size), np.int32)
    reward, suffix = np.array(own), np.zeros(len(children), int)
    queue = deque([0])
    while queue:  # parents before children, so that the shorter suffix is known
        node = queue.popleft()
        if node:
            following[node] = following[suffix[node]]
            reward[node] += reward[suffix[node]]
        for token, child in children[node].items():
            suffix[child] = following[node, token] if node else 0
            following[node, token] = child
            queue.append(child)
    return following, reward, np.array(depth), np.array(own) > 0
