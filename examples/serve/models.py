"""The two models that the server runs on batches of rows, and functions that load both models."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
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
      ValueError: the folder has no finished run, or a run of another model.
    """
    sizes = ("embed_size", "hidden_size", "num_layers")
    options = _options(folder, "pronounce", (*sizes, "beam_width"))
    letters, phonemes = (_vocabulary(folder, name) for name in ("letters.json", "phonemes.json"))
    how: dict[str, Any] = {name: int(options[name]) for name in sizes}
    model = seq2seq.Seq2Seq(
        source_vocabulary=len(letters), target_vocabulary=len(phonemes), **how, rngs=nnx.Rngs(0)
    )
    return Pronouncer(
        _restored(model, folder, options["average"]),
        letters,
        phonemes,
        beam_width=int(options["beam_width"]),
    )


def load_reviewer(folder: Path) -> Reviewer:
    """Read the folder that examples/sentiment.py has written.

    Args:
      folder: the folder `--out` of the run.

    Raises:
      ValueError: the folder has no finished run, or a run of another model.
    """
    names = ("cell", "bidirectional", "pooling", "hidden_size", "embed_size")
    options = _options(folder, "sentiment", names)
    vocabulary = _vocabulary(folder, "vocabulary.json")
    config = sentiment.Config(
        cell=options["cell"],
        bidirectional=options["bidirectional"] == "True",
        pooling="last" if options["pooling"] == "last" else "mean_max",
        hidden_size=int(options["hidden_size"]),
        embed_size=int(options["embed_size"]),
    )
    model = sentiment.Reader(config, len(vocabulary), rngs=nnx.Rngs(0))
    return Reviewer(_restored(model, folder, options["average"]), vocabulary, reviews.words_of)


def _options(folder: Path, script: str, names: Sequence[str]) -> dict[str, str]:
    """Return the options of a run as texts; raise if "average" or one of `names` is missing."""
    path, run = folder / "result.json", f"expected the folder of a finished run of {script}.py"
    if not path.is_file():
        raise ValueError(f"{run}, got {folder} without {path.name}")
    try:
        options: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["options"]
        missing = sorted({*names, "average"} - {*options})
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{run}, got {path}, which cannot be read") from None
    if missing:
        raise ValueError(f"{run}, got {folder} of a run without --{missing[0].replace('_', '-')}")
    return options


def _vocabulary(folder: Path, name: str) -> data.Vocabulary:
    if not (folder / name).is_file():
        raise ValueError(
            f"expected {name} in {folder}, got none: run the script again with --resume, which "
            "writes it"
        )
    return data.Vocabulary.load(folder / name)


def _restored(model: Any, folder: Path, average: str) -> Any:
    """Return the trained model in evaluation mode: that of the best epoch if one was chosen."""
    place = folder / "checkpoints"
    if not place.is_dir():
        raise ValueError(f"expected checkpoints in {place}, got none")
    state = training.init_state(model, optax.identity())
    params, model_state = state.params, state.model_state
    with training.Checkpoints(place, read_only=True) as checkpoints:
        written = checkpoints.restore({}, partial=True)
        if written is None:
            raise ValueError(f"expected checkpoints in {place}, got none")
        if written.record["monitor"] is not None:
            found: Any = checkpoints.restore({"best": (params, model_state)}, partial=True)
            params, model_state = found.arrays["best"]
        elif float(average):
            raise ValueError(f"expected a run without --average or with a best epoch in {folder}")
        else:
            last = {"params": params, "model_state": model_state}
            found = checkpoints.restore({"state": last}, partial=True)
            params, model_state = (found.arrays["state"][name] for name in last)
    params, model_state = jax.device_put((params, model_state))
    trained = training.state_to_model(model, state._replace(params=params, model_state=model_state))
    trained.eval()
    return trained
