"""N-gram language models with backoff as step functions: read from ARPA files, or counted."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.decoding._arpa import read_arpa
from seqjax.decoding._calls import checked_call
from seqjax.decoding._entries import (
    Entries,
    checked_id,
    checked_unknown,
    entries_of,
    require_end,
    with_histories,
)
from seqjax.decoding._hotwords import checked_tokens
from seqjax.decoding._tables import table
from seqjax.types import Array

__all__ = ["NGram"]

DENSE = 2**20
"""The largest table of log p, in numbers, that a model stores in addition to its n-grams."""


class NGram:
    """An n-gram language model with backoff, as a step function for any decoder.

        p(w | h) = p*(w | h)       if the model lists h w
                 = b(h) p(w | h')  otherwise,   h' = h without its oldest token

    The state is the longest listed suffix of the tokens so far, as an index, int32 `[N]`; the
    initial state is `initial_state(batch_size)`. A step finds the listed n-grams by bisection, so
    the memory is proportional to the number of n-grams. A small model also stores log p of all
    tokens after each history, which makes a step faster.

    `NGram.from_arpa` reads a model, and `NGram.fit` counts one.

    Attributes:
      order: n, the length of the longest n-grams.
      vocabulary_size: V.
      end: the id that ends a sequence; None if there is none.
      gain_bound: the largest log-probability, 0.

    References:
      Katz 1987, Estimation of Probabilities from Sparse Data (backoff).
    """

    gain_bound = 0.0

    def __init__(
        self,
        entries: Entries,
        vocabulary_size: int,
        *,
        end: int | None = None,
        unknown: float = -math.inf,
    ) -> None:
        """Make a model of the n-grams `entries`; `unknown` is log p of a token without unigram."""
        self.vocabulary_size = checks.require_integer("vocabulary_size", vocabulary_size)
        self.end = end
        if not entries:
            raise ValueError("entries: expected at least one n-gram, got none")
        entries = with_histories(entries, float(unknown))
        # A history without continuations and without a backoff weight is as good as a shorter one.
        histories = {()} | {gram[:-1] for gram in entries}
        histories |= {gram for gram, (_, backoff) in entries.items() if backoff}
        self.order = 1 + max(map(len, histories))
        index = {gram: n for n, gram in enumerate(sorted(histories, key=lambda g: (len(g), g)))}

        def state_after(gram: tuple[int, ...]) -> int:
            gram = gram[-(self.order - 1) :] if self.order > 1 else ()
            while gram not in index:
                gram = gram[1:]
            return index[gram]

        # The n-grams h w, ordered by h and then by w, so that bisection finds w among those of h.
        listed = sorted((index[gram[:-1]], gram[-1], gram) for gram in entries if gram)
        first = np.searchsorted([row[0] for row in listed], np.arange(len(index) + 1))
        self._first = table(first, jnp.int32)
        self._tokens = table([row[1] for row in listed], jnp.int32)
        self._log_p = table([entries[row[2]][0] for row in listed], jnp.float32)
        self._next = table([state_after(row[2]) for row in listed], jnp.int32)
        # Each state's chain of ever shorter suffixes, ending with the empty one, and their backoff.
        chains = np.zeros((len(index), self.order), np.int32)
        backoff = np.zeros(len(index))
        for gram, state in index.items():
            backoff[state] = entries[gram][1] if gram in entries else 0.0
            shorter = [index[gram[k:]] for k in range(len(gram) + 1) if gram[k:] in index]
            chains[state, : len(shorter)] = shorter
        self._chains, self._backoff = table(chains), table(backoff, jnp.float32)
        self._unknown = float(unknown)
        self._rounds = int(max(np.diff(first), default=0)).bit_length()
        self._rows: Array | None = None
        if len(index) * self.vocabulary_size <= DENSE:
            rows = np.full((len(index), self.vocabulary_size), self._unknown)
            for state in range(len(index)):  # shorter histories first
                if state:
                    rows[state] = rows[chains[state, 1]] + backoff[state]
                for _, token, gram in listed[first[state] : first[state + 1]]:
                    rows[state, token] = entries[gram][0]
            self._rows = table(rows, jnp.float32)

    @classmethod
    def from_arpa(
        cls,
        source: str | Path | Iterable[str],
        tokens: Sequence[str | None],
        *,
        begin: int,
        end: int | None = None,
        unknown: float | None = None,
    ) -> "NGram":
        r"""Read a model from a file in the ARPA format, also compressed (`.gz`).

        Args:
          source: the path of the file, or its lines.
          tokens: the V words or symbols of the model, in the order of the token ids. N-grams with
            other words are left out. None stands for an id without a word, such as a blank.
          begin: the id that stands for `<s>`, as input of the first step.
          end: the id that stands for `</s>`; None if outputs have no end token.
          unknown: log p, in nats, of a token that the file does not list. By default it is that of
            `<unk>`, and the file must list at least half of the tokens; if the file has no `<unk>`,
            it must list all tokens.

        Raises:
          OSError: the file cannot be read.
          ValueError: the file is not a valid ARPA file; a token is listed twice in `tokens`;
            `begin` or `end` is the id of a word of the file; `end` is given, and the file has no
            `</s>`; or too few tokens are listed, for example because the file is a model of words
            and the tokens are letters (see `WordNGram`).

        Example:
          >>> lines = [
          ...     "\\data\\",
          ...     "ngram 1=3",
          ...     "ngram 2=1",
          ...     "\\1-grams:",
          ...     "-99 <s> -0.3",
          ...     "-0.5 a",
          ...     "-0.5 </s>",
          ...     "\\2-grams:",
          ...     "-0.1 <s> a",
          ...     "\\end\\",
          ... ]
          >>> model = NGram.from_arpa(lines, [None, "a"], begin=0, end=0)
          >>> log_p, state = model(jnp.array([0]), model.initial_state(1))
          >>> [f"{x:.2f}" for x in log_p[0] / jnp.log(10)]  # </s> backs off: -0.3 - 0.5
          ['-0.80', '-0.10']
        """
        size = len(tokens)
        begin = checked_id("begin", begin, size)
        end = None if end is None else checked_id("end", end, size)
        unknown = None if unknown is None else checked_unknown(unknown)
        entries, other = entries_of(read_arpa(source), tokens, begin, end, unknown)
        return cls(entries, size, end=end, unknown=other)

    @classmethod
    def fit(
        cls,
        sequences: Iterable[Sequence[int]],
        *,
        order: int,
        vocabulary_size: int,
        begin: int,
        end: int | None = None,
    ) -> "NGram":
        """Count a model from sequences of tokens, with the smoothing of Witten and Bell.

            p(w | h) = (c(h w) + N(h) p(w | h')) / (c(h) + N(h))

        Here c counts n-grams, N(h) is the number of different tokens after h, and the lowest order
        is interpolated with the uniform distribution over V tokens.

        Args:
          sequences: lists of token ids, without begin and end tokens.
          order: n, at least 1.
          vocabulary_size: V.
          begin: the id that is the input of the first step.
          end: the id that ends a sequence; None if outputs have no end token.

        Raises:
          ValueError: there are no tokens, or a token is out of range.

        References:
          Chen, Goodman 1999, An Empirical Study of Smoothing Techniques for Language Modeling.

        Example:
          >>> model = NGram.fit([[1, 2], [1, 1]], order=2, vocabulary_size=3, begin=0, end=0)
          >>> log_p, _ = model(jnp.array([0]), model.initial_state(1))  # after the begin token
          >>> jnp.exp(log_p).sum().round(4).item(), int(log_p.argmax())
          (1.0, 1)
        """
        order = checks.require_integer("order", order)
        size = checks.require_integer("vocabulary_size", vocabulary_size)
        begin = checked_id("begin", begin, size)
        end = None if end is None else checked_id("end", end, size)
        counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for sequence in sequences:
            ids = checked_tokens("sequences", sequence, size, "lists of token ids")
            read = [begin, *ids] + ([] if end is None else [end])
            for at in range(1, len(read)):
                for length in range(min(order, at + 1)):
                    counts[tuple(read[at - length : at])][read[at]] += 1
        if not counts:
            raise ValueError("sequences: expected at least one token, got none")
        p: dict[tuple[int, ...], float] = {}
        weight = {h: len(c) / (c.total() + len(c)) for h, c in counts.items()}

        def smoothed(history: tuple[int, ...], token: int) -> float:
            gram = (*history, token)
            if gram in p:
                return p[gram]
            return weight[history] * lower(history, token)

        def lower(history: tuple[int, ...], token: int) -> float:
            return smoothed(history[1:], token) if history else 1 / size

        for history in sorted(counts, key=len):  # shorter histories first
            seen = counts[history]
            tokens = range(size) if not history else seen
            for token in tokens:
                share = seen[token] / (seen.total() + len(seen))
                p[*history, token] = share + weight[history] * lower(history, token)
        entries = {
            gram: (math.log(value), math.log(weight.get(gram, 1.0))) for gram, value in p.items()
        }
        for history, value in weight.items():
            if history and history not in entries:  # begins with the begin token, never predicted
                entries[history] = -math.inf, math.log(value)
        return cls(entries, size, end=end)

    def initial_state(self, batch_size: int) -> Array:
        """Return the state before the begin token, int32 `[N]`."""
        return jnp.zeros((checks.require_size("batch_size", batch_size),), jnp.int32)

    def __call__(self, tokens: Any, state: Any) -> tuple[Array, Array]:
        """Return log p `[N, V]` of the next tokens, and the new state, int32 `[N]`.

        Args:
          tokens: int `[N]`, the previous tokens, or the begin token. After a token outside of the
            vocabulary, log p is NaN.
          state: int32 `[N]`.
        """
        tokens, state = checked_call(tokens, state)
        after = self.advance(tokens, state)
        if self._rows is not None:
            log_p = self._rows[after]
        else:
            log_p = self.log_prob(jnp.arange(self.vocabulary_size, dtype=jnp.int32)[None], after)
        known = (tokens >= 0) & (tokens < self.vocabulary_size)
        return jnp.where(known[:, None], log_p, jnp.nan), after

    def check_end(self, end: int | None) -> None:
        """Raise if a search asks for the score of an end that the model does not have."""
        require_end(end, self.end, "NGram")

    def advance(self, tokens: Any, state: Any) -> Array:
        """Return the state after the tokens, int32 `[N]`.

        Args:
          tokens: int `[N]`. A token that the model does not list ends the history.
          state: int32 `[N]`.
        """
        tokens = jnp.asarray(tokens, jnp.int32)
        after = jnp.zeros_like(tokens)
        for chain in self._chains[state].T[::-1]:  # the longest history that lists the token wins
            place, found = self._find(chain, tokens)
            after = jnp.where(found, self._next[place], after)
        return after

    def log_prob(self, tokens: Any, state: Any) -> Array:
        """Return log p `[N, M]` of some tokens as the next token.

        Args:
          tokens: int `[N, M]` or `[1, M]`.
          state: int32 `[N]`, the state after the tokens before them.
        """
        tokens = jnp.asarray(tokens, jnp.int32)
        chains = self._chains[state].T[::-1, :, None]
        rows, columns = chains.shape[1], tokens.shape[1]
        log_p = jnp.full((rows, columns), self._unknown, jnp.float32)
        before = jnp.full((rows, 1), -1, jnp.int32)
        for chain in chains:
            place, found = self._find(chain, tokens)
            backed = log_p + jnp.where(chain == before, 0.0, self._backoff[chain])
            log_p = jnp.where(found, self._log_p[place], backed)
            before = chain
        return log_p

    def _find(self, state: Array, tokens: Array) -> tuple[Array, Array]:
        """Return the places of listed n-grams: those of the state's history and each token."""
        state, tokens = jnp.broadcast_arrays(state, tokens)
        low, high = self._first[state], self._first[state + 1]
        stop = high

        def halve(_: int, span: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = span
            middle = (low + high) // 2
            below = (self._tokens[middle] < tokens) & (low < high)
            return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

        low, _ = jax.lax.fori_loop(0, self._rounds, halve, (low, high))
        place = jnp.minimum(low, len(self._tokens) - 1)
        return place, (low < stop) & (self._tokens[place] == tokens)
