"""Does a review like the film? Sentiment, many-to-one: many words in, one number out.

The data is 10,605 sentences of film reviews, each rated from -4 to 4 by twenty people or more
(Hutto, Gilbert 2014), from the source archive of vaderSentiment; positive is what they rated above
0 in the mean. Or whole reviews of IMDB (Maas et al. 2011): --data aclImdb or --tfds imdb_reviews.

    python examples/sentiment.py --say "Not a bad film, but nothing I would watch again."
    python examples/sentiment.py --data aclImdb --preset tutorial --out out/tutorial

A tenth of the sentences is for the test and a tenth for choosing the epoch, by a hash of the words:
the same ones for every seed, and equal sentences on one side.
"""

import dataclasses
import io
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure

from seqjax import cells, losses, metrics, nn, sequences, training
from seqjax.data import (
    Vocabulary,
    batches,
    bucket_boundaries,
    class_files,
    pad,
    read_text,
    tfds_source,
)

DEFAULT = Path("out/data/vaderSentiment-3.3.2.tar.gz")
RATINGS = "movieReviewSnippets_GroundTruth.txt"

Texts = list[tuple[str, float]]
"""Texts, and the probability from 0 to 1 that a reader calls each positive."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains a recurrent reader and a bag of words; draws how the reader's mind changes."""

    data: Path = DEFAULT
    """The source archive of vaderSentiment 3.3.2, or its folder; or the folder aclImdb; with
    --tfds, the folder of prepared sets."""
    tfds: str | None = None
    """A set of tensorflow-datasets with fields text and label instead, such as imdb_reviews."""
    preset: Literal["strong", "tutorial"] = "strong"
    """tutorial is the SimpleRNN of a Keras tutorial: it changes the options left as they are."""
    say: tuple[str, ...] = (
        "Not a bad film, but nothing I would watch again.",
        "What begins as a dull and predictable story becomes a moving and wonderful film.",
    )
    """Texts for which the plot shows the prediction after each word."""
    cell: str = "gru"
    """A name of seqjax.CELLS."""
    bidirectional: bool = True
    """Whether the text is read from both ends."""
    pooling: Literal["mean_max", "last"] = "mean_max"
    """What is kept of the outputs: their mean and maximum over the words, or the last one."""
    hidden_size: int = 64
    """Units of each direction."""
    embed_size: int = 64
    """Features of a word."""
    vocabulary_size: int = 20_000
    """Words that are known at most."""
    max_words: int = 500
    """Of a longer text the last so many words are read."""
    dropout: float = 0.5
    """Rate on the features of words, and before the logit."""
    word_dropout: float = 0.3
    """Share of the words that training replaces by the unknown word."""
    learning_rate: float = 3e-3
    """Adam's at its highest; the tutorial's is RMSprop's and stays as it is."""
    patience: int = 5
    """After how many epochs without a better one training ends."""
    out: Path = Path("out/sentiment")
    """Folder for checkpoints, figures and prefixes.png."""
    shares: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout")


TUTORIAL: dict[str, Any] = {
    "cell": "elman", "bidirectional": False, "pooling": "last", "hidden_size": 32, "embed_size": 32,
    "vocabulary_size": 10_000, "dropout": 0.0, "word_dropout": 0.0, "learning_rate": 1e-3,
}  # fmt: skip


class Reader(nnx.Module):
    """Embedded words, a recurrent layer, what is kept of its outputs, one logit."""

    def __init__(self, config: Config, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        with training.blaming("cell"):
            cell = cells.make_cell(config.cell, config.embed_size, config.hidden_size)
        self.embedding = nnx.Embed(vocabulary, config.embed_size, rngs=rngs)
        self.recurrent = nn.Recurrent(cell, bidirectional=config.bidirectional, rngs=rngs)
        self.pools = config.pooling == "mean_max"
        width = self.recurrent.output_size * (2 if self.pools else 1)
        self.dropout = nnx.Dropout(config.dropout)
        self.head = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, words: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits [B] of words [B, T]; training needs `rngs` for dropout."""
        xs = self.dropout(self.embedding(words), rngs=rngs)
        kept = self.recurrent(xs, lengths=lengths, return_sequences=self.pools).outputs
        if self.pools:
            mean = sequences.mean_pool(kept, lengths=lengths)
            kept = jnp.concatenate([mean, sequences.max_pool(kept, lengths=lengths)], axis=-1)
        return self.head(self.dropout(kept, rngs=rngs))[..., 0]


class BagOfWords(nnx.Module):
    """The baseline, logistic regression: every word has a weight, their order none."""

    def __init__(self, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        self.weights = nnx.Embed(vocabulary, 1, embedding_init=nnx.initializers.zeros, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(()))

    def __call__(self, words: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits [B] of words [B, T]."""
        real = sequences.lengths_to_mask(lengths, words.shape[-1])
        return jnp.where(real, self.weights(words)[..., 0], 0.0).sum(axis=-1) + self.bias[...]


def words_of(text: str) -> list[str]:
    """Words in lower case, and the marks that end a sentence."""
    text = text.lower().replace("<br />", " ")  # as IMDB's reviews have it
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*|[!?.]", text)


def load(config: Config) -> dict[str, Texts]:
    """The texts for "train", "dev" and "test"."""
    with training.blaming("data" if config.tfds is None else "tfds"):
        if config.tfds is not None:
            train, test = (read_tfds(config, split) for split in ("train", "test"))
        elif (config.data / "train").is_dir():
            train, test = (read_folder(config.data / split) for split in ("train", "test"))
        else:
            train, test = divided(read_ratings(config.data), 10)
    train, dev = divided(train, 5 if config.preset == "tutorial" else 9)
    found = {"train": train, "dev": dev, "test": test}
    for split, texts in found.items():
        if not texts:
            raise SystemExit(f"--data: expected texts for {split}, got none")
    return found


def divided(texts: Texts, parts: int) -> tuple[Texts, Texts]:
    """The texts without one part of so many, and that part; equal ones are on one side."""
    sides: tuple[Texts, Texts] = ([], [])
    for text, label in texts:
        key = f"{parts} {' '.join(words_of(text))}".encode()
        sides[zlib.crc32(key) % parts == 0].append((text, label))
    return sides


def read_tfds(config: Config, split: str) -> Texts:
    """The texts of a set of tensorflow-datasets."""
    folder = None if config.data == DEFAULT else config.data
    rows = tfds_source(str(config.tfds), split=split, data_dir=folder)
    if not {"text", "label"} <= set(rows[0]):
        raise ValueError(f"expected the fields text and label, got {', '.join(rows[0])}")
    texts = [(row["text"], float(row["label"])) for row in rows]
    return [(text.decode() if isinstance(text, bytes) else text, y) for text, y in texts]


def read_folder(folder: Path) -> Texts:
    """The files of the folders neg and pos."""
    paths, labels, _ = class_files(folder, "*.txt", names=("neg", "pos"))
    return [(read_text(path), float(y)) for path, y in zip(paths, labels, strict=True)]


def read_ratings(path: Path) -> Texts:
    """The rated sentences; a rating's probability is its logistic function."""
    places = [*path.rglob(RATINGS), *path.rglob("*.tar.gz")] if path.is_dir() else [path]
    raw = unpacked(places[0]) if places and places[0].is_file() else None
    if raw is None:
        raise ValueError(
            "expected the source archive of vaderSentiment 3.3.2, or a folder with train/pos, "
            f"train/neg, test/pos and test/neg, got {path}. The archive comes by\n\n    pip "
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


def unpacked(path: Path, raw: bytes | None = None) -> bytes | None:
    """The ratings' file: itself, or in an archive, or in an archive that is in an archive."""
    raw = path.read_bytes() if raw is None else raw
    if path.name == RATINGS:
        return raw
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive:
            if member.name.endswith((RATINGS, ".tar.gz")):
                stream = archive.extractfile(member)
                found = stream and unpacked(Path(member.name), stream.read())
                if found:
                    return found
    return None


def examples(texts: Texts, vocabulary: Vocabulary, config: Config, sure: bool) -> dict[str, Any]:
    """Fields for batches; labels are 0 or 1 if `sure`, else as probable as they are."""
    ids = [vocabulary.encode(words_of(text)[-config.max_words :]) for text, _ in texts]
    labels = np.array([label for _, label in texts], np.float32)
    return {"words": ids, "label": (labels > 0.5).astype(np.float32) if sure else labels}


def train(
    config: Config, model: nnx.Module, sets: dict[str, dict[str, Any]]
) -> tuple[training.FitResult, dict[str, float]]:
    """Trains the reader or the baseline, and measures what came out on the test set."""

    def scores(model: Any, words: Any, batch: Any, rngs: Any = None) -> dict[str, Any]:
        logits = model(words, batch["lengths"], rngs)
        return {"logits": logits, "labels": batch["label"], "mask": batch["weights"]}

    def loss_fn(model: Any, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        forgotten = jax.random.bernoulli(rngs.words(), config.word_dropout, batch["words"].shape)
        words = jnp.where(forgotten, Vocabulary.unknown, batch["words"])
        found = scores(model, words, batch, rngs)
        return losses.binary_cross_entropy(**found), {"accuracy": metrics.binary_accuracy(**found)}

    def metric_fn(model: Any, batch: Any) -> dict[str, metrics.Mean]:
        found = scores(model, batch["words"], batch)
        loss, accuracy = metrics.binary_cross_entropy(**found), metrics.binary_accuracy(**found)
        return {"loss": loss, "accuracy": accuracy}

    lengths = [len(words) for words in sets["train"]["words"]]
    options: dict[str, Any] = {"sequence_keys": ("words",)}
    dev, test = (batches(sets[split], batch_size=256, **options) for split in ("dev", "test"))
    source = config.batches(sets["train"], boundaries=bucket_boundaries(lengths, 4), **options)
    how: dict[str, Any] = {"eval_batches": dev, "metric_fn": metric_fn}
    if config.preset == "tutorial":  # it takes the last epoch
        optimizer = training.optimizer(config.learning_rate, name="rmsprop")
        how |= {"monitor": None, "optimizer": optimizer}
    else:
        how |= {"monitor": "eval_accuracy", "mode": "max", "patience": config.patience}
    result = config.fit(model, loss_fn, source, **how)
    return result, training.measure(result.model, metric_fn, test)


def plot(config: Config, model: Any, vocabulary: Vocabulary) -> None:
    """Prints what the model says of `say`, and draws it for the beginning up to each word."""
    said = [words[-config.max_words :] for words in map(words_of, config.say) if words]
    if not said:
        return
    prefixes, lengths = pad([vocabulary.encode(w[: n + 1]) for w in said for n in range(len(w))])
    read = jax.jit(lambda model, *inputs: jax.nn.sigmoid(model(*inputs)))
    ends = np.cumsum([len(words) for words in said])
    figure = Figure(figsize=(8, 3 * len(said)), layout="constrained")
    rows = np.split(np.asarray(read(model, prefixes, lengths)), ends[:-1])
    for row, (words, probabilities) in enumerate(zip(said, rows, strict=True)):
        print(f"  {probabilities[-1]:.0%} positive: {' '.join(words)}")
        axes = figure.add_subplot(len(said), 1, row + 1)
        axes.plot(probabilities, marker="o", color="#0072B2")
        axes.axhline(0.5, color="grey", linewidth=0.8)
        axes.set_xticks(range(len(words)), words, rotation=60, ha="right")
        axes.set_ylim(0, 1)
        axes.set_ylabel("probability of positive")
    figure.savefig(config.out / "prefixes.png", dpi=150)


def main(config: Config) -> dict[str, float]:
    """Trains, measures and draws; returns the figures of the test set."""
    if config.preset == "tutorial":
        config = config.with_defaults(**TUTORIAL)
    config.prepare()
    texts = load(config)
    vocabulary = Vocabulary.build(
        (words_of(text) for text, _ in texts["train"]), size=config.vocabulary_size
    )
    vocabulary.save(config.out / "vocabulary.json")
    sets = {split: examples(texts[split], vocabulary, config, split != "train") for split in texts}
    sizes = ", ".join(f"{len(texts[split]):,} {split}" for split in texts)
    print(f"texts: {sizes}; {len(vocabulary):,} words")
    # The baseline chooses its epoch like the reader, whatever the preset.
    bag = dataclasses.replace(
        config, out=config.out / "bag_of_words", preset="strong", learning_rate=5e-3
    )
    _, baseline = train(bag, BagOfWords(len(vocabulary), rngs=nnx.Rngs(0)), sets)
    result, found = train(config, Reader(config, len(vocabulary), rngs=nnx.Rngs(config.seed)), sets)
    majority = float(sets["train"]["label"].mean() > 0.5)
    plot(config, result.model, vocabulary)
    return config.report(
        result,
        majority_accuracy=float((sets["test"]["label"] == majority).mean()),
        bag_of_words_accuracy=baseline["accuracy"],
        accuracy=found["accuracy"],
        loss=found["loss"],
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
