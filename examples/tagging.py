"""Tagging (synchronised many-to-many): a part of speech, or another tag, for every word.

To tag sequences of your own, pass --data FOLDER, or copy `Tagger`, `predict`, and `loss_fn` and
`metric_fn` in `main`.

A bidirectional LSTM reads the characters of each word. A second bidirectional LSTM reads, for each
word, an embedding and the output of the first LSTM. All rare words have the embedding of unknown
words. A softmax, or with --crf a conditional random field over neighbouring tags, gives the tags.
If the tags mark named entities (B-PER, I-PER, O), the epoch with the best F1 of whole entities is
used, otherwise that with the best accuracy. A tag that does not occur in the training sentences is
never predicted, so it counts as an error.

The default data are the Hong Kong Cantonese Corpus (Luke, Wong 2015), conversations tagged by hand,
which the package pycantonese contains. Every tenth conversation is for the test, and another tenth
is used to choose the best epoch. --data reads any corpus in columns, such as a treebank of
Universal Dependencies:

    python -m examples.tagging --say "我 想 飲 凍 檸茶 呀 !"
    python -m examples.tagging --data UD_English-EWT --say "A word nobody ever saw : blorptastic ."
    python -m examples.tagging --data conll2003 --tag-column 3 --crf --out out/entities
    python -m examples.tagging --data WNUT --comment "" --epochs 15 --crf --out out/entities
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import tagged_words
from seqjax import crf, metrics, nn, sequences, viz
from seqjax.data import Vocabulary, batches, bucket_boundaries


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the tagging example."""

    data: Path | None = None
    """Folder with three files whose names contain train, dev (or valid) and test. The files are
    CoNLL-U or have other columns, plain or as .gz. By default, the corpus in the package
    pycantonese is read."""
    word_column: int | None = None
    """Column of the words, counted from 0; by default 1 in .conllu files, otherwise 0."""
    tag_column: int | None = None
    """Column of the tags; by default 3 in .conllu files, otherwise 1."""
    comment: str | None = None
    """Characters with which a comment line begins; "" if there are no comments, which is necessary
    if a line of the file begins with "#" and is a word. Not for .conllu files."""
    say: tuple[str, ...] = ()
    """Sentences to tag at the end, with spaces between words."""
    crf: bool = False
    """Use a conditional random field in place of the softmax."""
    hidden_size: int = 100
    """Number of units in each direction of the layers that read words."""
    num_layers: int = 1
    """Number of layers that read words."""
    embed_size: int = 64
    """Size of a word's embedding."""
    char_size: int = 32
    """Size of a character's embedding, and number of units in each direction that reads
    characters."""
    max_chars: int = 12
    """Maximum number of characters of a word. Of a longer word, only the two ends are read."""
    dropout: float = 0.5
    """Dropout rate on the inputs of the word layers, between them, and before the softmax."""
    word_dropout: float = 0.3
    """Share of the words whose embedding training replaces by that of unknown words."""
    epochs: int = 5
    """Number of passes through the training sentences."""
    learning_rate: float = 5e-3
    average: float = 0.99
    """Decay of a running average of the weights. The final model has the averaged weights; 0 turns
    averaging off."""
    out: Path = Path("out/tagging")
    """Folder for checkpoints, results and confusion.png."""
    after_training: ClassVar[tuple[str, ...]] = ("say",)
    may_be_zero: ClassVar[tuple[str, ...]] = ("seed", "word_column", "tag_column")
    shares: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout")


class Tagger(nnx.Module):
    """A network that reads the characters and the words, and scores each tag for each word.

    `seen` says which tags occur in the training sentences; only these are predicted.
    """

    def __init__(
        self, config: Config, words: int, chars: int, seen: Sequence[bool], rngs: nnx.Rngs
    ) -> None:
        size, width = config.char_size, config.embed_size + 2 * config.char_size
        self.word_dropout, self.dropout = config.word_dropout, nnx.Dropout(config.dropout)
        self.words = nnx.Embed(words, config.embed_size, rngs=rngs)
        self.chars = nnx.Embed(chars, size, rngs=rngs)
        self.spelling = nn.LSTM(size, size, bidirectional=True, dtype=config.dtype, rngs=rngs)
        self.context = nn.LSTM(
            width, config.hidden_size, num_layers=config.num_layers, bidirectional=True,
            dropout=config.dropout, dtype=config.dtype, rngs=rngs,
        )  # fmt: skip
        self.head = nnx.Linear(self.context.output_size, len(seen), rngs=rngs)
        self.chain = crf.CRF(len(seen)) if config.crf else None
        self.seen = tuple(seen)

    def __call__(self, batch: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return scores [B, T, tags]; training needs `rngs`.

        There are only some dozens of tags, and the conditional random field reads the scores of all
        of them. Therefore the scores are computed as one array. For a large vocabulary,
        `losses.linear_cross_entropy` needs less memory.
        """
        words, chars = batch["words"], batch["chars"]  # [B, T], [B, T, L]
        if rngs is not None:
            lost = jax.random.bernoulli(rngs.dropout(), self.word_dropout, words.shape)
            words = jnp.where(lost, Vocabulary.unknown, words)
        letters = (chars != Vocabulary.padding).sum(-1)
        spelt = self.spelling(self.chars(chars), lengths=letters, return_sequences=False).outputs
        xs = self.dropout(jnp.concatenate([self.words(words), spelt], axis=-1), rngs=rngs)
        outputs = self.context(xs, lengths=batch["lengths"], rngs=rngs).outputs
        return self.head(self.dropout(outputs, rngs=rngs))

    def loss(self, scores: jax.Array, batch: Any) -> metrics.Mean:
        """Return the mean of -log p of the correct tags over words."""
        lengths, tags = batch["lengths"], batch["tags"]
        if self.chain is None:
            mask = sequences.lengths_to_mask(lengths, tags.shape[1])
            return metrics.cross_entropy(scores, tags, mask=mask)
        nats = self.chain.loss(scores, tags, lengths=lengths, per_sequence=True)
        return metrics.Mean(nats.sum(), lengths.sum())

    def best(self, scores: jax.Array, batch: Any) -> jax.Array:
        """Return the predicted tags, int [B, T]."""
        scores = jnp.where(jnp.array(self.seen), scores, -1e9)
        if self.chain is None:
            return scores.argmax(axis=-1)
        return self.chain.decode(scores, lengths=batch["lengths"]).tags


say = nnx.jit(lambda model, batch: model.best(model(batch), batch))


def predict(
    model: Tagger, encoder: tagged_words.Encoder, texts: Sequence[Sequence[str]]
) -> list[list[str]]:
    """Return a tag for each word; words need not occur in the training set."""
    if not texts:
        return []
    examples = encoder([(list(words), encoder.tags[:1] * len(words)) for words in texts])
    keys, found = ("words", "chars", "tags"), []
    for batch in batches(examples, batch_size=min(len(texts), 128), sequence_keys=keys):
        ids = np.asarray(say(model, batch))
        found += [row[:length] for row, length in zip(ids, batch["lengths"], strict=True)]
    return [[encoder.tags[index] for index in row] for row in found[: len(texts)]]


def main(config: Config) -> dict[str, float]:
    """Train, evaluate, plot and tag; return the metrics of the test sentences."""
    config.prepare()
    with script.blaming("data"):
        columns = config.word_column, config.tag_column
        data = tagged_words.load(config.data, *columns, config.comment)
    train, dev, test = data["train"], data["dev"], data["test"]
    tags = sorted({tag for side in data.values() for _, tags in side for tag in tags})
    encoder = tagged_words.Encoder(train, tags, config.max_chars)
    entities = tagged_words.have_entities(train) and any(
        tagged_words.entities(tags) for _, tags in dev
    )
    for name, side in data.items():
        print(f"{name}: {len(side):,} sentences, {sum(len(words) for words, _ in side):,} words")
    known = {tag for _, tags in train for tag in tags}
    seen = [tag in known for tag in tags]
    if not all(seen):
        unseen = ", ".join(tag for tag in tags if tag not in known)
        print(f"tags that do not occur in train, which count as errors: {unseen}")
    model = Tagger(config, len(encoder.words), len(encoder.chars), seen, nnx.Rngs(config.seed))

    def loss_fn(model: Tagger, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, Any]:
        return model.loss(model(batch, rngs), batch).value(), {}

    def metric_fn(model: Tagger, batch: Any) -> dict[str, metrics.Mean]:
        scores = model(batch)
        guesses, rows = model.best(scores, batch), batch["lengths"]
        right = metrics.Mean.of(guesses == batch["tags"], lengths=rows)
        whole = tagged_words.entity_f1(batch["tags"], guesses, lengths=rows, names=tags)
        return {"loss": model.loss(scores, batch), "accuracy": right, "entity_f1": whole}

    lengths = [len(words) for words, _ in train + dev]
    options: dict[str, Any] = {
        "sequence_keys": ("words", "chars", "tags"),
        # Each length is repeated for each of its words, so that buckets have about equally many
        # words.
        "boundaries": bucket_boundaries(np.repeat(lengths, lengths), 4),
    }
    result = config.fit(
        model, loss_fn, config.batches(encoder(train), **options), metric_fn=metric_fn,
        eval_batches=list(batches(encoder(dev), batch_size=config.batch_size, **options)),
        monitor="eval_entity_f1" if entities else "eval_accuracy", mode="max",
    )  # fmt: skip

    found = predict(result.model, encoder, [words for words, _ in test])
    tags_of = ([tag for tags in side for tag in tags] for side in ((t for _, t in test), found))
    config.save_figure(viz.confusion(*tags_of), "confusion.png")
    said = [words for words in map(str.split, config.say) if words]
    for words, guesses in zip(said, predict(result.model, encoder, said), strict=True):
        print("  " + " ".join(f"{word}/{tag}" for word, tag in zip(words, guesses, strict=True)))
    return config.report(result, **tagged_words.figures(train, test, found))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.tagging", description=__doc__))
