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
    """Frequent pieces of text and their ids; the first four ids are those of `Vocabulary`.

    The pieces are made of bytes, so every text can be encoded, no token is unknown, and decoding
    returns the original text. Text that looks like a special token is text.

    Args:
      tokenizer: a `tokenizers.Tokenizer`, as `train` and `load` make it.

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
        """Learns the pieces of some texts.

        Args:
          texts: lines or documents, in a list, a column of pandas or an iterator.
          size: how many pieces at most, four special ones and 256 bytes among them.

        Raises:
          ImportError: tokenizers is missing.
          TypeError: a text that is not a string, such as the bytes that tfds gives, or a set.
          ValueError: a size below 260, or missing values in a column.
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
          text: any string that UTF-8 can hold.

        Raises:
          TypeError: not a string.
          ValueError: half a surrogate pair in it.
        """
        try:
            require_text("text", text).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"text: expected what UTF-8 can hold, got {error}") from None
        ids = np.array(self._tokenizer.encode(text).ids, np.int32)
        return ids + np.int32(len(Vocabulary.special))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, up to the first end; special ones are left out.

        Args:
          ids: integers `[T]`.

        Raises:
          TypeError, ValueError: an id that is no integer, or that there is not.
        """
        pieces = []
        for index in checked_ids(ids, len(self)):
            if index == self.end:
                break
            if index >= len(Vocabulary.special):
                pieces.append(index - len(Vocabulary.special))
        return str(self._tokenizer.decode(pieces))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each id, for labels; a part of a character is shown as "�".

        Args:
          ids: integers `[T]`.
        """
        special, known = Vocabulary.special, checked_ids(ids, len(self))
        return [special[i] if i < len(special) else self.decode([i]) for i in known]

    def save(self, path: FilePath) -> None:
        """Writes all to a JSON file.

        Args:
          path: of the file.

        Raises:
          ValueError: a folder is there, or the path leads through a file.
          OSError: the file cannot be written.
        """
        with replacing(path) as partial:
            partial.write_text(self._tokenizer.to_str(), encoding="utf-8")

    @classmethod
    def load(cls, path: FilePath) -> "Subwords":
        """Reads what `save` has written.

        Args:
          path: of the file.

        Raises:
          ImportError: tokenizers is missing.
          OSError: no such file.
          ValueError: a folder, or a file that holds something else.
        """
        data, tokenizers = local_file("path", path).read_bytes(), _tokenizers()
        try:
            tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # tokenizers raises no class of its own
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
