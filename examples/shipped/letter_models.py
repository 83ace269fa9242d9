"""N-gram models for beam searches over letters, and the choice of their weight and bonus."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from examples.shipped.spoken_digits import error_rate
from seqjax.data import Vocabulary
from seqjax.decoding import NGram, WordNGram

__all__ = ["choose", "load"]

UNKNOWN = -15.0
"""The score of a word that a model of words does not list, in nats. If such words were forbidden, a
text with one misspelt word could lose all words after it, or have no result at all."""
SPACE = "|"  # stands for the space between words in ARPA files, whose fields are split at spaces


def load(
    path: Path | None, order: int, unit: str, said: Iterable[str], tokens: Vocabulary
) -> NGram | WordNGram:
    """Read the model of an ARPA file, or count a model of the given order from texts.

    With a model of words, words that it does not list are possible at the log-probability UNKNOWN.
    """
    if unit == "words":
        return _of_words(path, order, said, tokens)
    if path is None:
        return NGram.fit(
            (tokens.encode(text).tolist() for text in said), order=order,
            vocabulary_size=len(tokens), begin=tokens.begin, end=tokens.end,
        )  # fmt: skip
    letters = [SPACE if token == " " else token for token in _letters(tokens)]
    named = [None] * len(tokens.special) + letters
    return NGram.from_arpa(path, named, begin=tokens.begin, end=tokens.end)


def _of_words(path: Path | None, order: int, said: Iterable[str], tokens: Vocabulary) -> WordNGram:
    space, end = int(tokens.encode(" ")[0]), tokens.end
    if path is not None:
        named = [None] * len(tokens.special) + _letters(tokens)
        return WordNGram.from_arpa(path, named, space=space, end=end, unknown=UNKNOWN)
    words = Vocabulary.build(text.split() for text in said)
    model = NGram.fit(
        (words.encode(text.split()).tolist() for text in said), order=order,
        vocabulary_size=len(words), begin=words.begin, end=words.end,
    )  # fmt: skip
    spellings = [tokens.encode(word).tolist() for word in _letters(words)]
    return WordNGram(
        model, [None] * len(words.special) + spellings, vocabulary_size=len(tokens), space=space,
        begin=words.begin, end=words.end, letter_end=end, unknown=UNKNOWN,
    )  # fmt: skip


def _letters(tokens: Vocabulary) -> list[str]:
    return list(tokens.tokens[len(tokens.special) :])


def choose(
    find: Callable[[float, float], list[list[str]]],
    right: list[str],
    weights: Sequence[float],
    bonuses: Sequence[float],
) -> tuple[float, float]:
    """Return the weight and the bonus with the lowest word error rate, and print all rates.

    Args:
      find: returns the texts for each recording, best first, with a weight and a bonus.
      right: the correct text for each recording.
      weights: the weights to try.
      bonuses: the bonuses for each letter to try.
    """
    split = [text.split() for text in right]

    def rates(weight: float, bonus: float) -> tuple[float, float]:
        best = [texts[0] for texts in find(weight, bonus)]
        return error_rate(split, [text.split() for text in best]), error_rate(right, best)

    none, _ = rates(0.0, 0.0)
    print(f"word error rate of the validation recordings: {100 * none:.1f} % without a language")
    print("model; with one, in %, by its weight (rows) and the bonus for each letter (columns):")
    print(" " * 6 + "".join(f"{bonus:7.2f}" for bonus in bonuses))
    found: dict[tuple[float, float], tuple[float, float]] = {}
    for weight in weights:
        row = {(weight, bonus): rates(weight, bonus) for bonus in bonuses}
        print(f"{weight:6.2f}" + "".join(f"{100 * words:7.1f}" for words, _ in row.values()))
        found |= row
    return min(found, key=lambda pair: found[pair])
