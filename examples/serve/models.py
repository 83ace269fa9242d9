"""The two models that the server runs on batches of rows, and functions that load both models."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from examples import sentiment
from examples.shipped import reviews
from seqjax import data, seq2seq, training

__all__ = [
    "Pronounced",
    "Pronouncer",
    "Reviewer",
    "load_pronouncer",
    "load_reviewer",
    "padded_length",
]


def padded_length(length: int, least: int = 8) -> int:
    """Return the padded length of a row: the next power of two, independent of other rows.

    Args:
      length: length of the row.
      least: minimum of the padded length.

    Example:
      >>> [padded_length(length) for length in (1, 8, 9, 32)]
      [8, 8, 16, 32]
    """
    return max(least, 1 << (length - 1).bit_length())


class Pronounced(NamedTuple):
    """The pronunciation of a word.

    Attributes:
      phonemes: the names of the phonemes.
      score: the log-probability of the phonemes and of the end token.
      finished: False if the output has no end token.
      attention: float32 `[phonemes, letters]`, the weight of each letter for each phoneme.
    """

    phonemes: list[str]
    score: float
    finished: bool
    attention: np.ndarray


class Pronouncer:
    """A model that converts words to phonemes. Each row is a word.

    Args:
      model: a `seqjax.seq2seq.Seq2Seq` with attention.
      letters: the source vocabulary of the model.
      phonemes: the target vocabulary of the model.
      beam_width: number of hypotheses of the beam search.
    """

    sizes = (16,)  # one size, so that a row runs in the same program alone and with others

    def __init__(
        self, model: Any, letters: data.Vocabulary, phonemes: data.Vocabulary, beam_width: int = 5
    ) -> None:
        self.model, self.letters, self.phonemes = model, letters, phonemes
        self.beam_width = beam_width
        self.alphabet = frozenset(letters.tokens) - {*letters.special}

    def run(self, shape: int, words: Sequence[str]) -> list[Pronounced]:
        """Pronounce words, in one compiled call for each shape and number of words.

        Args:
          shape: the `padded_length` of each word.
          words: words whose letters are in `alphabet`.
        """
        found = seq2seq.generate(
            self.model, [self.letters.encode(word) for word in words],
            begin=self.phonemes.begin, end=self.phonemes.end,
            beam_width=self.beam_width, batch_size=len(words),
        )  # fmt: skip
        return [self._said(output) for output in found]

    def _said(self, output: seq2seq.Generated) -> Pronounced:
        said = self.phonemes.pieces(output.tokens)
        if output.attention is None:
            raise ValueError("model: expected one with attention, got one without")
        return Pronounced(said, output.score, output.finished, output.attention[: len(said)])


class Reviewer:
    """A model that computes the probability that a text is positive. Each row has the ids of words.

    Args:
      model: `model(words [B, T], lengths [B]) -> logits [B]`.
      vocabulary: the vocabulary of words.
      words_of: a function that splits a text into words.
    """

    sizes = (64,)

    def __init__(
        self, model: Any, vocabulary: data.Vocabulary, words_of: Callable[[str], list[str]]
    ) -> None:
        self.model, self.vocabulary, self.words_of = model, vocabulary, words_of
        self._read = jax.jit(lambda model, *inputs: jax.nn.sigmoid(model(*inputs)))

    def run(self, shape: int, rows: Sequence[np.ndarray]) -> list[float]:
        """Return the probability for each row, by one program for each shape and number of rows.

        Args:
          shape: the length to which rows are padded.
          rows: int32 `[t]`, t from 1 to `shape`.
        """
        words, lengths = np.zeros((len(rows), shape), np.int32), np.array([*map(len, rows)])
        for index, row in enumerate(rows):
            words[index, : len(row)] = row
        return np.asarray(self._read(self.model, words, lengths)).tolist()


def load_pronouncer(folder: Path) -> Pronouncer:
    """Read the folder that examples/pronounce.py has written.

    Args:
      folder: the folder `--out` of the run.

    Raises:
      ValueError: the folder has no finished run or a run of another model, or a file is damaged.
    """
    letters, phonemes = (
        _vocabulary(folder, name, "pronounce") for name in ("letters.json", "phonemes.json")
    )
    unfit = [token for token in letters.tokens[len(letters.special) :] if len(token) > 1]
    if unfit:
        raise ValueError(f"expected single letters in {folder / 'letters.json'}, got {unfit[0]!r}")
    model = _model(folder, seq2seq.Seq2Seq, "pronounce")
    _require_fit(folder, "letters.json", letters, model.encoder.embedding)
    _require_fit(folder, "phonemes.json", phonemes, model.decoder.embedding)
    return Pronouncer(model, letters, phonemes)


def load_reviewer(folder: Path) -> Reviewer:
    """Read the folder that examples/sentiment.py has written.

    Args:
      folder: the folder `--out` of the run.

    Raises:
      ValueError: the folder has no finished run or a run of another model, or a file is damaged.
    """
    vocabulary = _vocabulary(folder, "vocabulary.json", "sentiment")
    model = _model(folder, sentiment.Reader, "sentiment")
    _require_fit(folder, "vocabulary.json", vocabulary, model.embedding)
    return Reviewer(model, vocabulary, reviews.words_of)


def _vocabulary(folder: Path, name: str, script: str) -> data.Vocabulary:
    if not (folder / name).is_file():
        raise ValueError(f"expected {name} of a run of {script}.py in {folder}, got none")
    return data.Vocabulary.load(folder / name)


def _require_fit(
    folder: Path, name: str, vocabulary: data.Vocabulary, embedding: nnx.Embed
) -> None:
    """Raise if a vocabulary has another size than the embedding of the model beside it."""
    if len(vocabulary) != embedding.num_embeddings:
        raise ValueError(
            f"expected {embedding.num_embeddings} tokens in {folder / name}, as in the model, got "
            f"{len(vocabulary)}"
        )


def _model(folder: Path, model_class: type[Any], script: str) -> Any:
    """Return the trained model in evaluation mode."""
    try:
        return training.load_model(folder, model_class)
    except FileNotFoundError:
        raise ValueError(
            f"expected the model of a finished run of {script}.py in {folder}, got none: run the "
            "script again with --resume, which writes it"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected the model of {script}.py in {folder}: {error}") from None
