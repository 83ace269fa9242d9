"""A vocabulary of subwords, learned by byte pair encoding with Hugging Face's tokenizers."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from seqjax import checks
from seqjax._files import FilePath, local_file, replacing
from seqjax.data._containers import entries
from seqjax.data._texts import require_text
from seqjax.data._vocabulary import Vocabulary, checked_ids

__all__ = ["Subwords"]


class Subwords:
    """A vocabulary of subwords: frequent pieces of text and their ids.

    The first four ids are padding, unknown, begin and end, as in `Vocabulary`. The pieces consist
    of bytes, so every text can be encoded without unknown tokens, and decoding returns the original
    text. Text that looks like a special token, such as "<s>", is encoded as ordinary text.

    Args:
      tokenizer: a `tokenizers.Tokenizer`. `Subwords.train` and `Subwords.load` create this
        tokenizer.

    References:
      Sennrich, Haddow, Birch (2016), Neural machine translation of rare words with subword units.

    Example:
      >>> subwords = Subwords.train(["low lower lowest", "new newer newest"] * 10, size=270)
      >>> ids = subwords.encode("lower, ñ <s>")
      >>> len(subwords), subwords.decode([*ids, subwords.end, 5])
      (270, 'lower, ñ <s>')
    """

    padding, unknown, begin, end = range(4)

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 8000) -> "Subwords":
        """Return a vocabulary that is learned from texts by byte pair encoding.

        Args:
          texts: lines or documents, in a list, a pandas column or an iterator.
          size: the largest number of pieces, including the 4 special tokens and the 256 bytes.

        Raises:
          ImportError: tokenizers is not installed.
          TypeError: a text is not a string (tensorflow-datasets returns bytes), or `texts` is a
            set.
          ValueError: `size` is below 260, or a column has missing values.
        """
        size = checks.require_integer("size", size, least=len(Vocabulary.special) + 256)
        tokenizers = _tokenizers()
        texts = [
            require_text(f"texts[{index}]", text)
            for index, text in enumerate(entries("texts", texts))
        ]
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size - len(Vocabulary.special),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size()) + len(Vocabulary.special)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, int32 `[T]`.

        Args:
          text: any string that UTF-8 can encode.

        Raises:
          TypeError: text is not a string.
          ValueError: text contains half of a surrogate pair.
        """
        try:
            require_text("text", text).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"text: expected text that UTF-8 can encode, got {error}") from None
        ids = np.array(self._tokenizer.encode(text).ids, np.int32)
        return ids + np.int32(len(Vocabulary.special))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids up to the first end token, without special tokens.

        Args:
          ids: integers `[T]`.

        Raises:
          TypeError: ids are not integers.
          ValueError: an id is not in the vocabulary, or there are several sequences of ids.
        """
        pieces = []
        for index in checked_ids(ids, len(self)):
            if index == self.end:
                break
            if index >= len(Vocabulary.special):
                pieces.append(index - len(Vocabulary.special))
        return str(self._tokenizer.decode(pieces))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, including special tokens, for labels in plots.

        A piece that is only a part of a character is returned as "�".

        Args:
          ids: integers `[T]`.

        Raises:
          TypeError, ValueError: as in `decode`.
        """
        special, known = Vocabulary.special, checked_ids(ids, len(self))
        return [special[i] if i < len(special) else self.decode([i]) for i in known]

    def save(self, path: FilePath) -> None:
        """Write the vocabulary to a JSON file.

        Args:
          path: the path of the file.

        Raises:
          ValueError: path is a folder, or one of its parent folders is a file.
          OSError: the file cannot be written.
        """
        with replacing(path) as partial:
            partial.write_text(self._tokenizer.to_str(), encoding="utf-8")

    @classmethod
    def load(cls, path: FilePath) -> "Subwords":
        """Read a vocabulary that `save` has written.

        Args:
          path: the path of the file.

        Raises:
          ImportError: tokenizers is not installed.
          OSError: the file does not exist.
          ValueError: path is a folder, or the file does not contain a vocabulary.
        """
        data, tokenizers = local_file("path", path).read_bytes(), _tokenizers()
        try:
            tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # tokenizers has no error class of its own
            raise ValueError(f"path: expected subwords in {path}, got {error}") from None
        return cls(tokenizer)


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise ImportError(
            'seqjax.data.Subwords needs tokenizers: pip install "seqjax[text]"'
        ) from error
    return tokenizers
