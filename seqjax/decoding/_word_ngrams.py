"""N-gram models of words for decoders that write letters."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.decoding._arpa import read_arpa
from seqjax.decoding._calls import checked_call
from seqjax.decoding._entries import checked_id, checked_unknown, entries_of, require_end
from seqjax.decoding._hotwords import checked_phrase
from seqjax.decoding._ngrams import NGram
from seqjax.decoding._tables import table
from seqjax.types import Array, PyTree

__all__ = ["WordNGram"]


class WordNGram:
    """A step function over letters that scores the words of a text by an n-gram model.

        s(text) = Σ_i (log p(w_i | w_<i) + bonus) + log p(</s> | w)

    The beginning of a word scores the largest unigram log p of all words with this beginning, so
    that a beam can compare it with complete words. The complete word scores the difference.
    A space ends a word, as does the end of the text. Spaces in succession, or at either end of the
    text, score 0. A word that the model does not list scores `unknown` instead of log p, at the
    first letter that no listed word has there; after such a word, the history is empty. If
    `unknown` is -inf, only listed words are found.

    The state is a node of the trie of all spellings, and a state of the `NGram`, both int32 `[N]`.
    The initial state is `initial_state(batch_size)`. The trie takes 4 V bytes for each of its
    nodes.

    `WordNGram.from_arpa` reads a model with words from a file.

    Args:
      model: an `NGram` over W tokens.
      spellings: a list of W spellings, each a non-empty list of letters from 0 to V - 1, or None
        for a token that is not a word. If two words have the same spelling, the first one is used.
      vocabulary_size: V, the number of letters, including blank and space.
      space: the letter that separates words.
      begin: the token of `model` that is the input of its first step.
      end: the token of `model` that ends a sequence; None if there is none.
      letter_end: the letter whose score is that of the end of the text; None if there is none.
      unknown: the score of a word that is not listed, at most 0.
      bonus: a finite number, added for each word.

    Attributes:
      gain_bound: the largest score that one letter can earn.

    Raises:
      TypeError: a spelling is not a list of integers.
      ValueError: an argument is out of range, or no word has a spelling.

    Example:
      >>> model = NGram.fit([[0, 1], [0, 0]], order=2, vocabulary_size=4, begin=2, end=3)
      >>> words = WordNGram(  # letters: blank, space, a, b; words: ab, b
      ...     model,
      ...     [[2, 3], [3], None, None],
      ...     vocabulary_size=4,
      ...     space=1,
      ...     begin=2,
      ...     end=3,
      ...     letter_end=0,
      ... )
      >>> _, state = words(jnp.array([0]), words.initial_state(1))
      >>> scores, state = words(jnp.array([2]), state)  # "a" can only become "ab"
      >>> scores[0, 1:].tolist()
      [-inf, -inf, 0.0]
    """

    def __init__(
        self,
        model: NGram,
        spellings: Sequence[Sequence[int] | None],
        *,
        vocabulary_size: int,
        space: int,
        begin: int,
        end: int | None = None,
        letter_end: int | None = None,
        unknown: float = -math.inf,
        bonus: float = 0.0,
    ) -> None:
        if not isinstance(model, NGram):
            raise TypeError(f"model: expected an NGram, got {checks.brief(model)}")
        size = checks.require_integer("vocabulary_size", vocabulary_size)
        words = model.vocabulary_size
        self._space = checked_id("space", space, size)
        self._begin = checked_id("begin", begin, words)
        self._end = None if end is None else checked_id("end", end, words)
        self._letter_end = (
            None if letter_end is None else checked_id("letter_end", letter_end, size)
        )
        if (end is None) != (letter_end is None):
            raise ValueError("letter_end: expected both or none of `end` and `letter_end`")
        if letter_end is not None and self._letter_end == self._space:
            raise ValueError(f"letter_end: expected another letter than the space {space}, got it")
        self._unknown = checked_unknown(unknown)
        self._bonus = checks.require_number("bonus", bonus)
        if len(spellings) != words:
            raise ValueError(
                f"spellings: expected {words}, one for each token of the model, got "
                f"{len(spellings)}"
            )
        self._model = model
        children, word_at = _trie(spellings, size, self._space)
        with jax.ensure_compile_time_eval():
            every = jnp.arange(words, dtype=jnp.int32)[None]
            alone = np.asarray(model.log_prob(every, model.initial_state(1)))[0]
        ahead = _best_ahead(children, word_at, alone)
        self.gain_bound = max(self._bonus, 0.0) - float(ahead.min())
        self._children, self._word_at = table(children), table(word_at)
        self._ahead = table(ahead, jnp.float32)

    @classmethod
    def from_arpa(
        cls,
        source: str | Path | Iterable[str],
        letters: Sequence[str | None],
        *,
        space: int,
        end: int | None = None,
        unknown: float = -math.inf,
        bonus: float = 0.0,
    ) -> "WordNGram":
        r"""Read a model with words from a file in the ARPA format, also compressed (`.gz`).

        Args:
          source: the path of the file, or its lines.
          letters: the V letters, in the order of their ids: strings of one character. None stands
            for an id that is no letter, such as a blank.
          space: the id of the space.
          end: the letter whose score is that of the end of the text, `</s>`; None if there is none.
            It may be the blank.
          unknown: the score of a word that the file does not list, in nats, at most 0.
          bonus: a finite number, added for each word.

        Raises:
          OSError: the file cannot be read.
          ValueError: the file is not a valid ARPA file, or less than half of its words consist of
            the given letters, for example because they are in upper case. Other words are left out.

        Example:
          >>> lines = [
          ...     "\\data\\",
          ...     "ngram 1=4",
          ...     "\\1-grams:",
          ...     "-99 <s>",
          ...     "-0.5 ab",
          ...     "-0.7 b",
          ...     "-0.4 </s>",
          ...     "\\end\\",
          ... ]
          >>> words = WordNGram.from_arpa(lines, [None, " ", "a", "b"], space=1, end=0)
          >>> first, state = words(jnp.array([0]), words.initial_state(1))
          >>> then, state = words(jnp.array([3]), state)  # "b" is a word
          >>> scores = first[0, 3] + then[0, :2]
          >>> [f"{x:.2f}" for x in scores / jnp.log(10)]  # b </s>, or b and another word
          ['-1.10', '-0.70']
        """
        rows = list(read_arpa(source))
        space = checked_id("space", space, len(letters))
        if end is not None and letters[checked_id("end", end, len(letters))] is not None:
            raise ValueError(
                f"end: expected an id of no letter, got {end}, that of {letters[end]!r}"
            )
        known = {letter: n for n, letter in enumerate(letters) if letter is not None and n != space}
        listed = [gram[0] for gram, _, _ in rows if len(gram) == 1]
        listed = [word for word in listed if word not in ("<s>", "</s>", "<unk>")]
        words = [word for word in listed if known.keys() >= set(word)]
        if not words or 2 * len(words) < len(listed):
            strange = [word for word in listed if not known.keys() >= set(word)][:5]
            raise ValueError(
                f"letters: expected the letters of the file's words, got {checks.brief(letters)}, "
                f"which lack those of {strange} and others, {len(listed) - len(words)} of "
                f"{len(listed)} words"
            )
        tokens = ["<s>", "</s>", *words]
        ended = None if end is None else 1
        entries, _ = entries_of(rows, tokens, begin=0, end=ended, unknown=-math.inf)
        model = NGram(entries, len(tokens), end=ended)
        spellings = [None, None, *([known[letter] for letter in word] for word in words)]
        return cls(
            model, spellings, vocabulary_size=len(letters), space=space, begin=0,
            end=ended, letter_end=end, unknown=unknown, bonus=bonus,
        )  # fmt: skip

    def check_end(self, end: int | None) -> None:
        """Raise if a search asks for the score of an end that the model does not have."""
        require_end(end, self._letter_end, "WordNGram")

    def initial_state(self, batch_size: int) -> PyTree:
        """Return the state before the first letter: two arrays, int32 `[N]`."""
        start = self._model.initial_state(batch_size)
        begun = self._model.advance(jnp.full_like(start, self._begin), start)
        return jnp.full_like(start, -1), begun

    def __call__(self, tokens: Any, state: PyTree) -> tuple[Array, PyTree]:
        """Return the scores `[N, V]` of the next letters, and the new state.

        Args:
          tokens: int `[N]`, the previous letters. The first ones, which stand for the begin, are
            ignored.
          state: two arrays, int32 `[N]`.
        """
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise TypeError(f"state: expected two arrays, got {checks.brief(state)}")
        tokens, (node, history) = checked_call(tokens, state)
        is_first, is_space = node < 0, tokens == self._space
        node, tokens = jnp.maximum(node, 0), jnp.where(is_first, 0, tokens)
        ended = self._read(node, history)
        history = jnp.where(is_space & ~is_first, ended, history)
        following = jnp.where(is_space, 0, self._children[node, tokens])
        node = jnp.where(is_first, 0, following)
        children = self._children[node]
        outside = self._children.shape[0] - 1
        leaves = (children == outside) & (node != outside)[:, None]
        held = self._ahead[node]
        scores = jnp.where(leaves, self._unknown, self._ahead[children]) - held[:, None]
        word = self._word_at[node]
        log_p = self._model.log_prob(jnp.maximum(word, 0)[:, None], history)[:, 0]
        complete = jnp.where(word < 0, self._unknown, log_p) - held
        complete = jnp.where(node == outside, 0.0, complete) + self._bonus
        complete = jnp.where(node == 0, 0.0, complete)
        scores = scores.at[:, self._space].set(complete)
        if self._letter_end is not None and self._end is not None:
            after = self._read(node, history)
            last = self._model.log_prob(jnp.full_like(word, self._end)[:, None], after)[:, 0]
            scores = scores.at[:, self._letter_end].set(complete + last)
        return scores, (node, history)

    def _read(self, node: Array, history: Array) -> Array:
        """Return the history after the words that end at the nodes, if they are words."""
        word = self._word_at[node]
        after = self._model.advance(jnp.where(word < 0, self._model.vocabulary_size, word), history)
        return jnp.where(node == 0, history, after)


def _trie(spellings: Sequence[Any], size: int, space: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the next node `[nodes, V]` and the word that ends at each node, -1 if there is none.

    Node 0 is the root, and the last node is for letters that no word has.
    """
    children: list[dict[int, int]] = [{}]
    word_at = [-1]
    for word, spelling in enumerate(spellings):
        if spelling is None:
            continue
        node = 0
        for letter in checked_phrase("spellings", spelling, size):
            if letter == space:
                raise ValueError(f"spellings: expected words without the space {space}, got one")
            if letter not in children[node]:
                children[node][letter] = len(children)
                children.append({})
                word_at.append(-1)
            node = children[node][letter]
        word_at[node] = word if word_at[node] < 0 else word_at[node]
    if len(children) == 1:
        raise ValueError("spellings: expected at least one word, got none")
    outside = len(children)
    table = np.full((outside + 1, size), outside, np.int32)
    for node, known in enumerate(children):
        table[node, list(known)] = list(known.values())
    return table, np.array([*word_at, -1], np.int32)


def _best_ahead(children: np.ndarray, word_at: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Return the largest log p of the words that begin as each node; 0 at the root and outside."""
    best = np.where(word_at < 0, -np.inf, log_p[word_at])
    outside = len(children) - 1
    for node in range(outside - 1, 0, -1):  # children come after their parents
        following = children[node][children[node] != outside]
        best[node] = max(best[node], best[following].max(initial=-np.inf))
    best[[0, outside]] = 0.0
    return np.where(np.isneginf(best), 0.0, best)
