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
    """A vocabulary of tokens and their ids.

    The first four ids are special tokens: padding "<pad>", unknown "<unk>", begin "<s>" and end
    "</s>".

    Args:
      tokens: the tokens after the special tokens, in the order of their ids, without repetition.

    Raises:
      TypeError: a token is not a string, or `tokens` is a set, which has no order.
      ValueError: a token occurs twice or is a special token.

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
        """Return the vocabulary of some sequences, with the most frequent tokens first.

        Args:
          sequences: a list, a pandas column or an iterator. Each sequence is a list of words, or a
            string whose characters are the tokens.
          size: the largest number of tokens, including the special tokens. None means no limit.
          least: the smallest number of times that a token must occur to be included.

        Returns:
          A vocabulary. Tokens that occur equally often are in alphabetical order.

        Raises:
          TypeError: `sequences` is one string, a token is not a string (tensorflow-datasets returns
            bytes), or `size` or `least` is not an integer.
          ValueError: `size` is below 5, `least` is below 1, or a column has missing values.
        """
        least = checks.require_integer("least", least)
        counts: collections.Counter[str] = collections.Counter()
        for n, sequence in enumerate(entries("sequences", sequences)):
            tokens = list(tokens_of(f"sequences[{n}]", sequence))
            try:
                counts.update(tokens)
            except TypeError:  # a list as a token is not hashable
                require_tokens(f"sequences[{n}]", tokens)
                raise
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
        """Return the ids of tokens, int32 `[T]`. An unknown token gets the id of "<unk>".

        Args:
          sequence: tokens, or a string whose characters are the tokens.

        Raises:
          TypeError: a token is not a string (tensorflow-datasets returns bytes), or the sequence is
            a set or dict.
        """
        tokens = list(tokens_of("sequence", sequence))
        require_tokens("sequence", tokens)
        return np.array([self._ids.get(token, self.unknown) for token in tokens], np.int32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids up to the first end token, without padding and begin tokens.

        Args:
          ids: integers `[T]`.

        Raises:
          TypeError: ids are not integers.
          ValueError: an id is not in the vocabulary, or there are several sequences of ids.
        """
        tokens = []
        for index in checked_ids(ids, len(self)):
            if index == self.end:
                break
            if index not in (self.padding, self.begin):
                tokens.append(self.tokens[index])
        return tokens

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the token of each id, including special tokens, for labels in plots.

        Args:
          ids: integers `[T]`.

        Raises:
          TypeError, ValueError: as in `decode`.
        """
        return [self.tokens[index] for index in checked_ids(ids, len(self))]

    def save(self, path: FilePath) -> None:
        """Write the tokens to a JSON file.

        Args:
          path: the path of the file.

        Raises:
          ValueError: path is a folder, or one of its parent folders is a file.
          OSError: the file cannot be written.
        """
        tokens = self.tokens[len(self.special) :]
        text = json.dumps(tokens, ensure_ascii=False, indent=0)
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:  # a token has half of a surrogate pair, which JSON can escape
            data = json.dumps(tokens, indent=0).encode("ascii")
        with replacing(path) as partial:
            partial.write_bytes(data)

    @classmethod
    def load(cls, path: FilePath) -> "Vocabulary":
        """Read a vocabulary that `save` has written.

        Args:
          path: the path of the file.

        Raises:
          OSError: the file does not exist.
          ValueError: path is a folder, or the file does not contain a vocabulary.
        """
        data = local_file("path", path).read_bytes()
        try:
            tokens = json.loads(data.decode("utf-8"))
        except ValueError as error:  # from the decoding of JSON or UTF-8
            raise ValueError(f"path: expected a vocabulary's JSON in {path}, got {error}") from None
        if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
            raise ValueError(
                f"path: expected a list of tokens in {path}, got {checks.brief(tokens)}"
            )
        try:
            return cls(tokens)
        except ValueError as error:
            raise ValueError(f"path: expected a vocabulary in {path}, got {error}") from None


def checked_ids(ids: Any, size: int) -> list[int]:
    """Return ids as Python integers, or raise if an id is not in [0, size)."""
    array = numbers("ids", list(ids) if isinstance(ids, Iterator) else ids)
    if array.ndim != 1:
        raise ValueError(f"ids: expected one sequence [T], got shape {array.shape}")
    if not array.size:  # NumPy converts an empty list to floats
        return []
    if array.dtype.kind not in "iu":
        raise TypeError(f"ids: expected integers, got {array.dtype}")
    wrong = (array < 0) | (array >= size)
    if wrong.any():
        raise ValueError(f"ids: expected 0 to {size - 1}, got {array[wrong][0]}")
    return array.tolist()  # type: ignore[no-any-return]
