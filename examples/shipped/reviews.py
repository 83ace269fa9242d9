"""Reviews of films, positive or negative: rated sentences, or IMDB.

- 10,605 sentences of reviews (Pang, Lee 2005), each rated from -4 to 4 by at least twenty people
  (Hutto, Gilbert 2014, MIT), from the source archive of vaderSentiment 3.3.2. A sentence is
  positive if its mean rating is above 0. A hash of the words selects a tenth for the test and a
  tenth for choosing the epoch. The three parts are the same for every seed, and equal sentences are
  in the same part.
- Whole reviews of IMDB (Maas et al. 2011): the folder aclImdb with train/pos, train/neg, test/pos
  and test/neg, or imdb_reviews of tensorflow-datasets. The test set is as published.
"""

import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.shipped import archives, words
from seqjax.data import Vocabulary, class_files, read_text, tfds_source

__all__ = ["DEFAULT", "RATINGS", "Texts", "divided", "fields", "load", "plot", "words_of"]

DEFAULT = Path("out/data/vaderSentiment-3.3.2.tar.gz")
RATINGS = "movieReviewSnippets_GroundTruth.txt"

Texts = list[tuple[str, float]]
"""Texts, and the probability from 0 to 1 that a reader calls each text positive."""


def load(data: Path, tfds: str | None, parts: int) -> dict[str, Texts]:
    """Return the texts for "train", "dev" and "test"; dev is 1 / `parts` of the training texts."""
    if tfds is not None:
        folder = None if data == DEFAULT else data
        train, test = (_read_tfds(tfds, split, folder) for split in ("train", "test"))
    elif (data / "train").is_dir():
        train, test = (_read_folder(data / split) for split in ("train", "test"))
    else:
        train, test = divided(_read_ratings(data), 10)
    train, dev = divided(train, parts)
    found = {"train": train, "dev": dev, "test": test}
    for split, texts in found.items():
        if not texts:
            raise ValueError(f"expected texts for {split}, got none")
    return found


def words_of(text: str) -> list[str]:
    """Return words in lower case, and the marks that end a sentence."""
    text = text.lower().replace("<br />", " ")  # as in IMDB's reviews
    return words.words_of(text, rf"{words.WORD}(?:'{words.WORD})*|[!?.]")


def divided(texts: Texts, parts: int) -> tuple[Texts, Texts]:
    """Split off 1 / `parts` of the texts; return both sets. Equal texts are in the same set."""
    sides: tuple[Texts, Texts] = ([], [])
    for text, label in texts:
        key = f"{parts} {' '.join(words_of(text))}".encode()
        sides[zlib.crc32(key) % parts == 0].append((text, label))
    return sides


def _read_tfds(name: str, split: str, folder: Path | None) -> Texts:
    """Return the texts of a set of tensorflow-datasets."""
    rows = tfds_source(name, split=split, data_dir=folder)
    if not {"text", "label"} <= set(rows[0]):
        raise ValueError(f"expected the fields text and label, got {', '.join(rows[0])}")
    texts = [(row["text"], float(row["label"])) for row in rows]
    return [(text.decode() if isinstance(text, bytes) else text, y) for text, y in texts]


def _read_folder(folder: Path) -> Texts:
    """Return the files of the folders neg and pos."""
    paths, labels, _ = class_files(folder, "*.[tT][xX][tT]", names=("neg", "pos"))
    return [(read_text(path), float(y)) for path, y in zip(paths, labels, strict=True)]


def _read_ratings(path: Path) -> Texts:
    """Return the rated sentences; the probability is the logistic function of the rating."""
    places = [*path.rglob(RATINGS), *path.rglob("*.tar.gz")] if path.is_dir() else [path]
    raw = None
    if places and places[0].is_file():
        with archives.reading(places[0], "the source archive of vaderSentiment 3.3.2"):
            raw = _unpacked(places[0])
    if raw is None:
        raise ValueError(
            "expected the source archive of vaderSentiment 3.3.2, or a folder with train/pos, "
            f"train/neg, test/pos and test/neg, got {path}. To download the archive:\n\n    pip "
            f"download --no-deps --no-binary :all: --dest {DEFAULT.parent} vaderSentiment==3.3.2"
        )
    texts = []
    for number, line in enumerate(raw.decode("utf-8").splitlines(), start=1):
        try:
            _, rating, text = line.split("\t")
            texts.append((text, float(1 / (1 + np.exp(-1.5 * float(rating))))))
        except ValueError:
            message = f"expected a number, a rating and a text in line {number} of {RATINGS}"
            raise ValueError(f"{message}, got {line[:60]!r}") from None
    return texts


def _unpacked(path: Path, raw: bytes | None = None) -> bytes | None:
    """Return the bytes of the file of ratings, which may be in an archive or a nested archive."""
    raw = path.read_bytes() if raw is None else raw
    if path.name == RATINGS:
        return raw
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive:
            if member.name.endswith((RATINGS, ".tar.gz")):
                stream = archive.extractfile(member)
                found = stream and _unpacked(Path(member.name), stream.read())
                if found:
                    return found
    return None


def fields(texts: Texts, vocabulary: Vocabulary, max_words: int, *, sure: bool) -> dict[str, Any]:
    """Return fields for batches; labels are 0 or 1 if `sure`, otherwise probabilities."""
    ids = [vocabulary.encode(words_of(text)[-max_words:]) for text, _ in texts]
    labels = np.array([label for _, label in texts], np.float32)
    return {"words": ids, "label": (labels > 0.5).astype(np.float32) if sure else labels}


def plot(said: Sequence[Sequence[str]], rows: Sequence[Any]) -> Figure:
    """Plot the predicted probability that a text is positive, after each of its words."""
    figure = Figure(figsize=(8, 3 * len(said)), layout="constrained")
    for row, (tokens, probabilities) in enumerate(zip(said, rows, strict=True)):
        axes = figure.add_subplot(len(said), 1, row + 1)
        axes.plot(probabilities, marker="o", color="#0072B2")
        axes.axhline(0.5, color="grey", linewidth=0.8)
        axes.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right")
        axes.set_ylim(0, 1)
        axes.set_ylabel("probability of positive")
    return figure
