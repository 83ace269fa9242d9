"""Pairs of sentences in two languages, one a line, and their words or subwords.

The data are a folder of train.en, train.ja, dev.en, dev.ja, test.en and test.ja, each plain or as
.gz, such as small_parallel_enja (Tanaka corpus, CC BY 2.0); or a tensorflow-datasets set that was
prepared as array_record, such as ted_hrlr_translate. The data are divided as published.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu

from seqjax.data import Subwords, Vocabulary, read_lines, tfds_source

__all__ = ["Words", "bleu", "learn_vocabulary", "load", "written"]


def load(
    folder: Path | None, tfds: str | None, source: str, target: str
) -> dict[str, list[tuple[str, str]]]:
    """Return pairs of sentences for "train", "dev" and "test"."""
    found: dict[str, list[tuple[str, str]]] = {}
    for split in ("train", "dev", "test"):
        sides: list[list[str]] = []
        if tfds is not None:
            name = "validation" if split == "dev" else split
            rows = list(tfds_source(tfds, split=name, data_dir=folder))
            for language in (source, target):
                if language not in rows[0]:
                    raise ValueError(f"expected {language!r} among {', '.join(rows[0])}")
                lines = (row[language] for row in rows)
                sides.append([x.decode() if isinstance(x, bytes) else x for x in lines])
        elif folder is not None:
            sides = [_read_side(folder, split, language) for language in (source, target)]
        if len(sides[0]) != len(sides[1]):
            raise ValueError(
                f"expected as many lines on both sides of {split}, got "
                f"{len(sides[0])} and {len(sides[1])}"
            )
        # A line without words is not a sentence. Leaving such lines out does not improve a result.
        found[split] = [pair for pair in zip(*sides, strict=True) if all(map(str.strip, pair))]
        if not found[split]:
            raise ValueError(f"expected at least one pair in {split}, got none")
    return found


def _read_side(folder: Path, split: str, language: str) -> list[str]:
    """Return the lines of one file."""
    names = ("dev", "valid", "validation", "val") if split == "dev" else (split,)
    places = [folder / f"{name}.{language}{end}" for name in names for end in ("", ".gz")]
    for place in places:
        if place.is_file():
            return read_lines(place)
    raise ValueError(f"expected one of {', '.join(place.name for place in places)} in {folder}")


class Words(Vocabulary):
    """A vocabulary of the words between spaces, used like `Subwords`."""

    def encode(self, text: Any) -> np.ndarray:
        """Return the ids of a sentence's words."""
        return super().encode(text.split())


def learn_vocabulary(kind: str, texts: Sequence[str], size: int, least: int) -> Words | Subwords:
    """Return the vocabulary of one language, of "words" or "subwords"."""
    if kind == "subwords":
        return Subwords.train(texts, size=size)
    words = (text.split() for text in texts)
    return Words(Vocabulary.build(words, size=size, least=least).tokens[4:])


def written(writer: Words | Subwords, ids: Any) -> str:
    """Return the text of a sequence of ids."""
    text = writer.decode(ids)
    return text if isinstance(text, str) else " ".join(text)


def bleu(found: Sequence[str], references: Sequence[str]) -> float:
    """Return BLEU over the tokens between spaces, as they are in the data."""
    return sacrebleu.corpus_bleu(found, [references], tokenize="none", force=True).score
