"""Sentences of tagged words: the Hong Kong Cantonese Corpus, or any corpus in columns.

- The Hong Kong Cantonese Corpus (Luke, Wong 2015, CC BY 4.0), in the package pycantonese:
  conversations whose words are tagged by hand as parts of speech. Every tenth conversation is for
  the test, and another tenth chooses the epoch.
- A folder with three files whose names contain train, dev (or valid) and test, plain or as .gz. The
  files are CoNLL-U, such as the treebanks of Universal Dependencies, or have other columns, such as
  CoNLL-2003.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from examples.shipped.folders import matching, only
from seqjax import metrics, sequences
from seqjax.data import Vocabulary, installed_files, read_conll, read_conllu, read_text
from seqjax.data._conllu import FIELDS

__all__ = [
    "Encoder",
    "Sentence",
    "conversations",
    "entities",
    "entity_f1",
    "figures",
    "have_entities",
    "known_entities",
    "load",
    "most_frequent",
]

Sentence = tuple[list[str], list[str]]  # words, tags


def load(
    folder: Path | None,
    word_column: int | None = None,
    tag_column: int | None = None,
    comment: str | None = None,
) -> dict[str, list[Sentence]]:
    """Return the sentences of "train", "dev" and "test".

    Columns are counted from 0. `comment` is that of `read_conll`.
    """
    if folder is None:
        found = conversations()
    else:
        found = _columns(folder, word_column, tag_column, comment)
    for name, side in found.items():
        if not side:
            raise ValueError(f"expected sentences for {name}, got none")
    return found


def _columns(
    folder: Path, word_column: int | None, tag_column: int | None, comment: str | None
) -> dict[str, list[Sentence]]:
    """Read a corpus in columns: files whose names contain train, dev and test."""
    if not folder.is_dir():
        raise ValueError(f"expected a folder, got {folder}")
    found = {}
    for split, names in (("train", ["train"]), ("dev", ["dev", "valid"]), ("test", ["test"])):
        files = matching(folder, *(f"*{name}*" for name in names))
        files = [path for path in files if ".conllu" in path.name] or files
        file = only(files, f"file *{split}*", folder)
        universal = ".conllu" in file.name
        word, tag = (1, 3) if universal else (0, 1)
        word = word if word_column is None else word_column
        tag = tag if tag_column is None else tag_column
        if universal:
            if max(word, tag) >= len(FIELDS):
                raise ValueError(f"expected columns below {len(FIELDS)}, got {max(word, tag)}")
            rows = read_conllu(file, sorted({FIELDS[word], FIELDS[tag]}))
            found[split] = [(row[FIELDS[word]], row[FIELDS[tag]]) for row in rows]
        else:
            rows = read_conll(file, {"words": word, "tags": tag}, comment=comment)
            found[split] = [(row["words"], row["tags"]) for row in rows]
    return found


def _conversation(path: Path) -> list[Sentence]:
    """Read a file in the format CHAT.

    A line that begins with "*SPEAKER:" contains the words of a sentence. A line that begins with
    "%mor:" follows it, and contains "TAG|PRONUNCIATION" for each word.
    """
    sentences, words = [], []
    for line in read_text(path).replace("\n\t", " ").splitlines():  # a tab continues a line
        kind, _, rest = line.partition("\t")
        if kind.startswith("*"):
            words = rest.split()
        elif kind == "%mor:":
            tags = [m.partition("|")[0] if "|" in m else "w" for m in rest.split()]  # w: not a word
            sentences.append((words, tags))
    return [(words, tags) for words, tags in sentences if len(words) == len(tags) > 0]


def conversations() -> dict[str, list[Sentence]]:
    """Return the Hong Kong Cantonese Corpus, divided by conversations."""
    found: dict[str, list[Sentence]] = {"train": [], "dev": [], "test": []}
    for index, path in enumerate(installed_files("pycantonese", "data/hkcancor/*.cha")):
        found[{0: "test", 5: "dev"}.get(index % 10, "train")] += _conversation(path)
    return found


class Encoder:
    """Vocabularies of words, characters and tags, which encode sentences as numbers."""

    def __init__(self, train: Sequence[Sentence], tags: Sequence[str], max_chars: int) -> None:
        self.words = Vocabulary.build(([w.lower() for w in words] for words, _ in train), least=2)
        self.chars = Vocabulary.build((word for words, _ in train for word in words), least=2)
        self.tags, self.max_chars = list(tags), max_chars
        self.spelt: dict[str, np.ndarray] = {}

    def spell(self, word: str) -> np.ndarray:
        """Return the ids of a word's characters, padded [L]; of a long word, only the two ends."""
        if word not in self.spelt:
            ids, first = self.chars.encode(word), self.max_chars // 2
            if len(ids) > self.max_chars:
                ids = np.concatenate([ids[:first], ids[first - self.max_chars :]])
            self.spelt[word] = np.pad(ids, (0, self.max_chars - len(ids)))
        return self.spelt[word]

    def __call__(self, sentences: Sequence[Sentence]) -> dict[str, Any]:
        """Return a dict of fields for `seqjax.data.batches`: ids of words, characters and tags."""
        number = {tag: index for index, tag in enumerate(self.tags)}
        return {
            "words": [self.words.encode(map(str.lower, words)) for words, _ in sentences],
            "chars": [np.stack([self.spell(word) for word in words]) for words, _ in sentences],
            "tags": [np.array([number[tag] for tag in tags], np.int32) for _, tags in sentences],
        }


def most_frequent(train: Sequence[Sentence], texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the most frequent tag of each word; for unknown words the most frequent tag of all."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in train:
        for word, tag in zip(words, tags, strict=True):
            counts[word][tag] += 1
    best = {word: count.most_common(1)[0][0] for word, count in counts.items()}
    [(rest, _)] = sum(counts.values(), Counter()).most_common(1)
    return [[best.get(word, rest) for word in words] for words in texts]


def known_entities(train: Sequence[Sentence], texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return tags that mark the entities of the training sentences wherever their words occur.

    If entities overlap, the one that begins first is marked, and of several that begin at the same
    word, the longest. An entity of several kinds has its most frequent kind.
    """
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for words, wanted in train:
        for first, after, kind in entities(wanted):
            counts[tuple(words[first:after])][kind] += 1
    longest = max(map(len, counts), default=0)
    found = []
    for text in texts:
        tags, t = ["O"] * len(text), 0
        while t < len(text):
            sizes = range(min(longest, len(text) - t), 0, -1)
            size = next((n for n in sizes if tuple(text[t : t + n]) in counts), 0)
            if size:
                [(kind, _)] = counts[tuple(text[t : t + size])].most_common(1)
                tags[t : t + size] = [f"B-{kind}"] + [f"I-{kind}"] * (size - 1)
            t += max(size, 1)
        found.append(tags)
    return found


PREFIXES = ("B-", "I-", "E-", "L-", "S-", "U-")
"""Prefixes of tags that mark entities, in the schemes IOB, BIOES and BILOU."""


def have_entities(sentences: Sequence[Sentence]) -> bool:
    """Return whether tags mark entities: some begin with a prefix of `PREFIXES`, and one is "O".

    In other tag sets, such as N-SG or S-PL, there is no tag "O" for words outside of entities.
    """
    tags = {tag for _, tags in sentences for tag in tags}
    return "O" in tags and any(map(_marks, tags))


def _marks(tag: str) -> bool:
    """Return whether a tag marks a word of an entity."""
    return tag.startswith(PREFIXES)


def _continues(before: str, tag: str) -> bool:
    """Return whether `tag` continues the entity that the tag `before` marks."""
    return tag[:2] in ("I-", "E-", "L-") and before[:2] in ("B-", "I-") and tag[2:] == before[2:]


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Return the entities that tags such as "B-PER" and "I-PER" mark.

    An entity is a tuple: index of its first word, index after its last word, and kind ("PER").
    """
    found, first = set(), 0
    for t, (before, tag) in enumerate(zip(["O", *tags], [*tags, "O"], strict=True)):
        if not _continues(before, tag):
            if _marks(before):
                found.add((first, t, before[2:]))
            first = t
    return found


def entity_f1(
    tags: ArrayLike, guesses: ArrayLike, *, lengths: ArrayLike, names: Sequence[str]
) -> metrics.Mean:
    """Return the F1 of whole entities, as a metric: an entity is right with its words and kind.

    F1 is 2 · right / (entities + predicted entities), so the means of batches merge exactly.

    Args:
      tags: int [B, T], the tags of the words.
      guesses: int [B, T], the predicted tags.
      lengths: int [B], the number of words of each sentence.
      names: the name of each tag, such as "B-PER".
    """
    mask = sequences.lengths_to_mask(lengths, np.shape(tags)[1])
    marks = jnp.array([_marks(name) for name in names])
    continues = jnp.array([[_continues(before, tag) for tag in names] for before in names])
    kinds = [name[2:] for name in names]
    kind = jnp.array([kinds.index(name) for name in kinds])

    def spans(tags: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return where entities begin [B, T], and the last step from each step on [B, T]."""
        inside = continues[tags[:, :-1], tags[:, 1:]] & mask[:, 1:]
        edge = jnp.ones_like(mask[:, :1])
        begins = marks[tags] & mask & jnp.concatenate([edge, ~inside], axis=1)
        last = jnp.concatenate([~inside, edge], axis=1)
        steps = jnp.where(last, jnp.arange(tags.shape[1]), tags.shape[1])
        return begins, jax.lax.cummin(steps, axis=1, reverse=True)

    tags, guesses = jnp.asarray(tags), jnp.asarray(guesses)
    (begins, ends), (guessed, guessed_ends) = spans(tags), spans(guesses)
    right = begins & guessed & (ends == guessed_ends) & (kind[tags] == kind[guesses])
    return metrics.Mean(2.0 * right.sum(), begins.sum() + guessed.sum())


def figures(
    train: Sequence[Sentence], test: Sequence[Sentence], found: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return the metrics of the predicted tags and of two baselines.

    The baselines are the most frequent tag of each word and, if the tags of the training sentences
    mark entities, these entities.
    """
    known = {word for words, _ in train for word in words}
    texts, marked = [words for words, _ in test], have_entities(train)
    figures = _figures(test, found, known, marked=marked)
    baselines = {"most_frequent_tag": most_frequent(train, texts)}
    if "entity_f1" in figures:
        baselines["known_entities"] = known_entities(train, texts)
    for name, guesses in baselines.items():
        some = _figures(test, guesses, known, marked=marked)
        figures |= {f"{name}_{k}": v for k, v in some.items()}
    return figures


def _figures(
    test: Sequence[Sentence], found: Sequence[Sequence[str]], known: set[str], *, marked: bool
) -> dict[str, float]:
    """Return accuracy over all words, over unseen words and, if tags mark entities, their F1."""
    rows = [
        (tag == guess, word in known)
        for (words, tags), guesses in zip(test, found, strict=True)
        for word, tag, guess in zip(words, tags, guesses, strict=True)
    ]
    right, seen = np.array(rows).T
    figures = {"accuracy": float(right.mean())}
    if not seen.all():
        figures["accuracy_unseen_words"] = float(right[~seen].mean())
    if not marked:
        return figures
    spans = [
        (entities(tags), entities(guesses)) for (_, tags), guesses in zip(test, found, strict=True)
    ]
    right = sum(len(a & b) for a, b in spans)
    wanted, guessed = (sum(map(len, side)) for side in zip(*spans, strict=True))
    if wanted:
        figures["entity_f1"] = 2 * right / (wanted + guessed)
        figures["entity_precision"] = right / max(guessed, 1)
        figures["entity_recall"] = right / wanted
    return figures
