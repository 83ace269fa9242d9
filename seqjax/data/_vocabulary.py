"""A vocabulary of characters or words."""

import collections
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from seqjax import checks
from seqjax._files import FilePath, local_file, replacing
from seqjax.data._containers import entries, numbers
from seqjax.data._texts import require_tokens, tokens_of

__all__ = ["Vocabulary"]


class Vocabulary:
    """Tokens and their ids. The first four ids are padding, unknown, begin and end.

    Args:
      tokens: the other tokens, in the order of their ids; no two the same.

    Raises:
      TypeError: tokens that are not strings, or a set of them, which has no order.
      ValueError: a token twice, or one of the four special ones.

    Example:
      >>> vocabulary = Vocabulary.build([["a", "b"], ["b", "c"]])
      >>> vocabulary.encode(["b", "a", "x"])
      array([4, 5, 1], dtype=int32)
      >>> vocabulary.decode([4, 5, 1, vocabulary.end, 4])
      ['b', 'a', '<unk>']
    """

    special = ("<pad>", "<unk>", "<s>", "</s>")
    padding, unknown, begin, end = range(4)

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = (*self.special, *tokens_of("tokens", tokens))
        require_tokens("tokens", self.tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            twice, _ = collections.Counter(self.tokens).most_common(1)[0]
            raise ValueError(f"tokens: expected each token once, got {twice!r} twice")

    @classmethod
    def build(
        cls, sequences: Iterable[Iterable[str]], *, size: int | None = None, least: int = 1
    ) -> "Vocabulary":
        """Return the vocabulary of some sequences, the most frequent tokens first.

        Args:
          sequences: lists of words, or strings, whose tokens are their characters; in a list, a
            column of pandas or an iterator.
          size: how many tokens at most, the four special ones among them.
          least: how often a token has to occur.

        Returns:
          A vocabulary. Tokens that occur equally often are in alphabetical order.

        Raises:
          TypeError: one string instead of several, tokens that are not strings, such as the bytes
            that tfds gives, or sizes that are not integers.
          ValueError: sizes that are not positive, or missing values in a column.
        """
        least = checks.require_integer("least", least)
        counts: collections.Counter[str] = collections.Counter()
        for n, sequence in enumerate(entries("sequences", sequences)):
            counts.update(tokens_of(f"sequences[{n}]", sequence))
        require_tokens("sequences", counts)
        for token in cls.special:
            counts.pop(token, None)
        kept = sorted((t for t, n in counts.items() if n >= least), key=lambda t: (-counts[t], t))
        if size is not None:
            kept = kept[: checks.require_integer("size", size, least=5) - len(cls.special)]
        return cls(kept)

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    def encode(self, sequence: Iterable[str]) -> np.ndarray:
        """Return the ids of tokens, int32 `[T]`; unknown ones get the id of "<unk>".

        Args:
          sequence: tokens, or a string of characters.

        Raises:
          TypeError: tokens that are not strings, such as the bytes that tfds gives, or a set or
            dict of them.
        """
        tokens = list(tokens_of("sequence", sequence))
        require_tokens("sequence", tokens)
        return np.array([self._ids.get(token, self.unknown) for token in tokens], np.int32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids up to the first end token, without padding and begin tokens.

        Args:
          ids: integers `[T]`.

        Raises:
          TypeError: ids that are not integers.
          ValueError: an id that the vocabulary does not have, or several sequences of ids.
        """
        tokens = []
        for index in checked_ids(ids, len(self)):
            if index == self.end:
                break
            if index not in (self.padding, self.begin):
                tokens.append(self.tokens[index])
        return tokens

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the token of each id, special ones included, for labels.

        Args:
          ids: integers `[T]`.

        Raises:
          TypeError, ValueError: as `decode`.
        """
        return [self.tokens[index] for index in checked_ids(ids, len(self))]

    def save(self, path: FilePath) -> None:
        """Writes the tokens to a JSON file.

        Args:
          path: of the file.

        Raises:
          ValueError: a folder is there, or the path leads through a file.
          OSError: the file cannot be written.
        """
        tokens = self.tokens[len(self.special) :]
        text = json.dumps(tokens, ensure_ascii=False, indent=0)
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape
            data = json.dumps(tokens, indent=0).encode("ascii")
        with replacing(path) as partial:
            partial.write_bytes(data)

    @classmethod
    def load(cls, path: FilePath) -> "Vocabulary":
        """Reads what `save` has written.

        Args:
          path: of the file.

        Raises:
          OSError: no such file.
          ValueError: a folder, or a file that holds something else.
        """
        data = local_file("path", path).read_bytes()
        try:
            tokens = json.loads(data.decode("utf-8"))
        except ValueError as error:  # of JSON or of UTF-8
            raise ValueError(f"path: expected a vocabulary's JSON in {path}, got {error}") from None
        if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
            raise ValueError(
                f"path: expected a list of tokens in {path}, got {checks.brief(tokens)}"
            )
        return cls(tokens)


def checked_ids(ids: Any, size: int) -> list[int]:
    """Return ids as Python integers, or raise if one is not in [0, size)."""
    array = numbers("ids", list(ids) if isinstance(ids, Iterator) else ids)
    if array.ndim != 1:
        raise ValueError(f"ids: expected one sequence [T], got shape {array.shape}")
    if not array.size:  # NumPy makes floats of an empty list
        return []
    if array.dtype.kind not in "iu":
        raise TypeError(f"ids: expected integers, got {array.dtype}")
    wrong = (array < 0) | (array >= size)
    if wrong.any():
        raise ValueError(f"ids: expected 0 to {size - 1}, got {array[wrong][0]}")
    return array.tolist()  # type: ignore[no-any-return]
